"""From a file's columns to a task's words: what the user named, the same word, or a well-known synonym."""

from __future__ import annotations

from typing import Any

from llmstage.data.chat_formats import PAIR_WORDS, find_form
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
WELL_KNOWN = frozenset(SYNONYMS) | {word for words in SYNONYMS.values() for word in words} | {
    "id", "idx", "index", "messages", "conversations", "prompt", "completion", "instruction", "response", "output",
    "url", "date", "name", "score", "user", "item", "userid", "movieid", "timestamp", "image_id",
} - {"file", "path", "photo", "picture", "description", "texts", "sentences"}  # fmt: skip
"""A first line of a CSV that holds one of these is a header."""


def words_of(columns: Columns) -> tuple[str, ...]:
    """Every word that `data.columns` may name for a task."""
    words = (*columns.required, *columns.optional)
    return (*words, *(word for word in PAIR_WORDS if word not in words)) if "messages" in words else words


def check_named(named: dict[str, str], columns: Columns) -> None:
    """UserError for a key of `data.columns` that is no word of the task."""
    words = words_of(columns)
    wrong = [
        f"Unknown key 'data.columns.{word}'.{did_you_mean(word, words)} This task's words: {', '.join(words)}."
        for word in named
        if word not in words
    ]
    alone = ("prompt" in named) != ("completion" in named) and columns.replies
    if alone and "prompt" in words and "prompt" not in columns.required:
        wrong.append("data.columns.prompt and data.columns.completion go together: name both columns.")
    if wrong:
        raise UserError("\n".join(wrong))


def map_columns(found: dict[str, Any], named: dict[str, str], columns: Columns, place: str) -> dict[str, str]:
    """Task word to column. `found`: the file's columns with a sample value each.

    Raises DataError that lists the columns and the key to type where a required word has none.
    """
    mapping: dict[str, str] = {}
    for word, column in named.items():
        if column not in found:
            raise DataError(
                f"{place}: there is no column '{column}' (data.columns.{word}={column}).{did_you_mean(column, found)}\n"
                f"{list_columns(found)}"
            )
        mapping[word] = column
    free = {column.casefold(): column for column in found if column not in mapping.values()}
    for word in (*columns.required, *columns.optional):
        if word in mapping:
            continue
        if word == "messages":
            if "prompt" in mapping and ("completion" in mapping or not columns.replies):
                continue
            form = find_form(list(found), replies=columns.replies)
            if form:
                mapping[word] = " + ".join(form)
                continue
        candidates = (word, *SYNONYMS.get(word, ()))
        # Another word's own column is not taken as a synonym: `title` stays free for a task that asks for a title.
        others = {other.casefold() for other in (*columns.required, *columns.optional)} - {word.casefold()}
        folded = (name.casefold() for name in candidates if name.casefold() not in others)
        fit = next((free[name] for name in folded if name in free), None)
        if fit is not None:
            mapping[word] = fit
            del free[fit.casefold()]
    made = {"messages"} if "prompt" in mapping else set()
    needed = (*columns.required, *columns.present)
    missing = [word for word in needed if word not in mapping and word not in made]
    if missing:
        keys = " ".join(f"data.columns.{word}=<column>" for word in missing)
        extra = " (or data.columns.prompt=<column> data.columns.completion=<column>)" if "messages" in missing else ""
        names = ", ".join(repr(word) for word in missing)
        raise DataError(f"{place}: no column fits {names}. Name it: {keys}{extra}\n{list_columns(found)}")
    if columns.either and not any(all(word in mapping for word in group) for group in columns.either):
        groups = ", or ".join(" and ".join(f"'{word}'" for word in group) for group in columns.either)
        keys = " ".join(f"data.columns.{word}=<column>" for word in columns.either[0])
        raise DataError(f"{place}: no columns fit {groups}. Name them: {keys}\n{list_columns(found)}")
    return mapping


def list_columns(found: dict[str, Any]) -> str:
    """The columns with a sample value each, one a line."""
    lines = []
    for column, value in found.items():
        sample = repr(value)
        lines.append(f"  {column}: {sample if len(sample) <= 60 else sample[:57] + '...'}")
    return "Columns found, with a value each:\n" + "\n".join(lines)
