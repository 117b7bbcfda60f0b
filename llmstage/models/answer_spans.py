"""Question answering: windows of a long context, the best legal spans of each, and the ids of an answer that is generated.

An encoder reads a question with a window of the context and gives start and end logits, from which read_spans() takes the best
spans. A model that generates its answer reads and writes what written_answer_ids() returns.
"""

from __future__ import annotations

import itertools
import math
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmstage.data.question_rows import likeliest_part
from llmstage.tokenization.tokenizer import Processor


@dataclass(slots=True, frozen=True)
class Window:
    """A question and a part of its context as an encoder sees them."""

    ids: list[int]
    types: list[int]
    none: int
    """Position whose logits mean "no answer in this window": that of the tokenizer's first special token (CLS)."""
    first: int
    """First token of the context."""
    stop: int
    """One past the last token of the context."""
    offsets: list[tuple[int, int]]
    """(start, end) in characters of the whole context, for its tokens first..stop-1."""

    def tokens_of(self, start: int, end: int) -> tuple[int, int] | None:
        """First and last token of characters start..end-1, or None where not all of them are in this window.

        Several tokens can belong to one character (a Chinese one is three bytes): the span then includes all of them.
        """
        if not self.offsets or self.offsets[0][0] > start or self.offsets[-1][1] < end:
            return None
        inside = [index for index, (a, b) in enumerate(self.offsets) if a < end and b > start]
        return (self.first + inside[0], self.first + inside[-1]) if inside else None

    def characters_of(self, first: int, last: int, context: str) -> tuple[int, int]:
        """Start and end in the context of tokens first..last, without the white space that tokens begin with."""
        start, end = self.offsets[first - self.first][0], self.offsets[last - self.first][1]
        while start < end and context[start].isspace():
            start += 1
        while end > start and context[end - 1].isspace():
            end -= 1
        return start, end


def context_windows(
    processor: Processor, question: str, context: str, size: int, stride: int
) -> tuple[list[Window], int]:
    """(windows, tokens of the question that were cut); every token of the context is in at least one of them."""
    encodings, cut = processor.pair_windows(question, context, size, stride)
    windows = []
    for encoding in encodings:
        ids = list(encoding.ids)
        inside = [index for index, part in enumerate(encoding.sequence_ids) if part == 1]
        first, stop = (inside[0], inside[-1] + 1) if inside else (len(ids), len(ids))
        none = ids.index(processor.cls_id) if processor.cls_id in ids else 0
        windows.append(Window(ids, list(encoding.type_ids), none, first, stop, list(encoding.offsets[first:stop])))
    return windows, cut


def span_logits(model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Start and end logits [B, T] in fp32, -inf where a span can neither begin nor end.

    Besides the model's inputs, `inputs` holds `legal` [B, T], `inside` [B, T], and perhaps `matches` [B, T, 3], which
    `model.extra` adds to the embeddings.
    """
    model_inputs = {name: value for name, value in inputs.items() if name not in ("inside", "legal", "matches")}
    if "matches" in inputs:
        embedded = model.get_input_embeddings()(model_inputs.pop("input_ids"))  # type: ignore[operator]
        model_inputs["inputs_embeds"] = embedded + model.extra(inputs["matches"])  # type: ignore[operator]
    out = model(**model_inputs)
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
    start, end = (torch.log_softmax(part, -1) for part in logits)
    none_index = (inputs["legal"] & ~inputs["inside"]).long().argmax(1, keepdim=True)  # [B, 1]
    none = (start.gather(1, none_index) + end.gather(1, none_index)).squeeze(1).tolist()
    candidates = [part.tolist() for part in best_spans(start, end, inputs["inside"], longest, count)]
    items = []
    for row, (window, context) in enumerate(zip(windows, contexts, strict=True)):
        spans = [
            [*span, score]
            for score, first, last in zip(*(part[row] for part in candidates), strict=True)
            # White space alone is no answer.
            if score > -math.inf and operator.lt(*(span := window.characters_of(first, last, context)))
        ]
        items.append({"spans": best_of([spans], count), "none": none[row]})
    return items


def merge_windows(predictions: list[Any], rows: list[int], count: int) -> tuple[list[Any], list[int]]:
    """(one prediction a row, index of its first window): the best spans of all windows of a row.

    The log-probability of no answer is the lowest among its windows. `rows` [N], in rising order, is the row of each window.
    """
    first = [index for index, row in enumerate(rows) if not index or row != rows[index - 1]]
    merged = []
    for begin, stop in itertools.pairwise([*first, len(rows)]):
        part = predictions[begin:stop]
        spans = best_of([prediction["spans"] for prediction in part], count)
        merged.append({"spans": spans, "none": min(prediction["none"] for prediction in part)})
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
    scores, index = both.topk(min(count, both.shape[1]), dim=1)
    first = index // longest
    return scores, first, first + index % longest


def best_of(groups: list[list[Any]], count: int) -> list[Any]:
    """The `count` likeliest of several lists of [start, end, score], each span once, best first."""
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


def written_answer_ids(
    processor: Processor, context: str, question: str, answer: str, size: int
) -> tuple[list[int], list[int], int, int]:
    """(ids to read, ids to write, tokens of context and question cut, tokens of the answer cut), for a model that generates.

    The text has a line each for the context and the question, then the answer and the end token; `size` ids at most. A quarter of
    `size` is reserved for the answer whatever its length, so that the length of the context does not depend on the answer. Of a
    context that is too long, the part with most of the question's tokens is used.
    """
    context_ids, question_ids, newline, answer_ids = processor.plain_ids([context, question, "\n", answer])
    start = [] if processor.bos_id is None else [processor.bos_id]
    end = [] if processor.eos_id is None else [processor.eos_id]
    available = size - size // 4 - 2 * len(newline) - len(start)
    question_part = question_ids[: available // 2]
    first, stop = likeliest_part(context_ids, question_part, available - len(question_part))
    source = [*start, *context_ids[first:stop], *newline, *question_part, *newline]
    full_target = [*answer_ids, *end]
    target = full_target[: size - len(source)]
    cut = len(context_ids) - (stop - first) + len(question_ids) - len(question_part)
    return source, target, cut, len(full_target) - len(target)
