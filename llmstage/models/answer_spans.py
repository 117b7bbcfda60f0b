"""Spans of a text from start and end logits: windows of a long context, and the best legal spans of each."""

from __future__ import annotations

import itertools
import math
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmstage.tokenization.tokenizer import Processor


@dataclass(slots=True, frozen=True)
class Window:
    """A question and a part of its context as an encoder sees them."""

    ids: list[int]
    types: list[int]
    none: int
    """Position that stands for "no answer here": that of the tokenizer's first mark (CLS)."""
    first: int
    """First token of the context."""
    stop: int
    """One past the last token of the context."""
    offsets: list[tuple[int, int]]
    """(start, end) in characters of the whole context, for its tokens first..stop-1."""

    def tokens_of(self, start: int, end: int) -> tuple[int, int] | None:
        """First and last token that hold characters start..end-1, or None where not all of them stand in here.

        Several tokens can belong to one character (a Chinese one is three bytes): the span then holds all of them.
        """
        if not self.offsets or self.offsets[0][0] > start or self.offsets[-1][1] < end:
            return None
        inside = [place for place, (a, b) in enumerate(self.offsets) if a < end and b > start]
        return (self.first + inside[0], self.first + inside[-1]) if inside else None

    def characters_of(self, first: int, last: int, context: str) -> tuple[int, int]:
        """Start and end in the context of tokens first..last, without the white space that tokens begin with."""
        start, end = self.offsets[first - self.first][0], self.offsets[last - self.first][1]
        while start < end and context[start].isspace():
            start += 1
        while end > start and context[end - 1].isspace():
            end -= 1
        return start, end


def windows_of(processor: Processor, question: str, context: str, size: int, stride: int) -> tuple[list[Window], int]:
    """(windows, tokens of the question cut); every token of the context stands in at least one of them."""
    encodings, cut = processor.pair_windows(question, context, size, stride)
    windows = []
    for one in encodings:
        inside = [place for place, part in enumerate(one.sequence_ids) if part == 1]
        first, stop = (inside[0], inside[-1] + 1) if inside else (len(one.ids), len(one.ids))
        none = one.ids.index(processor.cls_id) if processor.cls_id in one.ids else 0
        windows.append(Window(list(one.ids), list(one.type_ids), none, first, stop, list(one.offsets[first:stop])))
    return windows, cut


def span_logits(model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Start and end logits [B, T] in fp32, -inf where a span can neither begin nor end.

    Beside what the model takes, `inputs` holds `legal` [B, T], `inside` [B, T], and perhaps `matches` [B, T, 3], which
    `model.extra` adds to the embeddings.
    """
    theirs = {name: value for name, value in inputs.items() if name not in ("inside", "legal", "matches")}
    if "matches" in inputs:
        embedded = model.get_input_embeddings()(theirs.pop("input_ids"))  # type: ignore[operator]
        theirs["inputs_embeds"] = embedded + model.extra(inputs["matches"])  # type: ignore[operator]
    out = model(**theirs)
    start, end = (part.float().masked_fill(~inputs["legal"], -torch.inf) for part in (out.start_logits, out.end_logits))
    return start, end


def read_spans(
    logits: tuple[Tensor, Tensor],
    inputs: dict[str, Tensor],
    windows: list[Window],
    contexts: list[str],
    longest: int,
    count: int,
) -> list[dict[str, Any]]:
    """For each row `spans`, its best ones as [start, end, log-probability] in characters, and `none`, the
    log-probability of no answer."""
    start, end = (torch.log_softmax(one, -1) for one in logits)
    at = (inputs["legal"] & ~inputs["inside"]).long().argmax(1, keepdim=True)  # [B, 1]
    none = (start.gather(1, at) + end.gather(1, at)).squeeze(1).tolist()
    found = [part.tolist() for part in best_spans(start, end, inputs["inside"], longest, count)]
    items = []
    for row, (window, context) in enumerate(zip(windows, contexts, strict=True)):
        spans = [
            [*place, score]
            for score, first, last in zip(*(part[row] for part in found), strict=True)
            # White space alone is no answer.
            if score > -math.inf and operator.lt(*(place := window.characters_of(first, last, context)))
        ]
        items.append({"spans": best_of([spans], count), "none": none[row]})
    return items


def merge_windows(predictions: list[Any], rows: list[int], count: int) -> tuple[list[Any], list[int]]:
    """(one prediction a row, place of its first window): the best spans of all windows of a row; no answer is as likely
    as in the window that believes in it least. `rows` [N], in rising order, is the row of each window."""
    first = [place for place, row in enumerate(rows) if not place or row != rows[place - 1]]
    merged = []
    for begin, stop in itertools.pairwise([*first, len(rows)]):
        part = predictions[begin:stop]
        spans = best_of([one["spans"] for one in part], count)
        merged.append({"spans": spans, "none": min(one["none"] for one in part)})
    return merged, first


def best_spans(start: Tensor, end: Tensor, inside: Tensor, longest: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` likeliest spans of each row: (scores, first tokens, last tokens), all [B, count], best first.

    `start`, `end` [B, T]: log-probabilities; `inside` [B, T]: tokens of the context. A span is legal if both ends are
    inside, it does not run backwards and has at most `longest` tokens; the score of what is not legal is -inf.
    """
    longest = min(longest, start.shape[1])
    start, end = (values.masked_fill(~inside, -torch.inf) for values in (start, end))
    ahead = torch.nn.functional.pad(end, (0, longest - 1), value=-torch.inf).unfold(1, longest, 1)  # [B, T, L]
    both = (start[:, :, None] + ahead).flatten(1)  # [B, T * L]: token t to t + l
    scores, at = both.topk(min(count, both.shape[1]), dim=1)
    first = at // longest
    return scores, first, first + at % longest


def best_of(groups: list[list[Any]], count: int) -> list[Any]:
    """The `count` likeliest of several lists of [start, end, score], each place once, best first."""
    best: dict[tuple[int, int], float] = {}
    for start, end, score in (span for spans in groups for span in spans):
        best[start, end] = max(score, best.get((start, end), -math.inf))
    ordered = sorted(best.items(), key=lambda item: (-item[1], item[0]))
    return [[start, end, score] for (start, end), score in ordered[:count]]


def confidences(scores: list[float], none: float) -> list[float]:
    """Probabilities of some spans and, last, of no answer (0 where `none` is -inf): a softmax over these alone."""
    both = [*scores, none]
    top = max(both)
    parts = [math.exp(score - top) if score > -math.inf else 0.0 for score in both]
    return [part / sum(parts) if top > -math.inf else 0.0 for part in parts]
