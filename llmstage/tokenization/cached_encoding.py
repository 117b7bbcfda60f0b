"""Encode many texts at once with a cache: each part of a text (a word, as a rule) is encoded once and looked up afterwards.

A byte-level BPE splits a text into words by a pattern before it applies its merges, and the splitting takes most of the time. In
GPT-2's pattern and those made from it no word crosses a space or a line end that a visible character follows. So a text may be split there
first, and its ids are those of its parts, one after the other. Arrow splits and counts; the tokenizer encodes each part once, many
of them in one text: a call for each part costs five times as much as its merges.
"""

from __future__ import annotations

import json
import re
from itertools import chain, pairwise, repeat
from typing import Any

import numpy as np

MAX_CACHED_PARTS = 300_000
"""Parts whose ids are cached: some 60 MB. Texts of words need fewer; parts beyond this number are encoded each time."""
MAX_CACHED_CHARACTERS = 48
"""Characters of a cached part at most: Chinese sentences have no spaces, and do not occur again."""
MIN_TEXTS = 64
MIN_CHARACTERS = 2_000_000
"""Texts and characters in a call from which on the cache is faster: Arrow takes half a second to load."""
SEPARATOR = "\x00"
UNSUPPORTED = r"[\x00\x0b\x1c-\x1f\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]"
"""The separator itself, and white space that Arrow's patterns do not match: texts with any of it are encoded without the cache."""
WHITE_SPACE_RUN = r"\s\s(?:\s|$)"
"""A run of white space, of which one word may contain several characters: all but the last one before a visible character."""
PART_START = re.compile(r"[ \n]\S")
"""The beginning of a part that may follow any other part."""
JOINED_BYTES = 4_000
"""Bytes of new parts that the tokenizer encodes as one text."""
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def is_large(texts: list[str]) -> bool:
    """Whether there is enough text for the cache to be faster."""
    return len(texts) >= MIN_TEXTS and sum(map(len, texts)) >= MIN_CHARACTERS


def splits_at_spaces(tokenizer: Any, patterns: tuple[str, ...]) -> bool:
    """Whether the ids of a text are those of its parts: a byte-level BPE that splits by one of `patterns` and does not normalize.

    `tokenizer`: of the package tokenizers. Added tokens that are not special would be searched in full texts, so there must be none.
    """
    state = json.loads(tokenizer.to_str())
    if state["normalizer"] is not None or state["model"]["type"] != "BPE" or state["model"].get("dropout"):
        return False
    if not all(token["special"] for token in state["added_tokens"]):
        return False
    before = state["pre_tokenizer"] or {}
    steps = before.get("pretokenizers", [before])
    *cuts, last = steps
    if last.get("type") != "ByteLevel" or last["add_prefix_space"]:
        return False
    if not cuts:
        return bool(last["use_regex"])
    (first, *more) = cuts
    known = first.get("type") == "Split" and first["pattern"].get("Regex") in patterns and not first["invert"]
    return bool(known and not more and first["behavior"] == "Isolated" and not last["use_regex"])


