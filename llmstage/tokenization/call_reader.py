"""Read one call of a tool from the text that a model writes, in the form of its chat template (call_form.py).

A text that may still become a call gives None, so that more of it is read; one that cannot become a call gives no calls.
"""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from llmstage.tokenization.call_form import CALL_ID, CallForm, call_of, new_call_id

PYTHON_TAG = "<|python_tag|>"
"""Llama 3 may write it before a call, although its template does not."""
FUNCTION_NAME = r"[A-Za-z0-9_.:/-]+"
MAX_NAME = 200
"""Characters after which a text without arguments is no call."""


@dataclass(slots=True)
class ToolCall:
    """A call that a model has written."""

    name: str
    arguments: dict[str, Any]
    id: str = field(default_factory=new_call_id)

    def to_message(self) -> dict[str, Any]:
        """Return the call as messages have it, with the arguments as an object."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}

    def to_openai(self) -> dict[str, Any]:
        """Return the call in OpenAI's form, with the arguments as JSON text."""
        arguments = json.dumps(self.arguments, ensure_ascii=False)
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": arguments}}


class CallReader:
    """Reads calls of one form. `functions`: the functions that may be called, by name."""

    def __init__(self, form: CallForm, functions: dict[str, Any]) -> None:
        self.form, self.functions = form, functions
        self.marks = form.marks if form.start else (PYTHON_TAG, ";", ",")

    @cached_property
    def skipped(self) -> re.Pattern[str]:
        marks = [re.escape(mark) for mark in sorted({*self.marks, self.form.start} - {""}, key=len, reverse=True)]
        return re.compile(rf"(?:\s+|{'|'.join(marks)})*")

    def skip_marks(self, text: str) -> int:
        """Return where the first call begins."""
        match = self.skipped.match(text)
        return match.end() if match else 0

    def may_be_mark(self, text: str) -> bool:
        """Return whether a text may become a mark."""
        return any(mark.startswith(text) for mark in self.marks)

    def begins_call(self, text: str, begin: int) -> bool:
        """Return whether the last thing before a position is the mark that begins a call, or no mark is needed."""
        opening = (
            self.form.opening[: self.form.opening.rfind("{")] if self.form.layout == "object" else self.form.opening
        )
        last = opening.split()[-1] if opening.split() else ""
        return text[:begin].rstrip().endswith(last) if last else text[begin : begin + 1] == "{"

    def read(self, text: str, begin: int, *, final: bool) -> tuple[list[ToolCall], int] | None:
        """Return the calls that begin at a position and where they end; None while they are not complete.

        No calls: the text up to the end is none.
        """
        layout = {
            "object": self.read_object, "named": self.read_named, "parameters": self.read_parameters,
            "pythonic": self.read_python,
        }  # fmt: skip
        return layout[self.form.layout](text, begin, final=final)

    def read_object(self, text: str, begin: int, *, final: bool) -> tuple[list[ToolCall], int] | None:
        if text[begin] != "{":
            return [], begin + 1
        end = object_end(text, begin)
        if end is None:
            return ([], len(text)) if final else None
        name, arguments = call_of(json_value(text[begin:end]))
        call = call_from(name, {} if arguments is None and self.form.start else arguments)
        # Without a mark, only a known function tells a call from an answer in JSON.
        known = self.form.start or not self.functions or name in self.functions
        return ([call] if call and known else []), end

    def read_named(self, text: str, begin: int, *, final: bool) -> tuple[list[ToolCall], int] | None:
        brace = text.find("{", begin)
        if brace < 0:
            return ([], len(text)) if final or len(text) - begin > MAX_NAME else None
        match = re.fullmatch(rf"({FUNCTION_NAME}?)\s*(?:{self.separator})?\s*", text[begin:brace])
        end = object_end(text, brace)
        if match is None:
            return [], brace
        if end is None:
            return ([], len(text)) if final else None
        call = call_from(match[1], json_value(text[brace:end]))
        return ([call] if call else []), end

    @cached_property
    def separator(self) -> str:
        """The pattern of what stands between a name and its arguments: with any id and any number."""
        pattern = re.escape(self.form.after_name.strip()).replace(CALL_ID, r"[^\[\]<>\s]*")
        return re.sub(r"\d+", r"\\d+", re.sub(r"(?:\\?\s)+", r"\\s*", pattern))

    def read_parameters(self, text: str, begin: int, *, final: bool) -> tuple[list[ToolCall], int] | None:
        before_key, to_value, after_value = (part.strip() for part in self.form.parameter)
        end = text.find(self.form.end, begin) if self.form.end else -1
        while end >= 0 and text.count(before_key, begin, end) != text.count(after_value, begin, end):
            end = text.find(self.form.end, end + 1)  # the end mark is a part of a value
        if end < 0:
            if not final:
                return None
            end = len(text)
        body = text[begin:end]
        name = re.split(re.escape(self.form.after_name.strip() or before_key), body, maxsplit=1)[0]
        name = name.partition(before_key)[0].strip()
        pattern = rf"{re.escape(before_key)}\s*(.*?)\s*{re.escape(to_value)}\n?(.*?)\n?{re.escape(after_value)}"
        types = self.functions.get(name, {}).get("parameters", {}).get("properties", {})
        pairs = re.findall(pattern, body, re.DOTALL)
        arguments = {key: typed_value(value, types.get(key)) for key, value in pairs}
        is_call = re.fullmatch(FUNCTION_NAME, name) and body.count(before_key) == len(pairs)
        return ([ToolCall(name, arguments)] if is_call else []), end + len(self.form.end) * (end < len(text))

    def read_python(self, text: str, begin: int, *, final: bool) -> tuple[list[ToolCall], int] | None:
        end = text.find(self.form.end, begin) if self.form.end else -1
        if end < 0:
            if not final:
                return None
            end = len(text)
        code = text[begin:end].strip().removesuffix("]")
        try:
            tree = ast.parse(f"[{code}]", mode="eval").body
            assert isinstance(tree, ast.List)
            calls = [python_call(node) for node in tree.elts]
        except (SyntaxError, ValueError, AssertionError, RecursionError, MemoryError):
            calls = []
        return calls, end + len(self.form.end) * (end < len(text))


