"""`python -m llmstage`."""

from llmstage.cli import entry

if __name__ == "__main__":
    entry()
