"""plan=<file>: add the overrides of a plan.yaml, which stage=explore writes, below those of the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from llmstage.cli.experiment import leaves
from llmstage.cli.overrides import ONE_OF
from llmstage.config import GROUPS
from llmstage.config.renamed_keys import key_of, present_key
from llmstage.errors import Refused, UserError

PLAN = "plan"
NAMES_CODE = (*GROUPS, "experiment", "task.name", "stage.name", "data.format")
"""Keys whose value may name a module outside llmstage. Only the command line may set such a value."""
KNOWN = ("overrides", "weaknesses")
"""Keys of a plan.yaml."""
LITERALS = ("true", "false", "null", "nan", "inf")
"""Texts that Hydra would parse as values of another type."""


def with_plan(arguments: list[str]) -> list[str]:
    """Return the overrides of a command line with those of its plan; an override of the command line replaces that of
    the plan."""
    named = [word.partition("=")[2] for word in arguments if word.partition("=")[0] == PLAN]
    if not named or named[-1] in ("", "null"):
        return arguments
    typed = {present_key(key_of(word)) for word in arguments}
    path = Path(named[-1].strip("'\"")).expanduser()
    typed |= {
        key for keys in ONE_OF if typed.intersection(keys) for key in keys
    }  # typed epochs replace the steps of the plan
    planned = [(key, value) for key, value in read_plan(path) if present_key(key) not in typed]
    return [*(f"{key}={in_words(value)}" for key, value in planned), *arguments]


def read_plan(path: Path) -> list[tuple[str, Any]]:
    """Return (key, value) of each override of a plan. Raise UserError for an invalid file, Refused for one that names
    code."""
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"plan={path}: there is no such file. stage=explore writes plan.yaml into its run folder."
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"plan={path} cannot be read: {str(error).splitlines()[0]}") from None
    overrides = loaded.get("overrides") if isinstance(loaded, dict) else None
    if not isinstance(overrides, dict):
        raise UserError(f"plan={path} is not a plan: it needs a mapping `overrides:` of keys, e.g. {{optim.lr: 1e-4}}.")
    strange = sorted(str(key) for key in set(loaded) - set(KNOWN))
    if strange:
        raise UserError(f"plan={path}: unknown {', '.join(strange)}. A plan has {' and '.join(KNOWN)}.")
    pairs = list(leaves({str(key): value for key, value in overrides.items()}))
    for key, value in pairs:
        refuse_code(path, key, value)
    return pairs


def refuse_code(path: Path, key: str, value: Any) -> None:
    """Raise Refused where an override of a plan could choose which code runs."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    if key.lstrip("+~").startswith("hydra") or key == PLAN or "_target_" in key or "_target_" in text:
        raise Refused(f"plan={path}: '{key}' cannot be set by a plan. Type it on the command line if you mean it.")
    if "${" in text:
        raise Refused(f"plan={path}: {key} has an interpolation, {text}. A plan has plain values only.")
    if key in NAMES_CODE and "." in str(value):
        raise Refused(
            f"plan={path}: {key}={value} names code outside llmstage. Only the command line may do that: type {key}={value}."
        )


def in_words(value: Any) -> str:
    """Return a plain value in Hydra's grammar; texts are quoted, so that none is parsed as a sweep or a number."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{','.join(in_words(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{in_words(item)}" for key, item in value.items()) + "}"
    text = str(value)
    if re.fullmatch(r"[A-Za-z_][\w/-]*", text, re.ASCII) and text.lower() not in LITERALS:
        return text
    return "'" + re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), text) + "'"
