"""Writes scores in the format of lm-evaluation-harness (EleutherAI, version 0.4), for tools that read its files.

Also prints the command line with which the harness scores the same model on its own tasks. The format is that of `lm_eval/result_schema.py` and `loggers/evaluation_tracker.py`: one entry a task in `results`, with keys
`<metric>,<filter>` and `<metric>_stderr,<filter>`. Metrics that the harness does not have keep the name of llmstage.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from llmstage.report.files import write_json

NAMES = {"accuracy": "acc"}
"""Metrics that the harness computes in the same way, to its name for them."""
Z = 1.959964
"""Half the width of a 95 % interval in standard errors."""
TASKS = "lambada_openai,hellaswag,piqa,arc_easy,winogrande"
"""Tasks on which small language models are commonly scored."""
HF_BACKENDS = {"AutoModelForCausalLM": "causal", "AutoModelForSeq2SeqLM": "seq2seq"}
"""Classes that the harness's `hf` model loads, to its name for the backend."""


def results(report: Mapping[str, Any], tokenizer: Any, generation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the contents of the results file. `report`: the report of stage=evaluate; `tokenizer`: the tokenizer of transformers."""
    tables = {f"llmstage_{report['task']}_{split}": (split, scores) for split, scores in report["scores"].items()}
    model = report["model"]
    versions = report.get("versions") or {}
    counts = {name: size_of(report, split, scores) for name, (split, scores) in tables.items()}
    return {
        "results": {name: metrics(name, scores, counts[name]) for name, (_, scores) in tables.items()},
        "group_subtasks": {},
        "configs": {name: {"task": name, "test_split": split, "num_fewshot": 0} for name, (split, _) in tables.items()},
        "versions": {name: str(versions.get("llmstage", "")) for name in tables},
        "n-shot": dict.fromkeys(tables, 0),
        "higher_is_better": {
            name: {NAMES.get(key, key): bool(score.get("higher_is_better", True)) for key, score in scores.items()}
            for name, (_, scores) in tables.items()
        },
        "n-samples": {name: {"original": count, "effective": count} for name, count in counts.items()},
        "config": {
            "model": "hf", "model_args": model_args(report), "model_num_parameters": model["parameters"],
            "model_dtype": "torch.float32",
            "model_revision": "main",
            "model_sha": "", "batch_size": None, "batch_sizes": [], "device": report.get("device"),
            "use_cache": None, "limit": None, "bootstrap_iters": 1000, "gen_kwargs": dict(generation),
            **{f"{name}_seed": report.get("seed", 0) for name in ("random", "numpy", "torch", "fewshot")},
        },
        "git_hash": None,
        "date": datetime.fromisoformat(str(report["started"])).timestamp(),
        "pretty_env_info": " ".join(f"{name} {version}" for name, version in versions.items()),
        "transformers_version": versions.get("transformers"),
        "lm_eval_version": None,
        "upper_git_hash": None,
        **{f"tokenizer_{name}_token": [getattr(tokenizer, f"{name}_token"), str(getattr(tokenizer, f"{name}_token_id"))] for name in ("pad", "eos", "bos")},
        "eot_token_id": tokenizer.eos_token_id,
        "max_length": model["context"],
        "task_hashes": {},
        "model_source": "hf",
        "model_name": model_path(report),
        "model_name_sanitized": re.sub(r"[\"<>:/\\|?*\[\]]+", "__", model_path(report)),
        "system_instruction": None,
        "system_instruction_sha": None,
        "fewshot_as_multiturn": None,
        "chat_template": None,
        "chat_template_sha": None,
        "total_evaluation_time_seconds": str(report.get("seconds")),
    }  # fmt: skip


def metrics(name: str, scores: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Return the entry of a task: every metric with its standard error, N/A where it has no interval."""
    out: dict[str, Any] = {"name": name, "alias": name, "sample_len": count}
    for key, score in scores.items():
        low, high = score.get("low"), score.get("high")
        out[f"{NAMES.get(key, key)},none"] = score["value"]
        out[f"{NAMES.get(key, key)}_stderr,none"] = "N/A" if low is None or high is None else (high - low) / (2 * Z)
    return out


def size_of(report: Mapping[str, Any], split: str, scores: Mapping[str, Any]) -> int:
    """Return the number of rows of a split."""
    counts = ((report.get("data") or {}).get("splits") or {}).get(split) or {}
    return int(counts.get("rows") or max((score.get("count") or 0 for score in scores.values()), default=0))


def model_path(report: Mapping[str, Any]) -> str:
    """Return the Hugging Face directory, or hub id, of the scored model."""
    return str(report["model_dir"])


def model_args(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the harness's `hf` model."""
    args = {"pretrained": model_path(report), "dtype": "float32", "max_length": report["model"]["context"]}
    return args | ({"backend": "seq2seq"} if HF_BACKENDS.get(report["model"]["auto_class"]) == "seq2seq" else {})


def command(report: Mapping[str, Any]) -> str:
    """Return the command line that scores the model on tasks of the harness, or the reason why there is none."""
    name = report["model"]["auto_class"]
    if name not in HF_BACKENDS:
        return f"lm-evaluation-harness scores models that generate text ({', '.join(HF_BACKENDS)}); this one is {name}, so there is no command for it."
    args = ",".join(f"{key}={value}" for key, value in model_args(report).items())
    words = ["lm_eval", "--model", "hf", "--model_args", args, "--tasks", TASKS, "--device", "cpu", "--batch_size", "8"]
    return shlex.join([*words, "--output_path", "lm_eval_results"])


def write_results(run_dir: Path, report: Mapping[str, Any], tokenizer: Any, generation: Mapping[str, Any]) -> Path:
    """Write results_<time>.json, the file name that the harness uses, and return its path."""
    stamp = datetime.now().isoformat().replace(":", "-")
    path = run_dir / f"results_{stamp}.json"
    write_json(path, results(report, tokenizer, generation))
    return path
