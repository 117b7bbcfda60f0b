"""`llmstage`, and `python -m llmstage`."""

import os
import sys

from llmstage.allocator import restart, trains


def entry() -> None:
    """The console script."""
    if os.environ.setdefault("LLMSTAGE_ENTRY", "console") == "console" and trains(sys.argv[1:]):
        restart(sys.argv[1:])
    from llmstage.cli.command import main  # Hydra and all that; the process that starts again does without

    sys.exit(main())


if __name__ == "__main__":
    entry()
