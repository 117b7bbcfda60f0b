"""The dialogue world: customers of a small shop state facts, correct some of them, and ask for them again later.

Remembering is a known, graded difficulty here. Every assistant message that must recall a fact is listed in `recalls`
with the right answer, the wrong values of the same kind that stand nearer or farther, and the distance in turns.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from llmstage.data.rows import Row
from llmstage.demo.dialogue_sentences import LANGUAGES, Kind, Language

CLOSED_KINDS = ("name", "item", "city", "day")
OPEN_KINDS = ("order_number", "date")
TURNS = range(5, 13)  # of the user
RECALLS = range(2, 5)
MAX_DISTANCE = 11
MAX_TOKENS = 220


def dialogue_rows(num_rows: int, seed: int) -> list[Row]:
    """`num_rows` distinct conversations, English and Chinese in turn.

    A row is `{"messages": [{"role", "content"}, ...], "language": "en" | "zh", "recalls": [...]}`; a recall is
    `{"turn": index of the assistant message, "kind", "answer": verbatim in that message, "distance": messages since the
    one that last held the answer, "closed": True where the kind's values are a small fixed set, "others": values of the
    same kind mentioned before that would be wrong}`. A correction is told from other wrong values by nothing but the
    conversation itself. Equal arguments give equal rows, and a longer list begins with the shorter one.
    """
    rng = random.Random(f"dialogue {seed}")  # text is seeded by its SHA-512; -1 and 1 differ, unlike as numbers
    rows: list[Row] = []
    seen: set[str] = set()
    while len(rows) < num_rows:
        row = draw_row(rng, tuple(LANGUAGES)[len(rows) % len(LANGUAGES)])
        key = "\n".join(message["content"] for message in row["messages"])
        if key not in seen:
            seen.add(key)
            rows.append(row)
    return rows


def draw_row(rng: random.Random, language: str) -> Row:
    """One conversation; a draw with too many turns, recalls, tokens or too long a distance is drawn again."""
    while True:
        talk = Talk(LANGUAGES[language], rng)
        talk.hold(draw_events(rng))
        if (
            len(talk.messages) // 2 in TURNS
            and len(talk.recalls) in RECALLS
            and all(recall["distance"] <= MAX_DISTANCE for recall in talk.recalls)
            and count_pieces(talk.messages) <= MAX_TOKENS
        ):
            return {"messages": talk.messages, "language": language, "recalls": talk.recalls}


def count_pieces(messages: list[dict[str, str]]) -> int:
    """About the number of tokens a small BPE trained on this world needs: words, digits, marks, two tags a message."""
    return 1 + sum(2 + len(re.findall(r"[^\W\d_]+|\S", message["content"])) for message in messages)


@dataclass(slots=True, frozen=True)
class Event:
    """What the user does in one turn."""

    act: str
    """state, correct, ask, stray, fill"""
    kind: str = ""


def draw_events(rng: random.Random) -> list[Event]:
    """A conversation's events in order: each gets a time between 0 and 1, later than what it depends on."""
    kinds = rng.sample(CLOSED_KINDS, rng.choice((2, 2, 3)))
    if rng.random() < 0.3:
        kinds.append(rng.choice(OPEN_KINDS))
    corrected = rng.choice(kinds) if rng.random() < 0.3 else None
    timed: list[tuple[float, Event]] = []
    for kind in kinds:
        time = rng.uniform(0, 0.4)
        timed.append((time, Event("state", kind)))
        if kind == corrected:
            if rng.random() < 0.35:  # asked, heard, corrected
                time = rng.uniform(time, 0.6)
                timed.append((time, Event("ask", kind)))
            time = time + 1e-6 if rng.random() < 0.5 else rng.uniform(time, 0.7)
            timed.append((time, Event("correct", kind)))
        timed.append((rng.uniform(time, 1), Event("ask", kind)))
    for _ in range(rng.randint(0, 4)):
        timed.append((rng.uniform(0.1, 1), Event("fill")))
    if rng.random() < 0.25:
        timed.append((rng.uniform(0.1, 0.9), Event("stray", rng.choice(CLOSED_KINDS))))
    return [event for _, event in sorted(timed, key=lambda item: item[0])]


