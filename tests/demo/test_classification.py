"""Laws of the classification world; a bag of single words must not solve it, word pairs and order should."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

from llmstage.demo.classification import LABELS, NEGATED, SENTENCES, classification_rows

ROWS = classification_rows(1200, 0)


def test_pure_and_a_longer_list_begins_with_the_shorter_one():
    assert classification_rows(1200, 0) == ROWS
    assert classification_rows(100, 0) == ROWS[:100]


def test_rows_are_distinct_and_seeds_share_practically_none():
    texts = {row["text"] for row in ROWS}
    assert len(texts) == len(ROWS)
    assert len(texts & {row["text"] for row in classification_rows(1200, 1)}) <= 1


def test_labels_and_languages_are_balanced():
    counts = Counter((row["label"], bool(re.search(r"[一-鿿]", row["text"]))) for row in ROWS)
    assert set(counts) == {(label, chinese) for label in LABELS for chinese in (False, True)}
    assert set(counts.values()) == {100}
    assert {row["label"] for row in classification_rows(20, 5)} == set(LABELS)


def test_rows_hold_clean_text():
    for row in ROWS:
        assert set(row) == {"text", "label"}
        assert row["text"] == row["text"].strip() and "{" not in row["text"] and "  " not in row["text"]
        assert row["text"].encode("utf-8").decode("utf-8") == row["text"]


def test_every_language_has_sentences_of_every_label():
    for language in SENTENCES:
        assert set(SENTENCES[language]) == set(NEGATED[language]) == set(LABELS)


def test_no_single_word_decides():
    """The best rule `a message with this word has that label` finds few of the label's messages, or is often wrong."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for row in ROWS:
        for word in set(re.findall(r"[a-z]+|[一-鿿]", row["text"].lower())):
            seen[word][row["label"]] += 1
    of_label = Counter(row["label"] for row in ROWS)
    for counts in seen.values():
        for label, hits in counts.items():
            precision, recall = hits / counts.total(), hits / of_label[label]
            assert 2 * precision * recall / (precision + recall) < 0.6
