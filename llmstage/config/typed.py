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


def describe(annotation: Any) -> str:
    """Return a type as users read it."""
    if get_origin(annotation) is Annotated:
        return describe(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(part) for part in get_args(annotation)))
    if get_origin(annotation) is Literal:
        return " or ".join(f"'{value}'" for value in get_args(annotation))
    if get_origin(annotation) is list:
        return f"a list of {describe(get_args(annotation)[0])}"
    if get_origin(annotation) is dict:
        return "a mapping {word: column}"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def convert(annotation: Any, value: Any, key: str, complaints: list[str]) -> Any:
    """Return `value` as the given type; where that is impossible, add a complaint that starts with the key."""
    if get_origin(annotation) is Annotated:
        inner, *extras = get_args(annotation)
        converted = convert(inner, value, key, complaints)
        for extra in extras:
            if isinstance(extra, Range) and isinstance(converted, (int, float)) and not isinstance(converted, bool):
                complaint = extra.complaint(converted)
                if complaint:
                    complaints.append(f"{key}={value} {complaint}.")
        return converted
    if get_origin(annotation) in (Union, types.UnionType):
        return convert_union(annotation, value, key, complaints)
    if is_dataclass(annotation) and isinstance(annotation, type):
        return build(annotation, value, key, complaints)
    converted = convert_plain(annotation, value, key, complaints)
    if converted is MISFIT:
        choices = [str(choice) for choice in get_args(annotation)] if get_origin(annotation) is Literal else []
        hint = did_you_mean(str(value), choices) if choices else ""
        complaints.append(
            f"{key}={value!r} is not {describe(annotation)}.{hint}"
            if value is not None
            else f"{key}=null is not {describe(annotation)}."
        )
        return value
    return converted


MISFIT = object()


def convert_plain(annotation: Any, value: Any, key: str, complaints: list[str]) -> Any:
    """Return `value` as a type without parts that need a complaint of their own; MISFIT where it does not fit."""
    if get_origin(annotation) is Literal:
        return (
            value if any(value == choice and type(value) is type(choice) for choice in get_args(annotation)) else MISFIT
        )
    if get_origin(annotation) is list and isinstance(value, (list, tuple)):
        return [convert(get_args(annotation)[0], item, f"{key}[{i}]", complaints) for i, item in enumerate(value)]
    if get_origin(annotation) is dict and isinstance(value, dict):
        return {
            str(word): convert(get_args(annotation)[1], item, f"{key}.{word}", complaints)
            for word, item in value.items()
        }
    if annotation is Any or (annotation is type(None) and value is None):
        return value
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if annotation is int and isinstance(value, float) and value.is_integer():
        return int(value)  # 1e6 in YAML is a float
    if annotation is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)  # data.columns.text=1, data.train=2024
    if (
        isinstance(annotation, type)
        and isinstance(value, annotation)
        and not (isinstance(value, bool) and annotation is not bool)
    ):
        return value
    return MISFIT


def convert_union(annotation: Any, value: Any, key: str, complaints: list[str]) -> Any:
    """Return `value` as the first type of a union that fits."""
    parts = get_args(annotation)
    if value is None and type(None) in parts:
        return None
    attempts: list[tuple[list[str], Any]] = []
    for part in parts:
        if part is type(None):
            continue
        part_complaints: list[str] = []
        converted = convert(part, value, key, part_complaints)
        if not part_complaints:
            return converted
        attempts.append((part_complaints, converted))
    if len(attempts) == 1:
        complaints.extend(attempts[0][0])
        return attempts[0][1]
    ranged = [lines for lines, _ in attempts if any(" must be " in line for line in lines)]
    choices = [str(choice) for part in parts if get_origin(part) is Literal for choice in get_args(part)]
    complaints.extend(
        ranged[0] if ranged else [f"{key}={value!r} is not {describe(annotation)}.{did_you_mean(str(value), choices)}"]
    )
    return value


def build(cls: type[T], data: Any, key: str, complaints: list[str]) -> T:
    """Return a mapping as the dataclass `cls`; add every complaint, with its full key."""
    if not isinstance(data, dict):
        complaints.append(f"{key}={data!r} must be a group of keys: {', '.join(hints(cls))}.")
        data = {}
    known = hints(cls)
    values: dict[str, Any] = {}
    for word, value in data.items():
        path = f"{key}.{word}" if key else str(word)
        if word not in known:
            complaints.append(f"Unknown key '{path}'.{did_you_mean(path, leaf_keys(cls, key))}")
        else:
            values[word] = convert(known[word], value, path, complaints)
    return cls(**values)


def walk_fields(cls: type, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (full key, type) of every leaf below a dataclass; a group that may be one of several dataclasses is a
    leaf."""
    known = hints(cls)
    for item in fields(cls):
        path = f"{key}.{item.name}" if key else item.name
        annotation = known[item.name]
        if is_dataclass(annotation) and isinstance(annotation, type):
            yield from walk_fields(annotation, path)
        else:
            yield path, annotation


def leaf_keys(cls: type, key: str = "") -> list[str]:
    """Return the full keys of all leaves below a dataclass."""
    return [path for path, _ in walk_fields(cls, key)]
