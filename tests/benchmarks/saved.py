"""What a benchmark has found: printed, and kept in ``results`` where it is asked for."""

from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def publish(name: str, command: str, text: str, save: bool) -> None:
    """Print a result, and with ``save`` write it to the file of this name, below its command."""
    print(text)
    if save:
        (RESULTS / name).write_text(f"# `python tests/benchmarks/{command}`\n\n{text}")
    else:
        print(f"Not kept; with --save it replaces {RESULTS.name}/{name}.")
