"""Experience: what a policy does in an environment, and what becomes of it.

environments  the environment of an agent: made, checked, bound, described
env_checks    what is no environment for an agent
episodes      one whole episode for each row of a text environment that scores in batches
steps         a fixed number of steps from any Gymnasium vector environment
segments      rows of steps, cut into one row for each episode
collect       which of the two an environment gets
env_state     where an environment is between two steps
undo          an error leaves everything as it was before the rollout
rollout       collected steps, their returns and statistics, and batches of them
"""
