"""Map the columns of a task to those of a file: as the user named them, by equal names, or by well-known synonyms."""

from __future__ import annotations

from typing import Any

from llmstage.data.chat_formats import PAIR_COLUMNS, find_layout
from llmstage.data.chat_messages import BadChat
from llmstage.data.rows import Columns
from llmstage.errors import DataError, UserError
from llmstage.naming import did_you_mean

SYNONYMS: dict[str, tuple[str, ...]] = {
    "text": (
        "sentence", "review", "content", "document", "sentence1", "text_a", "premise", "question", "utterance", "query",
        "comment", "tweet", "body", "message", "article", "title", "正文", "文本", "内容",
    ),
    "label": (
        "labels", "category", "class", "intent", "sentiment", "target", "stars", "rating", "topic", "department", "tag",
        "标签", "类别",
    ),
    "text_pair": ("sentence2", "text_b", "hypothesis", "passage", "question2"),
    "source": ("src", "en", "input", "document", "article", "text", "abstract"),
    "target": ("tgt", "translation", "output", "summary", "highlights", "title"),
    "document": ("article", "source", "text", "abstract", "content", "body"),
    "summary": ("target", "highlights", "abstract", "title"),
    "question": ("query", "sentence", "statement", "问题"),
    "context": ("passage", "paragraph", "document"),
    "answer": ("answers", "response", "reply", "label"),
    "answers": ("answer", "response"),
    "tokens": ("words",),
    "tags": ("ner_tags", "labels", "bio_tags"),
    "spans": ("entities",),
    "user": ("userid", "user_id", "uid", "customer", "customer_id", "reviewerid", "用户"),
    "item": ("itemid", "item_id", "movieid", "movie_id", "product", "product_id", "productid", "asin", "iid", "物品", "商品"),
    "time": ("timestamp", "unixreviewtime", "datetime", "date", "created_at", "时间"),
    "rating": ("stars", "overall", "score", "评分"),
    "click": ("clicked", "is_click", "点击"),
    "title": ("name", "headline", "标题"),
    "categories": ("genres", "genre", "category", "类别"),
    "image": (
        "file_name", "filename", "image_path", "img_path", "image_file", "image_name", "img", "picture", "photo", "filepath",
        "file_path", "file", "path", "图片", "图像",
    ),
    "caption": (
        "captions", "text", "texts", "sentence", "sentences", "description", "alt_text", "title", "描述", "说明", "标题",
    ),
}  # fmt: skip
WELL_KNOWN = frozenset(SYNONYMS) | {name for names in SYNONYMS.values() for name in names} | {
    "id", "idx", "index", "messages", "conversations", "prompt", "completion", "instruction", "response", "output",
    "url", "date", "name", "score", "user", "item", "userid", "movieid", "timestamp", "image_id",
} - {"file", "path", "photo", "picture", "description", "texts", "sentences"}  # fmt: skip
"""Names that mark the first line of a CSV as a header."""


def mappable_columns(columns: Columns) -> tuple[str, ...]:
    """Return every column of a task that `data.columns` may map."""
    names = (*columns.required, *columns.optional)
    return (*names, *(name for name in PAIR_COLUMNS if name not in names)) if "messages" in names else names


def check_named(named: dict[str, str], columns: Columns) -> None:
    """Raise UserError for a key of `data.columns` that is no column of the task."""
    names = mappable_columns(columns)
    wrong = [
        f"Unknown key 'data.columns.{name}'.{did_you_mean(name, names)} This task's columns: {', '.join(names)}."
        for name in named
        if name not in names
    ]
    only_prompt = "prompt" in named and "completion" not in named and columns.replies
    if only_prompt and "prompt" in names and "prompt" not in columns.required:
        wrong.append("data.columns.prompt and data.columns.completion go together: name both columns.")
    if wrong:
        raise UserError("\n".join(wrong))


