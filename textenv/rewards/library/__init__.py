"""The rewards that have names (`textenv.rewards.names`), one file each, and their parts."""
