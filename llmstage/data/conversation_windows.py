"""Long conversations in parts: windows of whole turns, in which every answer is learned once."""

from __future__ import annotations


def windows(
    lengths: list[int], is_answer: list[bool], context: int, reserve: int = 0
) -> list[tuple[int, int, list[int]]]:
    """(first turn, last turn, answers that are targets) of each window; every answer is a target in exactly one.

    A window holds whole turns. The next one begins as early as its first new answer lets it fit with about half of the
    context left for what follows, so that an answer keeps a history. `reserve` tokens stand at the head of every later
    window (the system message, or the mark that begins a conversation).
    """
    answers = [index for index, answer in enumerate(is_answer) if answer]
    out: list[tuple[int, int, list[int]]] = []
    first = 0
    while answers:
        if len(out) == 1:
            context -= reserve
        if out:  # history for the next answer: whole turns before it within half of the context
            first = answers[0]
            while first > 0 and sum(lengths[first - 1 : answers[0] + 1]) <= max(
                context // 2, lengths[answers[0]] + lengths[answers[0] - 1]
            ):
                first -= 1
        taken = [index for index in answers if sum(lengths[first : index + 1]) <= context]
        if (
            not taken
        ):  # not even one fits: nearer history, and if that is not enough the answer itself is cut and counted
            while first < answers[0] - 1 and sum(lengths[first : answers[0] + 1]) > context:
                first += 1
            taken = [index for index in answers if sum(lengths[first : index + 1]) <= context] or answers[:1]
        out.append((first, taken[-1], taken))
        answers = answers[len(taken) :]
    return out
