"""The KL to a reference.

estimators  pure functions of log-probabilities
shaping     the KL as a part of the reward
schedules   how β changes
"""
