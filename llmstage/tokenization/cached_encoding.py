"""Ids of many texts at once: each word is encoded once, and found again whenever it comes back.

A byte-level BPE cuts a text into pieces by a pattern before it looks at its merges, and the cutting takes most of the time. In
GPT-2's pattern and those made from it no piece reaches over a space or a line's end that something visible follows, so a text may be
cut there first, and its ids are those of its parts, side by side. Cutting and counting are done by Arrow; the tokenizer sees each part
once, many of them in one text: a call for each part costs five times what its merges do.
"""

from __future__ import annotations

import json
import re
from itertools import chain, pairwise, repeat
from typing import Any

import numpy as np

MOST = 300_000
"""Parts whose ids are kept: some 60 MB. A text of words needs fewer; what comes when they are full is encoded anew each time."""
LONGEST = 48
"""Bytes of a part that is kept: Chinese sentences have no spaces, and do not come back."""
FEWEST = 64
LEAST = 2_000_000
"""Texts and characters in a call from which on it pays: Arrow takes half a second to load."""
CUT = "\x00"
ODD = r"[\x00\x0b\x1c-\x1f\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]"
"""The mark itself, and white space that Arrow's patterns do not know as such: texts with any of it are encoded as they are."""
RUN = r"\s\s(?:\s|$)"
"""White space of which a piece may hold two characters: all of it but the last one that something visible follows."""
BEGIN = re.compile(r"[ \n]\S")
"""How a part begins that may follow any other."""
JOINED = 4_000
"""Bytes of new parts that the tokenizer is given as one text."""
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def is_large(texts: list[str]) -> bool:
    return len(texts) >= FEWEST and sum(map(len, texts)) >= LEAST


