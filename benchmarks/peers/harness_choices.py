"""Run lm-evaluation-harness on local items: `hf` model from a local folder, batch_size=auto, a generated task file.

python harness_choices.py MODEL ITEMS OUT PRECISION THREADS
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

TASK = """task: local_choices
dataset_path: json
dataset_kwargs:
  data_files:
    test: {items}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: label
metric_list:
  - metric: acc
"""


def main() -> None:
    model, items, out, precision, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    # For fp32 set the dtype. Otherwise the harness uses its default, the dtype of the folder.
    dtype = {"dtype": "float32"} if precision == "fp32" else {}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "local.yaml").write_text(TASK.format(items=items))
        model_wrapper = HFLM(pretrained=model, batch_size="auto", device="cpu", add_bos_token=True, **dtype)
        tasks = TaskManager(include_path=folder, include_defaults=False)
        clock, cpu = time.perf_counter(), time.process_time()
        evaluation = simple_evaluate(
            model=model_wrapper,
            tasks=["local_choices"],
            task_manager=tasks,
            log_samples=True,
            bootstrap_iters=0,
            verbosity="ERROR",
        )
        seconds, used = time.perf_counter() - clock, time.process_time() - cpu
    samples = sorted(evaluation["samples"]["local_choices"], key=lambda sample: sample["doc_id"])
    values = [[float(answer[0]) for answer in sample["filtered_resps"]] for sample in samples]
    Path(out).write_text(json.dumps({"seconds": seconds, "cpu": used, "log_likelihoods": values}))


if __name__ == "__main__":
    main()
