"""``python -m agents``, the same as the command ``textenv``: see `agents.cli`."""

from agents.cli import main

if __name__ == "__main__":
    main()
