"""Learning from preferences: pairs of texts, who labels them, and what follows from the labels.

pairs         pairs and preferences, labels with noise, files of other projects
sampling      texts of agents on the same prompts, and pairs of them
labels        the page on which people choose
reward_model  a reward model from preferences
calibration   how right a judge of pairs is
duels         which of several agents writes better texts
"""
