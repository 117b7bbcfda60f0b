"""Score the same items with llmstage.

python llmstage_choices.py MODEL ITEMS OUT PRECISION THREADS
"""

import json
import sys
import time
from functools import partial
from pathlib import Path

import torch

from llmstage.explore.items import Item
from llmstage.explore.probed_model import load_probed_model
from llmstage.explore.score import fresh_scores
from llmstage.training.machine import Machine


def main() -> None:
    model, items, out, precision, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    machine = Machine(torch.device("cpu"), int(threads), precision, "")
    probed = load_probed_model(model, offline=True, device=machine.device, form="plain")
    clock, cpu = time.perf_counter(), time.process_time()
    records = [json.loads(line) for line in Path(items).read_text(encoding="utf-8").splitlines()]
    asked = [
        Item(
            str(n),
            "choices",
            score["question"],
            choices=[f" {text}" for text in score["choices"]],
            label=score["label"],
        )
        for n, score in enumerate(records)
    ]
    with partial(machine.autocast, precision)(), torch.no_grad():
        scores = fresh_scores(probed, asked, "none", "none", 1, 8192, pmi=False)
    seconds, used = time.perf_counter() - clock, time.process_time() - cpu
    values = [score["log_probs"] for score in scores]
    Path(out).write_text(json.dumps({"seconds": seconds, "cpu": used, "log_likelihoods": values}))


if __name__ == "__main__":
    main()
