"""Tokenise a corpus to disk with datasets, as run_clm.py does: load the text file, tokenize it with map(), then join it and cut it
into blocks with map(). Prints one JSON line last: seconds of loading and both maps, and tokens."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from itertools import chain
from typing import Any


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--data", required=True, help="a text file")
    words.add_argument("--model", required=True, help="a folder with a tokenizer")
    words.add_argument("--length", type=int, default=256)
    args = words.parse_args()
    from datasets import load_dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    started = time.perf_counter()
    cache = tempfile.mkdtemp()
    rows = load_dataset("text", data_files=args.data, split="train", cache_dir=cache)
    coded = rows.map(lambda batch: tokenizer(batch["text"]), batched=True, remove_columns=["text"])

    def group(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        joined = {name: list(chain(*batch[name])) for name in batch}
        total = len(joined["input_ids"]) // args.length * args.length
        cut = {
            name: [ids[at : at + args.length] for at in range(0, total, args.length)] for name, ids in joined.items()
        }
        return {**cut, "labels": cut["input_ids"].copy()}

    blocks = coded.map(group, batched=True)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "tokens": len(blocks) * args.length, "rate": 0, "real_rate": 0}), flush=True)


if __name__ == "__main__":
    main()