def python_call(node: ast.expr) -> ToolCall:
    """Return `name(key=value)` as a call. Raise ValueError, AssertionError."""
    assert isinstance(node, ast.Call) and not node.args
    arguments = {str(keyword.arg): python_value(keyword.value) for keyword in node.keywords}
    return ToolCall(ast.unparse(node.func), arguments)


def python_value(node: ast.expr) -> Any:
    """Return the value of a literal, in which JSON's `true`, `false` and `null` may stand. Raise ValueError."""
    for name in ast.walk(node):
        if isinstance(name, ast.Dict | ast.List):
            parts = name.values if isinstance(name, ast.Dict) else name.elts
            parts[:] = [json_constant(part) for part in parts]
    value = ast.literal_eval(json_constant(node))
    try:
        json.dumps(value)  # a set or bytes would be no JSON
    except TypeError as error:
        raise ValueError(str(error)) from None
    return value


def json_constant(node: ast.expr) -> ast.expr:
    constants = {"true": True, "false": False, "null": None}
    return ast.Constant(constants[node.id]) if isinstance(node, ast.Name) and node.id in constants else node


def call_from(name: str | None, arguments: Any) -> ToolCall | None:
    """Return a call; None where the name or the arguments are missing or are none."""
    arguments = json_value(arguments) if isinstance(arguments, str) else arguments
    return ToolCall(name, arguments) if name and isinstance(arguments, dict) else None


def json_value(text: str) -> Any:
    """Return the value of a JSON text; None where it is none. Line breaks inside strings are taken, as models write them."""
    try:
        return json.loads(text, strict=False, parse_constant=lambda name: None)
    except (ValueError, RecursionError):
        return None


def object_end(text: str, begin: int) -> int | None:
    """Return where the JSON object that begins at a position ends; None where it is not closed."""
    depth, position = 0, begin
    for match in re.compile(r'"(?:[^"\\]|\\.)*(?:"|$)|[{}]', re.DOTALL).finditer(text, begin):
        position = match.end()
        if match[0] == "{":
            depth += 1
        elif match[0] == "}":
            depth -= 1
            if depth == 0:
                return position
    return None


def typed_value(text: str, schema: Any) -> Any:
    """Return an argument that was written without quotes: text where the schema says so, else the JSON value that it spells."""
    declared = schema.get("type") if isinstance(schema, dict) else None
    types = declared if isinstance(declared, list) else [declared]
    if "string" in types:
        return text
    value = json_value(text)
    if value is not None or text.strip() == "null":
        return value
    try:
        return python_value(ast.parse(text.strip(), mode="eval").body)  # some templates write values as Python does
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text
