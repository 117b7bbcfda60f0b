"""What a run imports by its first optimizer step: transformers' own needs, and nothing that this run does not use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

UNUSED = {
    "peft", "torchmetrics", "sklearn", "seqeval", "sacrebleu", "rouge_score", "datasets", "tensorboard", "pandas",
    "pyarrow", "matplotlib", "torchao",
}  # fmt: skip
"""Imported where they are needed, seconds later or never."""
LOOK = """
import json, os, sys
import llmstage.training.loop as loop
def look(*args):
    print(json.dumps(sorted({*sys.modules, *(name.partition(".")[0] for name in sys.modules)})), flush=True)
    os._exit(0)
loop.take_step = look
from llmstage.cli.command import main
main(sys.argv[1:])
"""


def modules(code: str, *words: str, folder: Path) -> set[str]:
    environment = {**os.environ, "LLMSTAGE_ENTRY": "test"}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_first_step_needs_few_libraries(tmp_path: Path) -> None:
    """Of a language model; tasks that score before they train have their metrics by then."""
    loaded = modules(LOOK, "stage=pretrain", "task=causal_lm", "trainer=smoke", "hydra.run.dir=run", folder=tmp_path)
    assert {"torch", "llmstage.models.adapter"} <= loaded  # the latter without peft, which waits for adapter=lora
    assert not loaded & UNUSED, f"{sorted(loaded & UNUSED)} cost start-up and are not needed yet"