class Talk:
    """A conversation in the making: what was said, who was told what, and what must be recalled."""

    def __init__(self, language: Language, rng: random.Random) -> None:
        self.language = language
        self.rng = rng
        self.messages: list[dict[str, str]] = []
        self.recalls: list[Row] = []
        self.facts: dict[str, str] = {}
        self.mentioned: dict[str, dict[str, int]] = {kind: {} for kind in language.kinds}
        """Kind to value to the index of the last message that holds it."""
        self.fillers = rng.sample(language.fillers, len(language.fillers))

    def hold(self, events: list[Event]) -> None:
        """Turn events into messages; two facts stated in a row are sometimes told in one breath."""
        rng, words = self.rng, self.language
        waiting = list(events)
        last = ""
        while waiting:
            event = waiting.pop(0)
            kind = words.kinds.get(event.kind)
            if event.act == "fill" or kind is None:
                asks, reply = self.fillers.pop()
                self.say(rng.choice(asks), reply)
            elif event.act == "stray":
                remark, reply = rng.choice(kind.strays)
                self.say(remark.format(self.draw_value(event.kind)), reply)
            elif event.act == "ask":
                question, reply = rng.choice(kind.asks)
                self.recall(question, reply, event.kind)
            elif event.act == "state" and waiting and waiting[0].act == "state" and rng.random() < 0.4:
                also = waiting.pop(0)
                told = [self.tell(event.kind, rng.choice(kind.states))]
                told.append(self.tell(also.kind, rng.choice(words.kinds[also.kind].states)))
                self.say(words.join.join(told), words.noted_both)
                kind = None
            elif event.act == "state":
                self.tell_and_note(event.kind, rng.choice(kind.states), kind, kind.noted)
            else:
                near = kind.retorts if last == event.kind else ()
                self.tell_and_note(event.kind, rng.choice(near or kind.corrections), kind, kind.changed)
            last = event.kind if kind and event.act != "stray" else ""
        if rng.random() < 0.4:
            self.say(*rng.choice(words.farewells))

    def tell_and_note(self, name: str, pattern: str, kind: Kind, noted: str) -> None:
        text = self.tell(name, pattern)
        if self.rng.random() < 0.5:
            request = f"{text}{self.language.join}{self.rng.choice(self.language.repeats)}"
            self.recall(request, kind.asks[0][1], name)
        else:
            self.say(text, noted)

    def tell(self, kind: str, pattern: str) -> str:
        """The user's sentence with a new value, which from now on is the fact."""
        self.facts[kind] = self.draw_value(kind)
        return pattern.format(self.facts[kind])

    def draw_value(self, kind: str) -> str:
        """A value of this kind that the conversation has not seen; mentioned in the message that comes next."""
        words, rng = self.language, self.rng
        while True:
            if kind == "order_number":
                value = str(rng.randrange(10000, 100000))
            elif kind == "date":
                value = words.date.format(day=rng.randrange(10, 29), month=rng.choice(words.months))
            else:
                value = rng.choice(words.kinds[kind].values)
            if value not in self.mentioned[kind]:
                self.mentioned[kind][value] = len(self.messages)
                return value

    def recall(self, question: str, pattern: str, kind: str) -> None:
        """The user asks, the assistant answers with the fact."""
        answer, turn = self.facts[kind], len(self.messages) + 1
        seen = self.mentioned[kind]
        self.recalls.append(
            {
                "turn": turn,
                "kind": kind,
                "answer": answer,
                "distance": turn - seen[answer],
                "closed": kind in CLOSED_KINDS,
                "others": [value for value in seen if value != answer],
            }
        )
        self.say(question, pattern.format(answer))
        seen[answer] = turn

    def say(self, user: str, assistant: str) -> None:
        """One turn of each; the first is opened by a greeting, which the assistant returns."""
        if not self.messages:
            hello, returned = self.rng.choice(self.language.greetings)
            user, assistant = (self.language.join.join(pair) for pair in ((hello, user), (returned, assistant)))
        self.messages += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
