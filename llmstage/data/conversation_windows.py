"""Split long conversations into windows of complete turns, in which every answer is a target once."""

from __future__ import annotations


def windows(
    lengths: list[int], is_answer: list[bool], context: int, reserve: int = 0
) -> list[tuple[int, int, list[int]]]:
    """Return (first turn, last turn, answers that are targets) of each window; every answer is a target in exactly one.

    A window has complete turns. The history before its first new answer fills up to about half of the context, so that
    later answers have space. `reserve` tokens are at the beginning of every window but the first: the system message, or
    the token that begins a conversation.
    """
    answers = [index for index, answer in enumerate(is_answer) if answer]
    out: list[tuple[int, int, list[int]]] = []
    first = 0
    while answers:
        if len(out) == 1:
            context -= reserve
        if out:  # history of the next answer: complete turns before it, within half of the context
            first = answers[0]
            while first > 0 and sum(lengths[first - 1 : answers[0] + 1]) <= max(
                context // 2, lengths[answers[0]] + lengths[answers[0] - 1]
            ):
                first -= 1
        fitting = [index for index in answers if sum(lengths[first : index + 1]) <= context]
        if not fitting:  # no answer fits: shorten the history; if that is not enough, the answer is cut and counted
            while first < answers[0] - 1 and sum(lengths[first : answers[0] + 1]) > context:
                first += 1
            fitting = [index for index in answers if sum(lengths[first : index + 1]) <= context] or answers[:1]
        out.append((first, fitting[-1], fitting))
        answers = answers[len(fitting) :]
    return out