class CachedEncoder:
    """Ids of texts, part by part. `tokenizer`: one for which splits_at_spaces() is true."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.part_numbers: dict[str, int] = {}
        """Part -> its number among the cached ones."""
        self.starts, self.lengths = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.flat = np.zeros(0, np.int32)
        """The ids of all cached parts. Those of part i are flat[starts[i] : starts[i] + lengths[i]]."""
        self.bytes = bytes_of(tokenizer)

    def __call__(self, texts: list[str]) -> list[np.ndarray]:
        """Ids of each text. Those of texts that were split are slices of one array."""
        import pyarrow as pa
        import pyarrow.compute as pc

        array = pa.array(texts, pa.large_string())
        odd = pc.match_substring_regex(array, UNSUPPORTED).to_numpy(zero_copy_only=False)
        rest, plain = np.flatnonzero(odd).tolist(), np.flatnonzero(~odd).tolist()
        out = [np.zeros(0, np.int32)] * len(texts)
        for number, ids in zip(rest, self.uncached([texts[number] for number in rest]), strict=True):
            out[number] = np.asarray(ids, np.int32)
        if plain:
            for number, text_ids in zip(plain, self.by_parts(array.filter(pa.array(~odd))), strict=True):
                out[number] = text_ids
        return out

    def uncached(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text by the tokenizer alone."""
        return [coded.ids for coded in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def by_parts(self, array: Any) -> list[np.ndarray]:
        """Ids of each text of an Arrow array."""
        import pyarrow.compute as pc

        if pc.any(pc.match_substring_regex(array, WHITE_SPACE_RUN)).as_py():  # a third slower
            marked = pc.replace_substring_regex(array, pattern=r"([ \n]\S)", replacement=SEPARATOR + r"\1")
        else:
            marked = pc.replace_substring(pc.replace_substring(array, " ", SEPARATOR + " "), "\n", SEPARATOR + "\n")
        cut = pc.split_pattern(marked, pattern=SEPARATOR)
        counted = cut.flatten().dictionary_encode()
        starts, lengths, flat = self.ids_of(counted.dictionary.to_pylist())
        order = counted.indices.to_numpy()
        sizes = lengths[order]
        ends = np.cumsum(sizes)
        # Index into `flat` of every id: the start of its part, plus its offset within the part.
        index = np.repeat(starts[order] - (ends - sizes), sizes)
        index += np.arange(len(index))
        bounds = np.concatenate([[0], ends])[cut.offsets.to_numpy()].tolist()
        ids = flat[index]
        return [ids[start:stop] for start, stop in pairwise(bounds)]

    def ids_of(self, parts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(starts, lengths, flat): ids of part i are flat[starts[i] : starts[i] + lengths[i]]."""
        number = np.fromiter(map(self.part_numbers.get, parts, repeat(-1)), np.int64, len(parts))
        known, available = len(self.part_numbers), max(0, MAX_CACHED_PARTS - len(self.part_numbers))
        # 1. New parts that the cache takes.
        unseen = np.flatnonzero(number < 0).tolist()
        cached = [index for index in unseen if len(parts[index]) <= MAX_CACHED_CHARACTERS][:available]
        cached, lengths, flat = self.encoded(parts, cached)
        number[cached] = range(known, known + len(cached))
        self.part_numbers.update((parts[index], known + at) for at, index in enumerate(cached))
        self.starts = np.concatenate([self.starts, len(self.flat) + np.cumsum(lengths) - lengths])
        self.lengths, self.flat = np.concatenate([self.lengths, lengths]), np.concatenate([self.flat, flat])
        # 2. The others, which are encoded for this call only.
        once, lengths, flat = self.encoded(parts, np.flatnonzero(number < 0).tolist())
        number[once] = range(len(self.part_numbers), len(self.part_numbers) + len(once))
        starts = np.concatenate([self.starts, len(self.flat) + np.cumsum(lengths) - lengths])
        return starts[number], np.concatenate([self.lengths, lengths])[number], np.concatenate([self.flat, flat])

    def encoded(self, parts: list[str], indices: list[int]) -> tuple[list[int], np.ndarray, np.ndarray]:
        """(the indices in another order [N], the number of ids of the part at each [N], all ids, one after the other)."""
        joined = [index for index in indices if PART_START.match(parts[index])]
        alone = sorted(set(indices).difference(joined))
        groups = [
            self.joined([parts[index] for index in joined]),
            flattened(self.uncached([parts[index] for index in alone])),
        ]
        lengths, flat = (np.concatenate(both) for both in zip(*groups, strict=True))
        return joined + alone, lengths, flat

    def joined(self, parts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """(number of ids of each part, all ids) of parts before which a text may be split, encoded many at once.

        The number of bytes that each id encodes assigns the ids to the parts.
        """
        ends = np.cumsum(np.fromiter((len(part.encode()) for part in parts), np.int64, len(parts)))
        if not len(ends):
            return ends, ends
        bounds = [0, *np.searchsorted(ends, range(JOINED_BYTES, ends[-1], JOINED_BYTES)).tolist(), len(parts)]
        texts = ["".join(parts[start:stop]) for start, stop in pairwise(bounds)]
        _, flat = flattened(self.uncached(texts))
        reached = np.cumsum(self.bytes[flat])
        last = np.searchsorted(reached, ends)
        if reached[-1] != ends[-1] or (reached[last] != ends).any():
            return flattened(self.uncached(parts))  # a vocabulary that lacks some byte
        return np.diff(last + 1, prepend=0), flat


def bytes_of(tokenizer: Any) -> np.ndarray:
    """The number of bytes that each id of a byte-level BPE encodes: one for each letter of its token."""
    vocabulary = tokenizer.get_vocab()
    sizes = np.zeros(max(vocabulary.values(), default=-1) + 1, np.int64)
    for name, number in vocabulary.items():
        sizes[number] = len(name)
    return sizes


def flattened(lists: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """(lengths, all ids one after the other)."""
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    return lengths, np.fromiter(chain.from_iterable(lists), np.int32, int(lengths.sum()))
