"""The dialogue world: customers of a small shop state facts, correct some of them, and ask for them later.

The difficulty of recall is known and graded. `recalls` lists every assistant message that must recall a fact, with the right
answer, the wrong values of the same type in the conversation, and the distance in messages.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from llmstage.data.rows import Row
from llmstage.demo.dialogue_sentences import LANGUAGES, FactPatterns, Language

CLOSED_FACTS = ("name", "item", "city", "day")
OPEN_FACTS = ("order_number", "date")
TURNS = range(5, 13)  # user messages
RECALLS = range(2, 5)
MAX_DISTANCE = 11
MAX_TOKENS = 220


def dialogue_rows(num_rows: int, seed: int) -> list[Row]:
    """Return `num_rows` distinct conversations; English and Chinese alternate.

    A row is `{"messages": [{"role", "content"}, ...], "language": "en" | "zh", "recalls": [...]}`. A recall is `{"turn": index
    of the assistant message, "kind": type of the fact, "answer": text in that message, "distance": messages since the last
    one with the answer, "closed": True where the values of the type are a small fixed set, "others": earlier values of the
    same type, which are wrong}`. Only the conversation distinguishes a correction from other values. Equal arguments give
    equal rows, and a longer list begins with the shorter one.
    """
    rng = random.Random(f"dialogue {seed}")  # as texts, the seeds -1 and 1 differ; as numbers, they are equal
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
    """Draw one conversation, again where it has too many turns, recalls or tokens, or too long a distance."""
    while True:
        conversation = Conversation(LANGUAGES[language], rng)
        conversation.add_events(draw_events(rng))
        if (
            len(conversation.messages) // 2 in TURNS
            and len(conversation.recalls) in RECALLS
            and all(recall["distance"] <= MAX_DISTANCE for recall in conversation.recalls)
            and estimate_tokens(conversation.messages) <= MAX_TOKENS
        ):
            return {"messages": conversation.messages, "language": language, "recalls": conversation.recalls}


def estimate_tokens(messages: list[dict[str, str]]) -> int:
    """Estimate the tokens of a small BPE that is trained on this world: words, digits, marks, two special tokens a message."""
    return 1 + sum(2 + len(re.findall(r"[^\W\d_]+|\S", message["content"])) for message in messages)


@dataclass(slots=True, frozen=True)
class Event:
    """One action of the user."""

    act: str
    """state, correct, ask, stray, fill"""
    fact_type: str = ""


def draw_events(rng: random.Random) -> list[Event]:
    """Draw the events of a conversation: each gets a random time between 0 and 1, later than the events it depends on."""
    facts = rng.sample(CLOSED_FACTS, rng.choice((2, 2, 3)))
    if rng.random() < 0.3:
        facts.append(rng.choice(OPEN_FACTS))
    corrected = rng.choice(facts) if rng.random() < 0.3 else None
    timed: list[tuple[float, Event]] = []
    for fact_type in facts:
        time = rng.uniform(0, 0.4)
        timed.append((time, Event("state", fact_type)))
        if fact_type == corrected:
            if rng.random() < 0.35:  # ask, hear the answer, correct it
                time = rng.uniform(time, 0.6)
                timed.append((time, Event("ask", fact_type)))
            time = time + 1e-6 if rng.random() < 0.5 else rng.uniform(time, 0.7)
            timed.append((time, Event("correct", fact_type)))
        timed.append((rng.uniform(time, 1), Event("ask", fact_type)))
    for _ in range(rng.randint(0, 4)):
        timed.append((rng.uniform(0.1, 1), Event("fill")))
    if rng.random() < 0.25:
        timed.append((rng.uniform(0.1, 0.9), Event("stray", rng.choice(CLOSED_FACTS))))
    return [event for _, event in sorted(timed, key=lambda item: item[0])]


class Conversation:
    """A conversation that is being generated: its messages, the current facts, and the recalls."""

    def __init__(self, language: Language, rng: random.Random) -> None:
        self.language = language
        self.rng = rng
        self.messages: list[dict[str, str]] = []
        self.recalls: list[Row] = []
        self.facts: dict[str, str] = {}
        self.mentioned: dict[str, dict[str, int]] = {fact_type: {} for fact_type in language.facts}
        """Type of fact to value to the index of the last message with the value."""
        self.fillers = rng.sample(language.fillers, len(language.fillers))

    def add_events(self, events: list[Event]) -> None:
        """Convert events to messages. Two adjacent statements are sometimes one message."""
        rng, language = self.rng, self.language
        remaining = list(events)
        last = ""  # type of the fact of the last turn
        while remaining:
            event = remaining.pop(0)
            patterns = language.facts.get(event.fact_type)
            if event.act == "fill" or patterns is None:
                questions, reply = self.fillers.pop()
                self.add_turn(rng.choice(questions), reply)
            elif event.act == "stray":
                remark, reply = rng.choice(patterns.strays)
                self.add_turn(remark.format(self.draw_value(event.fact_type)), reply)
            elif event.act == "ask":
                question, reply = rng.choice(patterns.asks)
                self.recall(question, reply, event.fact_type)
            elif event.act == "state" and remaining and remaining[0].act == "state" and rng.random() < 0.4:
                second = remaining.pop(0)
                statements = [self.state(event.fact_type, rng.choice(patterns.states))]
                statements.append(self.state(second.fact_type, rng.choice(language.facts[second.fact_type].states)))
                self.add_turn(language.join.join(statements), language.noted_both)
                patterns = None
            elif event.act == "state":
                self.state_and_note(event.fact_type, rng.choice(patterns.states), patterns, patterns.noted)
            else:
                retorts = patterns.retorts if last == event.fact_type else ()
                self.state_and_note(
                    event.fact_type, rng.choice(retorts or patterns.corrections), patterns, patterns.changed
                )
            last = event.fact_type if patterns and event.act != "stray" else ""
        if rng.random() < 0.4:
            self.add_turn(*rng.choice(language.farewells))

    def state_and_note(self, fact_type: str, pattern: str, patterns: FactPatterns, noted: str) -> None:
        """Add a turn in which the user states a fact; half of the time with a request to repeat it."""
        text = self.state(fact_type, pattern)
        if self.rng.random() < 0.5:
            request = f"{text}{self.language.join}{self.rng.choice(self.language.repeats)}"
            self.recall(request, patterns.asks[0][1], fact_type)
        else:
            self.add_turn(text, noted)

    def state(self, fact_type: str, pattern: str) -> str:
        """Return the sentence of the user with a new value, which becomes the current fact."""
        self.facts[fact_type] = self.draw_value(fact_type)
        return pattern.format(self.facts[fact_type])

    def draw_value(self, fact_type: str) -> str:
        """Draw a value that is not yet in the conversation; the next message mentions it."""
        language, rng = self.language, self.rng
        while True:
            if fact_type == "order_number":
                value = str(rng.randrange(10000, 100000))
            elif fact_type == "date":
                value = language.date.format(day=rng.randrange(10, 29), month=rng.choice(language.months))
            else:
                value = rng.choice(language.facts[fact_type].values)
            if value not in self.mentioned[fact_type]:
                self.mentioned[fact_type][value] = len(self.messages)
                return value

    def recall(self, question: str, pattern: str, fact_type: str) -> None:
        """Add a turn in which the assistant recalls a fact."""
        answer, turn = self.facts[fact_type], len(self.messages) + 1
        seen = self.mentioned[fact_type]
        self.recalls.append(
            {
                "turn": turn,
                "kind": fact_type,
                "answer": answer,
                "distance": turn - seen[answer],
                "closed": fact_type in CLOSED_FACTS,
                "others": [value for value in seen if value != answer],
            }
        )
        self.add_turn(question, pattern.format(answer))
        seen[answer] = turn

    def add_turn(self, user: str, assistant: str) -> None:
        """Add a message of each. The first two begin with a greeting."""
        if not self.messages:
            greeting, reply_greeting = self.rng.choice(self.language.greetings)
            user, assistant = (
                self.language.join.join(pair) for pair in ((greeting, user), (reply_greeting, assistant))
            )
        self.messages += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
