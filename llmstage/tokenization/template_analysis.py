"""Prove from the code of a chat template that it writes every content as it is.

Such a template needs no rendering for each conversation: all conversations with the same roles have the same text around their
contents. A template that asks anything of a content, or passes it on, is rendered.
"""

from __future__ import annotations

from collections.abc import Iterator

from jinja2 import Environment, TemplateError, nodes

ENVIRONMENT = Environment(
    trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"], autoescape=False
)
"""As transformers reads templates, but without `{% generation %}`, so that templates with such marks are not proven."""
UNSUPPORTED = (
    nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.AssignBlock, nodes.Block, nodes.Extends, nodes.Include, nodes.Import,
    nodes.FromImport,
)  # fmt: skip
NEIGHBOURS = ("previtem", "nextitem")
"""Attributes of `loop` that are messages."""


def writes_contents_verbatim(template: str) -> bool:
    """Return whether the template uses contents only to write them, joined with other texts at most."""
    try:
        tree = ENVIRONMENT.parse(template)
    except TemplateError:
        return False
    parents = {id(child): node for node in walk(tree) for child in node.iter_child_nodes()}
    loops = [node for node in tree.find_all(nodes.For) if is_name(node.iter, {"messages"})]
    items = {node.target.name for node in loops if isinstance(node.target, nodes.Name)}
    if next(tree.find_all(UNSUPPORTED), None) or any(not isinstance(node.target, nodes.Name) for node in loops):
        return False
    for node in walk(tree):
        if key_of(node) in NEIGHBOURS or rebinds(node, parents, items, loops):
            return False
        if is_name(node, items) and node.ctx == "load" and not is_written(node, parents):  # type: ignore[attr-defined]
            return False
        if is_name(node, {"messages"}) and parents[id(node)] not in loops:
            parent = parents[id(node)]
            is_length = isinstance(parent, nodes.Filter) and parent.name in ("length", "count")
            is_item = isinstance(parent, nodes.Getitem) and isinstance(key_of(parent), int)
            if not is_length and not (is_item and is_written(parent, parents)):
                return False
    return True


def is_written(message: nodes.Node, parents: dict[int, nodes.Node]) -> bool:
    """Return whether an expression for a message is asked for its role, or for a content that is written."""
    node = parents[id(message)]
    if key_of(node) != "content":
        return key_of(node) == "role"
    while isinstance(parents[id(node)], (nodes.Add, nodes.Concat)):
        node = parents[id(node)]
    return isinstance(parents[id(node)], nodes.Output)


def rebinds(node: nodes.Node, parents: dict[int, nodes.Node], items: set[str], loops: list[nodes.For]) -> bool:
    """Return whether a node gives the messages, or the name of one, another value."""
    if not is_name(node, {*items, "messages"}) or node.ctx == "load":  # type: ignore[attr-defined]
        return False
    return parents[id(node)] not in loops


def is_name(node: nodes.Node, names: set[str]) -> bool:
    return isinstance(node, nodes.Name) and node.name in names


def key_of(node: nodes.Node) -> str | int | None:
    """Return the constant key that an expression reads; None for other nodes."""
    if isinstance(node, nodes.Getattr):
        return str(node.attr)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, (str, int)):
        return node.arg.value
    return None


def walk(node: nodes.Node) -> Iterator[nodes.Node]:
    yield node
    for child in node.iter_child_nodes():
        yield from walk(child)
