"""Laws of the dialogue world, recomputed from the messages alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from typing import Any

import pytest

from llmstage.demo.dialogue import CLOSED_FACTS, MAX_TOKENS, OPEN_FACTS, dialogue_rows, estimate_tokens
from llmstage.demo.dialogue_sentences import LANGUAGES

ROWS = dialogue_rows(1500, 0)
CONTENT = "import json; from llmstage.demo.dialogue import dialogue_rows; print(json.dumps(dialogue_rows(40, 3)))"


def text_of(row: dict[str, Any]) -> str:
    return "\n".join(message["content"] for message in row["messages"])


def values_in(text: str, language: str, kind: str) -> list[str]:
    """Every value of a kind that a text holds, found without the generator's bookkeeping."""
    if kind == "order_number":
        return re.findall(r"(?<!\d)\d{5}(?!\d)", text)
    if kind == "date":
        months = "|".join(LANGUAGES[language].months)
        return re.findall(rf"\d\d (?:{months})" if language == "en" else r"(?<!\d)\d月\d\d日", text)
    return [value for value in LANGUAGES[language].facts[kind].values if value in text]


def test_equal_arguments_give_equal_rows_in_any_process():
    outputs = set()
    for hash_seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed}
        outputs.add(subprocess.run([sys.executable, "-c", CONTENT], env=env, capture_output=True, check=True).stdout)
    assert len(outputs) == 1
    assert dialogue_rows(1500, 0) == ROWS


def test_a_longer_list_begins_with_the_shorter_one():
    assert dialogue_rows(300, 0) == ROWS[:300]


@pytest.mark.parametrize("seed", [1, -1, 2**40])
def test_rows_are_distinct_and_seeds_share_none(seed: int):
    texts = {text_of(row) for row in ROWS}
    assert len(texts) == len(ROWS)
    shared = texts & {text_of(row) for row in dialogue_rows(1500, seed)}
    assert len(shared) <= 1


def test_turns_alternate_and_stay_within_bounds():
    for row in ROWS:
        roles = [message["role"] for message in row["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert 5 <= len(roles) // 2 <= 12
        assert 2 <= len(row["recalls"]) <= 4
        assert all(message["content"].strip() == message["content"] != "" for message in row["messages"])


def test_the_answer_stands_in_the_reply_and_no_wrong_value_does():
    for row in ROWS:
        for recall in row["recalls"]:
            message = row["messages"][recall["turn"]]
            assert message["role"] == "assistant"
            assert values_in(message["content"], row["language"], recall["kind"]) == [recall["answer"]]
            assert not any(other in message["content"] for other in recall["others"])


def test_every_reply_with_a_value_is_listed_as_a_recall():
    for row in ROWS:
        listed = {recall["turn"] for recall in row["recalls"]}
        for turn, message in enumerate(row["messages"]):
            if message["role"] == "assistant" and turn not in listed:
                held = [
                    v for k in (*CLOSED_FACTS, *OPEN_FACTS) for v in values_in(message["content"], row["language"], k)
                ]
                assert held == []


def test_distance_is_counted_from_the_last_message_that_held_the_answer():
    distances: Counter[int] = Counter()
    for row in ROWS:
        for recall in row["recalls"]:
            before = row["messages"][: recall["turn"]]
            held = [i for i, message in enumerate(before) if recall["answer"] in message["content"]]
            assert recall["distance"] == recall["turn"] - held[-1]
            distances[recall["distance"]] += 1
    assert set(distances) == set(range(1, 12))


def test_others_are_all_wrong_values_said_before():
    corrected = 0
    for row in ROWS:
        for recall in row["recalls"]:
            before = "\n".join(message["content"] for message in row["messages"][: recall["turn"]])
            held = set(values_in(before, row["language"], recall["kind"]))
            assert held - {recall["answer"]} == set(recall["others"])
            corrected += bool(recall["others"])
    assert corrected > 100


def filled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(pattern).replace(r"\{\}", "(.+?)") for pattern in patterns))


