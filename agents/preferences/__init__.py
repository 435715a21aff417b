"""Learning from preferences: pairs of texts, who labels them, and what follows from the labels.

pairs         pairs of agents' texts, preferences, labels with noise, files of other projects
labels        the page on which people choose
reward_model  a reward model from preferences
calibration   how right a judge of pairs is
duels         which of several agents writes better texts
"""
