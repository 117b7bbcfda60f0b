"""Names that people type: the closest known name, and the module that a name stands for. No torch here."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType

from llmstage.errors import Refused, UserError


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the closest known name, or an empty string; it can be appended to a sentence."""
    names = list(known)
    close = get_close_matches(word, names, n=1, cutoff=0.6)
    if not close:  # `lr` for `optim.lr`: compare the last parts of the keys
        tails = {name.rsplit(".", 1)[-1]: name for name in names}
        near = get_close_matches(word.rsplit(".", 1)[-1], tails, n=1, cutoff=0.6)
        close = [tails[near[0]]] if near else []
    return f" Did you mean '{close[0]}'?" if close else ""


def unknown(what: str, word: str, known: Iterable[str]) -> str:
    """Return one sentence with the unknown word, the closest known one, and all known ones."""
    names = sorted(known)
    return f"Unknown {what} '{word}'.{did_you_mean(word, names)} Known: {', '.join(names)}."


def load_module(package: str, name: str, *, trusted: bool) -> ModuleType:
    """Import `llmstage.<package>.<name>`, or the dotted path `name` where the command line names it.

    `trusted=False` means that the name comes from a run.yaml, a checkpoint or a model folder. A dotted path is then
    refused (status 8), because a config that comes with data must not choose which code runs.
    """
    if "." in name:
        if not trusted:
            raise Refused(
                f"'{name}' names code outside llmstage, and the name comes from a file, not from the command line. "
                f"If you trust it, name it on the command line (or in a --config-dir given there)."
            )
        path = name
    else:
        path = f"llmstage.{package}.{name}"
    try:
        return import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not (path == error.name or path.startswith(error.name + ".")):
            raise  # the module exists; one of ITS imports is missing
        raise UserError(
            f"There is no module '{path}'. Check the spelling. A module of your own is named by its dotted path, such as "
            f"my_tasks.shouting, and its folder must be in PYTHONPATH."
        ) from None