def splits_at_spaces(tokenizer: Any, patterns: tuple[str, ...]) -> bool:
    """Whether ids of a text are those of its parts: a byte-level BPE that cuts by one of `patterns` and changes nothing before.

    `tokenizer`: of the package tokenizers. Its own added tokens would be looked for in whole texts, unless they are special.
    """
    told = json.loads(tokenizer.to_str())
    if told["normalizer"] is not None or told["model"]["type"] != "BPE" or told["model"].get("dropout"):
        return False
    if not all(token["special"] for token in told["added_tokens"]):
        return False
    before = told["pre_tokenizer"] or {}
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
    """Ids of texts, part by part. `tokenizer`: one of which cuts_at_spaces() is true."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.places: dict[str, int] = {}
        """Part -> its number among the kept ones."""
        self.starts, self.lengths = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.flat = np.zeros(0, np.int32)
        """Where the ids of each kept part begin in `flat`, and how many they are."""
        self.bytes = bytes_of(tokenizer)

    def __call__(self, texts: list[str]) -> list[np.ndarray]:
        """Ids of each text. Those of texts that were cut are parts of one array."""
        import pyarrow as pa
        import pyarrow.compute as pc

        laid = pa.array(texts, pa.large_string())
        odd = pc.match_substring_regex(laid, ODD).to_numpy(zero_copy_only=False)
        rest, plain = np.flatnonzero(odd).tolist(), np.flatnonzero(~odd).tolist()
        out = [np.zeros(0, np.int32)] * len(texts)
        for number, ids in zip(rest, self.whole([texts[number] for number in rest]), strict=True):
            out[number] = np.asarray(ids, np.int32)
        if plain:
            for number, found in zip(plain, self.by_parts(laid.filter(pa.array(~odd))), strict=True):
                out[number] = found
        return out

    def whole(self, texts: list[str]) -> list[list[int]]:
        return [coded.ids for coded in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def by_parts(self, laid: Any) -> list[np.ndarray]:
        """Ids of each text of an Arrow array."""
        import pyarrow.compute as pc

        if pc.any(pc.match_substring_regex(laid, RUN)).as_py():  # a third slower
            marked = pc.replace_substring_regex(laid, pattern=r"([ \n]\S)", replacement=CUT + r"\1")
        else:
            marked = pc.replace_substring(pc.replace_substring(laid, " ", CUT + " "), "\n", CUT + "\n")
        cut = pc.split_pattern(marked, pattern=CUT)
        counted = cut.flatten().dictionary_encode()
        starts, lengths, flat = self.ids_of(counted.dictionary.to_pylist())
        order = counted.indices.to_numpy()
        sizes = lengths[order]
        ends = np.cumsum(sizes)
        place = np.repeat(starts[order] - (ends - sizes), sizes)
        place += np.arange(len(place))
        bounds = np.concatenate([[0], ends])[cut.offsets.to_numpy()].tolist()
        found = flat[place]
        return [found[start:stop] for start, stop in pairwise(bounds)]

    def ids_of(self, parts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(starts, lengths, flat): ids of part i are flat[starts[i] : starts[i] + lengths[i]]."""
        number = np.fromiter(map(self.places.get, parts, repeat(-1)), np.int64, len(parts))
        known, room = len(self.places), max(0, MOST - len(self.places))
        kept = [place for place in np.flatnonzero(number < 0).tolist() if len(parts[place]) <= LONGEST][:room]
        kept, lengths, flat = self.encoded(parts, kept)
        number[kept] = range(known, known + len(kept))
        self.places.update((parts[place], known + at) for at, place in enumerate(kept))
        self.starts = np.concatenate([self.starts, len(self.flat) + np.cumsum(lengths) - lengths])
        self.lengths, self.flat = np.concatenate([self.lengths, lengths]), np.concatenate([self.flat, flat])
        once, lengths, flat = self.encoded(parts, np.flatnonzero(number < 0).tolist())
        number[once] = range(len(self.places), len(self.places) + len(once))
        starts = np.concatenate([self.starts, len(self.flat) + np.cumsum(lengths) - lengths])
        return starts[number], np.concatenate([self.lengths, lengths])[number], np.concatenate([self.flat, flat])

    def encoded(self, parts: list[str], places: list[int]) -> tuple[list[int], np.ndarray, np.ndarray]:
        """(the places in another order [N], how many ids the part at each has [N], all ids, one behind the other)."""
        joined = [place for place in places if BEGIN.match(parts[place])]
        alone = sorted(set(places).difference(joined))
        found = [self.joined([parts[at] for at in joined]), laid_out(self.whole([parts[at] for at in alone]))]
        lengths, flat = (np.concatenate(both) for both in zip(*found, strict=True))
        return joined + alone, lengths, flat

    def joined(self, parts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """(how many ids each part has, all ids) of parts before which a text may be cut. Which ids are whose is told by the bytes
        that they stand for."""
        ends = np.cumsum(np.fromiter((len(part.encode()) for part in parts), np.int64, len(parts)))
        if not len(ends):
            return ends, ends
        bounds = [0, *np.searchsorted(ends, range(JOINED, ends[-1], JOINED)).tolist(), len(parts)]
        texts = ["".join(parts[start:stop]) for start, stop in pairwise(bounds)]
        _, flat = laid_out(self.whole(texts))
        reached = np.cumsum(self.bytes[flat])
        last = np.searchsorted(reached, ends)
        if reached[-1] != ends[-1] or (reached[last] != ends).any():
            return laid_out(self.whole(parts))  # a vocabulary that lacks some byte
        return np.diff(last + 1, prepend=0), flat


def bytes_of(tokenizer: Any) -> np.ndarray:
    """How many bytes each id of a byte-level BPE stands for: one for each letter of its name."""
    vocabulary = tokenizer.get_vocab()
    found = np.zeros(max(vocabulary.values(), default=-1) + 1, np.int64)
    for name, number in vocabulary.items():
        found[number] = len(name)
    return found


def laid_out(lists: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    return lengths, np.fromiter(chain.from_iterable(lists), np.int32, int(lengths.sum()))
