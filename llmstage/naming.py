"""Words typed by people: what they meant, and which module a name stands for. No torch here."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType

from llmstage.errors import Refused, UserError


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the nearest known word, or an empty string; ready to be appended to a sentence."""
    names = list(known)
    close = get_close_matches(word, names, n=1, cutoff=0.6)
    if not close:  # `lr` for `optim.lr`: the last part says more than the whole
        tails = {name.rsplit(".", 1)[-1]: name for name in names}
        near = get_close_matches(word.rsplit(".", 1)[-1], tails, n=1, cutoff=0.6)
        close = [tails[near[0]]] if near else []
    return f" Did you mean '{close[0]}'?" if close else ""


def unknown(kind: str, word: str, known: Iterable[str]) -> str:
    """One sentence that names the wrong word, the nearest right one, and all right ones."""
    names = sorted(known)
    return f"Unknown {kind} '{word}'.{did_you_mean(word, names)} Known: {', '.join(names)}."


def load_module(package: str, name: str, *, trusted: bool) -> ModuleType:
    """Import `llmstage.<package>.<name>`, or the dotted path `name` where the command line itself named it.

    `trusted=False` says the name was read from a run.yaml, a checkpoint or a model folder; a dotted path is then refused
    (status 8), because a config that arrives with data must not choose which code runs.
    """
    if "." in name:
        if not trusted:
            raise Refused(
                f"'{name}' names code outside llmstage, and it was read from a file, not typed. "
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
            f"There is no module '{path}'. Check the spelling and that it can be imported from here."
        ) from None