def test_the_answer_is_what_the_user_stated_or_corrected_last():
    """Replays each conversation with a parser of the users' sentences; a friend's name is never the answer."""
    replaced = 0
    for row in ROWS:
        language = LANGUAGES[row["language"]]
        stated: dict[str, list[str]] = defaultdict(list)
        recalls = {recall["turn"]: recall for recall in row["recalls"]}
        for turn, message in enumerate(row["messages"]):
            if message["role"] == "user":
                for name, kind in language.facts.items():
                    if any(filled((remark,)).search(message["content"]) for remark, _ in kind.strays):
                        continue
                    found = filled((*kind.states, *kind.corrections, *kind.retorts)).search(message["content"])
                    if found:
                        stated[name] += values_in(found.group(), row["language"], name)
            elif turn in recalls:
                recall = recalls[turn]
                assert recall["answer"] == stated[recall["kind"]][-1]
                assert set(stated[recall["kind"]][:-1]) <= set(recall["others"])
                replaced += len(stated[recall["kind"]]) > 1
    assert replaced > 100


def test_closed_kinds_are_marked_and_all_kinds_and_languages_occur():
    assert Counter(row["language"] for row in ROWS) == {"en": 750, "zh": 750}
    for language in LANGUAGES:
        recalls = [recall for row in ROWS if row["language"] == language for recall in row["recalls"]]
        assert {recall["kind"] for recall in recalls} == {*CLOSED_FACTS, *OPEN_FACTS}
        assert all(recall["closed"] == (recall["kind"] in CLOSED_FACTS) for recall in recalls)


def test_a_reply_follows_from_what_stands_above_it():
    """With values masked, a user's sentence (and the fact it is about) has one reply."""
    replies: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in ROWS:
        about = {recall["turn"]: recall["kind"] for recall in row["recalls"]}
        for turn in range(1, len(row["messages"]), 2):
            said = [row["messages"][turn - 1]["content"], row["messages"][turn]["content"]]
            for kind in (*CLOSED_FACTS, *OPEN_FACTS):
                for value in sorted({v for text in said for v in values_in(text, row["language"], kind)}):
                    said = [text.replace(value, f"<{kind}>") for text in said]
            replies[said[0], about.get(turn, "")].add(said[1])
    assert {key: values for key, values in replies.items() if len(values) > 1} == {}


def test_no_value_is_part_of_another_or_of_a_sentence():
    for language in LANGUAGES.values():
        values = [value for kind in language.facts.values() for value in kind.values]
        assert len(set(values)) == len(values)
        assert not any(a != b and a in b for a in values for b in values)
        plain = [text for asks, reply in language.fillers for text in (*asks, reply)]
        for kind in language.facts.values():
            plain += [kind.noted, kind.changed, *kind.states, *kind.corrections, *kind.retorts]
            plain += [text for pair in (*kind.asks, *kind.strays) for text in pair]
        assert not any(value in text for value in values for text in plain)


def test_text_is_clean_and_chinese_stays_chinese():
    for row in ROWS:
        text = text_of(row)
        assert text.encode("utf-8").decode("utf-8") == text
        assert "{" not in text and "�" not in text and "  " not in text
        assert bool(re.search(r"[一-鿿]", text)) == (row["language"] == "zh")
        assert bool(re.search(r"[A-Za-z]", text)) == (row["language"] == "en")


def test_a_tokenizer_of_2048_entries_serves_both_languages():
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=2048, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator((message["content"] for row in ROWS for message in row["messages"]), trainer)
    for row in dialogue_rows(300, 1):
        lengths = [len(tokenizer.encode(message["content"]).ids) + 2 for message in row["messages"]]
        assert 1 + sum(lengths) <= 230
        assert estimate_tokens(row["messages"]) <= MAX_TOKENS
    for language in LANGUAGES.values():
        for kind in language.facts.values():
            assert all(len(tokenizer.encode(f" {value}").ids) == 1 for value in kind.values)