def map_columns(samples: dict[str, Any], named: dict[str, str], columns: Columns, file: str) -> dict[str, str]:
    """Map each column of the task to a column of the file. `samples`: the columns of the file with a value each.

    Raise DataError with the columns and the key to type where a required column has no match.
    """
    # Columns that the user named.
    mapping: dict[str, str] = {}
    for name, column in named.items():
        if column not in samples:
            raise DataError(
                f"{display_name(file)}: there is no column '{column}' (data.columns.{name}={column}).{did_you_mean(column, samples)} "
                f"Name another: data.columns.{name}={one_of(samples)}\n{list_columns(samples)}"
            )
        mapping[name] = column

    # Equal names and synonyms, each column of the file at most once.
    free = {column.casefold(): column for column in samples if column not in mapping.values()}
    for name in (*columns.required, *columns.optional):
        if name in mapping:
            continue
        if name == "messages":
            try:
                layout = find_layout(samples, named, replies=columns.replies)
            except BadChat as error:
                raise DataError(f"{file}: {error}.") from None
            if layout is not None:
                mapping[name] = " + ".join(layout.columns)
                free = {key: column for key, column in free.items() if column not in layout.columns}
                continue
        # A name of another column of the task is no synonym: `title` stays free for a task that has a title.
        reserved = {column.casefold() for column in (*columns.required, *columns.optional)} - {name.casefold()}
        candidates = (synonym.casefold() for synonym in (name, *SYNONYMS.get(name, ())))
        match = next((free[synonym] for synonym in candidates if synonym not in reserved and synonym in free), None)
        if match is not None:
            mapping[name] = match
            del free[match.casefold()]

    check_complete(mapping, samples, columns, file)
    return mapping


def map_rendered(samples: dict[str, Any], named: dict[str, str], columns: Columns, file: str) -> dict[str, str]:
    """Return the column of conversations that a chat template has rendered, under the name of the messages.

    Raise DataError where there is none.
    """
    column = named.get("messages") or next((name for name in samples if name.casefold() in ("text", "rendered")), None)
    if column is None or column not in samples:
        raise DataError(
            f"{file}: data.rendered=true needs a column of rendered texts. Name it: data.columns.messages=<column>\n"
            f"{list_columns(samples)}"
        )
    optional = {name: named.get(name, name) for name in columns.optional}
    return {"messages": column, **{name: source for name, source in optional.items() if source in samples}}


def check_complete(mapping: dict[str, str], samples: dict[str, Any], columns: Columns, file: str) -> None:
    """Raise DataError where the mapping lacks a column that the task needs."""
    composed = {"messages"} if "prompt" in mapping else set()
    needed = (*columns.required, *columns.present)
    missing = [name for name in needed if name not in mapping and name not in composed]
    if missing:
        keys = " ".join(f"data.columns.{name}={one_of(samples)}" for name in missing)
        extra = " (or data.columns.prompt=<column> data.columns.completion=<column>)" if "messages" in missing else ""
        names = ", ".join(repr(name) for name in missing)
        raise DataError(
            f"{display_name(file)}: no column fits {names}. Name it: {keys}{extra}\n{list_columns(samples)}"
        )
    if columns.either and not any(all(name in mapping for name in group) for group in columns.either):
        groups = ", or ".join(" and ".join(f"'{name}'" for name in group) for group in columns.either)
        keys = " ".join(f"data.columns.{name}={one_of(samples)}" for name in columns.either[0])
        raise DataError(f"{file}: no columns fit {groups}. Name them: {keys}\n{list_columns(samples)}")


def display_name(file: str) -> str:
    """Return the name of a file in a message; `-` is standard input."""
    return "standard input" if file == "-" else file


def one_of(samples: dict[str, Any]) -> str:
    """Return the columns of a file as what may be typed for a key: `<one of: a, b>`."""
    names = list(samples)
    return f"<one of: {', '.join(names[:8])}{', …' if len(names) > 8 else ''}>"


def list_columns(samples: dict[str, Any]) -> str:
    """Return the columns with a sample value each, one a line."""
    lines = []
    for column, value in samples.items():
        sample = repr(value)
        lines.append(f"  {column}: {sample if len(sample) <= 60 else sample[:57] + '...'}")
    if samples and all(column.isdigit() for column in samples):
        lines.append("If these values are the names of the columns, set data.header=true.")
    return "Columns found, with a value each:\n" + "\n".join(lines)
