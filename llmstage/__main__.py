"""The console script `llmstage`, and `python -m llmstage`."""

import os
import sys

from llmstage.allocator import restart, trains


def entry() -> None:
    """Run the command line of this process and exit with its status."""
    arguments = sys.argv[1:]
    if os.environ.setdefault("LLMSTAGE_ENTRY", "console") == "console" and trains(arguments):
        restart(arguments)
    # Hydra is imported here, below the restart: the process that starts again does without it until then. The overview
    # and --help do without it altogether.
    from llmstage.cli.help import print_text, quick_answer

    answer = quick_answer(arguments)
    if answer is not None:
        sys.exit(print_text(answer))
    from llmstage.cli.command import main

    sys.exit(main())


if __name__ == "__main__":
    entry()
