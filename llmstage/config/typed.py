"""Plain data to typed dataclasses, with every complaint gathered: unknown keys, wrong types, values out of range.

Hydra composes YAML into plain containers, and `build` turns them into dataclasses. No module below llmstage.cli uses
OmegaConf.
"""

from __future__ import annotations

import math
import types
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from llmstage.naming import did_you_mean

T = TypeVar("T")


@dataclass(slots=True, frozen=True)
class Range:
    """Bounds of a number; NaN is outside of all bounds."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def complaint(self, value: float) -> str | None:
        """Return why a value is out of range, or None."""
        inside = (value > self.low if self.open_low else value >= self.low) and (
            value < self.high if self.open_high else value <= self.high
        )
        if inside:  # False for NaN
            return None
        words = []
        if self.low > -math.inf:
            words.append(f"{'above' if self.open_low else 'at least'} {self.low:g}")
        if self.high < math.inf:
            words.append(f"{'below' if self.open_high else 'at most'} {self.high:g}")
        return f"must be {' and '.join(words) or 'a number'}"


POSITIVE = Range(0, math.inf, open_low=True, open_high=True)
NOT_NEGATIVE = Range(0, math.inf, open_high=True)
SHARE = Range(0, 1)
AT_LEAST_1 = Range(1, 1e12)


_HINTS: dict[type, dict[str, Any]] = {}


def hints(cls: type) -> dict[str, Any]:
    """Return the field types of a dataclass, with `Annotated` kept."""
    if cls not in _HINTS:
        _HINTS[cls] = get_type_hints(cls, include_extras=True)
    return _HINTS[cls]


def describe(kind: Any) -> str:
    """Return a type as users read it."""
    if get_origin(kind) is Annotated:
        return describe(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(part) for part in get_args(kind)))
    if get_origin(kind) is Literal:
        return " or ".join(f"'{value}'" for value in get_args(kind))
    if get_origin(kind) is list:
        return f"a list of {describe(get_args(kind)[0])}"
    if get_origin(kind) is dict:
        return "a mapping {word: column}"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def convert(kind: Any, value: Any, key: str, wrong: list[str]) -> Any:
    """Return `value` as the given type; where that is impossible, add a complaint that starts with the key."""
    if get_origin(kind) is Annotated:
        inner, *extras = get_args(kind)
        made = convert(inner, value, key, wrong)
        for extra in extras:
            if isinstance(extra, Range) and isinstance(made, (int, float)) and not isinstance(made, bool):
                complaint = extra.complaint(made)
                if complaint:
                    wrong.append(f"{key}={value} {complaint}.")
        return made
    if get_origin(kind) in (Union, types.UnionType):
        return convert_union(kind, value, key, wrong)
    if is_dataclass(kind) and isinstance(kind, type):
        return build(kind, value, key, wrong)
    made = convert_plain(kind, value, key, wrong)
    if made is MISFIT:
        choices = [str(choice) for choice in get_args(kind)] if get_origin(kind) is Literal else []
        hint = did_you_mean(str(value), choices) if choices else ""
        wrong.append(
            f"{key}={value!r} is not {describe(kind)}.{hint}"
            if value is not None
            else f"{key}=null is not {describe(kind)}."
        )
        return value
    return made


MISFIT = object()


def convert_plain(kind: Any, value: Any, key: str, wrong: list[str]) -> Any:
    """Return `value` as a type without parts that need a complaint of their own; MISFIT where it does not fit."""
    if get_origin(kind) is Literal:
        return value if any(value == choice and type(value) is type(choice) for choice in get_args(kind)) else MISFIT
    if get_origin(kind) is list and isinstance(value, (list, tuple)):
        return [convert(get_args(kind)[0], item, f"{key}[{i}]", wrong) for i, item in enumerate(value)]
    if get_origin(kind) is dict and isinstance(value, dict):
        return {str(word): convert(get_args(kind)[1], item, f"{key}.{word}", wrong) for word, item in value.items()}
    if kind is Any or (kind is type(None) and value is None):
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)  # 1e6 in YAML is a float
    if kind is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)  # data.columns.text=1, data.train=2024
    if isinstance(kind, type) and isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
        return value
    return MISFIT


def convert_union(kind: Any, value: Any, key: str, wrong: list[str]) -> Any:
    """Return `value` as the first type of a union that fits."""
    parts = get_args(kind)
    if value is None and type(None) in parts:
        return None
    attempts: list[tuple[list[str], Any]] = []
    for part in parts:
        if part is type(None):
            continue
        complaints: list[str] = []
        made = convert(part, value, key, complaints)
        if not complaints:
            return made
        attempts.append((complaints, made))
    if len(attempts) == 1:
        wrong.extend(attempts[0][0])
        return attempts[0][1]
    ranged = [lines for lines, _ in attempts if any(" must be " in line for line in lines)]
    choices = [str(choice) for part in parts if get_origin(part) is Literal for choice in get_args(part)]
    wrong.extend(
        ranged[0] if ranged else [f"{key}={value!r} is not {describe(kind)}.{did_you_mean(str(value), choices)}"]
    )
    return value


def build(cls: type[T], data: Any, key: str, wrong: list[str]) -> T:
    """Return a mapping as the dataclass `cls`; add every complaint, with its full key."""
    if not isinstance(data, dict):
        wrong.append(f"{key}={data!r} must be a group of keys: {', '.join(hints(cls))}.")
        data = {}
    known = hints(cls)
    values: dict[str, Any] = {}
    for word, value in data.items():
        path = f"{key}.{word}" if key else str(word)
        if word not in known:
            wrong.append(f"Unknown key '{path}'.{did_you_mean(path, leaf_keys(cls, key))}")
        else:
            values[word] = convert(known[word], value, path, wrong)
    return cls(**values)


def walk_fields(cls: type, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (full key, type) of every leaf below a dataclass; a group that may be one of several dataclasses is a
    leaf."""
    known = hints(cls)
    for item in fields(cls):
        path = f"{key}.{item.name}" if key else item.name
        kind = known[item.name]
        if is_dataclass(kind) and isinstance(kind, type):
            yield from walk_fields(kind, path)
        else:
            yield path, kind


def leaf_keys(cls: type, key: str = "") -> list[str]:
    """Return the full keys of all leaves below a dataclass."""
    return [path for path, _ in walk_fields(cls, key)]
