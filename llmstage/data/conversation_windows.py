"""Split long conversations into windows of complete turns, in which every answer is a target once."""

from __future__ import annotations

from collections.abc import Sequence


def windows(
    lengths: Sequence[int],
    is_answer: Sequence[bool],
    context: int,
    reserve: int = 0,
    is_start: Sequence[bool] | None = None,
) -> list[tuple[int, int, list[int]]]:
    """Return (first turn, last turn, answers that are targets) of each window; every answer is a target in exactly one.

    A window has complete turns. The history before its first new answer fills up to about half of the context, so that
    later answers have space. `reserve` tokens are at the beginning of every window that does not begin with turn 0: the
    system message, or the token that begins a conversation. `is_start`: the turns that may begin a window, e.g. questions;
    turn 0 always may.
    """
    answers = [index for index, answer in enumerate(is_answer) if answer]
    out: list[tuple[int, int, list[int]]] = []

    def size(first: int, last: int) -> int:
        return sum(lengths[first : last + 1]) + (reserve if first else 0)

    first = 0
    while answers:
        # The turns from which a window may begin, so that the next answer keeps what it answers.
        starts = [index for index in range(1, answers[0]) if is_start is None or is_start[index]]
        starts = [0, *starts]
        if out:  # history of the next answer: complete turns before it, within half of the context
            limit = max(context // 2, size(starts[-1], answers[0]))
            first = next(index for index in starts if size(index, answers[0]) <= limit)
        fitting = [index for index in answers if size(first, index) <= context]
        if not fitting:  # no answer fits: shorten the history; if that is not enough, the answer is cut and counted
            later = [index for index in starts if index >= first] or starts[-1:]
            first = next((index for index in later if size(index, answers[0]) <= context), later[-1])
            fitting = [index for index in answers if size(first, index) <= context] or answers[:1]
        out.append((first, fitting[-1], fitting))
        answers = answers[len(fitting) :]
    return out
