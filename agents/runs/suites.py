"""Suites: tasks that ask for different things, each with its budget, for ``compare --suite``.

To add a task, register it (`textenv.tasks`) and give it a line here. What an agent reached is
normalised in each task by the untouched model and the optimum, so that tasks can be put together
(`agents.evaluation.aggregates`).
"""

# For each suite its tasks, with the tokens that a run may learn from. GuessNumber-v0 is none of
# them: with its settings it takes 200,000, more than all four together.
SUITES: dict[str, dict[str, int]] = {
    "small": {  # the bundled model, two cores
        "Sentiment-v0": 25_000,  # a style, with a score for every text
        "LastWord-v0": 35_000,  # a target that one text in fifty hits
        "FifteenWords-v0": 35_000,  # to stop at the right place, which takes counting
        "Duet-v0": 30_000,  # a dialogue with a reward in each turn
    }
}
SEEDS = 3
EPISODES = 4096  # of the reference, of which rare targets need many
