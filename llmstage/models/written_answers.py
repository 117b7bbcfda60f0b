"""A question about a text as the ids of one text, for models that write the answer."""

from __future__ import annotations

from llmstage.data.question_rows import likeliest_part
from llmstage.tokenization.tokenizer import Processor


def reading_ids(
    processor: Processor, context: str, question: str, answer: str, size: int
) -> tuple[list[int], list[int], int, int]:
    """(ids to read, ids to write, tokens of context and question cut, tokens of the answer cut); `size` ids at most.

    A line each for the context and the question, then the answer and the end. A quarter of `size` is kept free for the
    answer whatever its length: the part of the context that is shown must not tell it. Of a context that is too long,
    the part with most of the question's tokens is kept.
    """
    context_ids, question_ids, line, answer_ids = processor.plain_ids([context, question, "\n", answer])
    start = [] if processor.bos_id is None else [processor.bos_id]
    end = [] if processor.eos_id is None else [processor.eos_id]
    room = size - size // 4 - 2 * len(line) - len(start)
    asked = question_ids[: room // 2]
    first, stop = likeliest_part(context_ids, asked, room - len(asked))
    source = [*start, *context_ids[first:stop], *line, *asked, *line]
    target = [*answer_ids, *end]
    kept = target[: size - len(source)]
    cut = len(context_ids) - (stop - first) + len(question_ids) - len(asked)
    return source, kept, cut, len(target) - len(kept)
