"""The tasks of reasoning-gym, an optional package, as rows for a text environment."""

from typing import Annotated, Any

from textenv.arguments import Range, check_ranges
from textenv.sharing import is_data, plain


def rows(
    name: str,
    size: Annotated[int, Range(1)] = 200,
    seed: Annotated[int, Range(0)] = 0,
    **config: Any,
) -> list[dict[str, Any]]:
    """Rows of a dataset of reasoning-gym, for an environment with the reward ``"reasoning"``: plain
    data with the columns ``prompt``, ``dataset``, ``config``, and ``entry``, from which
    reasoning-gym scores an answer.

        rows = textenv.tasks.reasoning.rows("chain_sum", size=200, seed=0, max_terms=3)
        env = gym.make("TextGen-v0", prompts=rows, reward="reasoning", max_new_tokens=64, chat=True)

    Another seed gives other rows, but those of a small dataset may repeat: leave rows out of the
    evaluation whose prompt is in training.

    Args:
        name: The dataset, such as "chain_sum" or "letter_counting".
        size: The number of rows.
        seed: The same seed gives the same rows.
        config: Further arguments of the dataset.

    Raises:
        ValueError: reasoning-gym is not installed, it has no such dataset, an argument is not
            valid, or the rows are not plain data.
    """
    from textenv.rewards.library.reasoning_reward import reasoning_gym

    check_ranges(rows, {"size": size, "seed": seed})
    package = reasoning_gym()
    try:
        dataset = package.create_dataset(name, size=size, seed=seed, **config)
        entries = [plain(dataset[index]) for index in range(size)]
    except (ValueError, TypeError, AssertionError) as error:
        raise ValueError(
            f"reasoning-gym cannot make the dataset {name!r} with size={size} and {config}: {error}"
        ) from error
    config = plain(config)
    if not is_data(entries) or not is_data(config):
        raise ValueError(
            f"The dataset {name!r} of reasoning-gym has entries or arguments that are not plain "
            "data, which an agent could not save: choose another one."
        )
    return [
        {"prompt": entry["question"], "dataset": name, "config": config, "entry": entry}
        for entry in entries
    ]
