"""Write docs/models.md: what each architecture of transformers does under each task, seen on tiny models with random weights.

    python tests/models/architectures.py                    # all; what was done before is kept in --cache
    python tests/models/architectures.py --only qwen2 t5    # these types again

For every model type that transformers maps to a class of a task: a tiny random checkpoint is saved, loaded as `model.path=` loads it,
and the loss of one training batch is compared with transformers' own loss on each document alone (`model(..., labels=...).loss`),
unpacked and, where the proof of models/packing_proof.py allows it, packed. Each chunk of types runs in a process of its own, each
type under a time limit.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "models.md"
TASKS = {
    "causal_lm": "AutoModelForCausalLM",
    "masked_lm": "AutoModelForMaskedLM",
    "classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
    "question_answering": "AutoModelForQuestionAnswering",
    "translation": "AutoModelForSeq2SeqLM",
}
MAPPINGS = {
    "causal_lm": "CAUSAL_LM", "masked_lm": "MASKED_LM", "classification": "SEQUENCE_CLASSIFICATION",
    "token_classification": "TOKEN_CLASSIFICATION", "question_answering": "QUESTION_ANSWERING",
    "translation": "SEQ_TO_SEQ_CAUSAL_LM",
}  # fmt: skip
NATS = 1e-4
"""Difference from transformers' own loss that is exact, in nats an item (a token, a text, a span)."""
CONTEXT = 96
CHUNK = 24
"""Types in a process."""
SECONDS = 180
"""Time limit of a type and task."""


def mapped_types() -> dict[str, list[str]]:
    """The model types that transformers maps to the class of each task."""
    from transformers.models.auto import modeling_auto

    return {task: sorted(getattr(modeling_auto, f"MODEL_FOR_{name}_MAPPING_NAMES")) for task, name in MAPPINGS.items()}


# one cell of the table


class Workshop:
    """What all cells of a process share: composed runs, and a tokenizer for each family."""

    def __init__(self) -> None:
        import torch

        torch.set_num_threads(1)
        self.processors: dict[str, Any] = {}
        self.runs: dict[str, Any] = {}

    def processor(self, family: str) -> Any:
        from llmstage.demo.dialogue import dialogue_rows
        from llmstage.tokenization.tokenizer import train_processor

        if family not in self.processors:
            texts = (message["content"] for row in dialogue_rows(60, 0) for message in row["messages"])
            self.processors[family] = train_processor(texts, 400, family, CONTEXT)
        return self.processors[family]

    def run(self, task: str) -> Any:
        from llmstage.cli.hydra_runs import compose_overrides
        from llmstage.cli.overrides import read_words
        from llmstage.config import build_run

        if task not in self.runs:
            stage = "pretrain" if task in ("causal_lm", "masked_lm") else "finetune"
            words = read_words(
                [
                    f"stage={stage}",
                    f"task={task}",
                    *(["task.unanswerable=false"] if task == "question_answering" else []),
                ]
            )
            self.runs[task] = build_run(compose_overrides(words.for_hydra), [])
        return self.runs[task]

    def cell(self, model_type: str, task_name: str, folder: Path) -> dict[str, Any]:
        """What a type does under a task."""
        from llmstage.errors import UserError

        if model_type in NO_TOKENIZER:
            return {
                "status": "refused",
                "reason": "its tokenizer reads characters or bytes in Python and has no tokenizer.json",
            }
        try:
            config, family = self.save(model_type, task_name, folder)
        except NotTaken as error:
            return {"status": "other", "reason": str(error)}
        except Exception as error:
            return {"status": "not built", "reason": short(error)}
        try:
            return self.compare(config, family, task_name, folder)
        except UserError as error:
            return {"status": "refused", "reason": short(error)}
        except Exception as error:
            return {"status": "failed", "reason": short(error)}

    def save(self, model_type: str, task_name: str, folder: Path) -> tuple[Any, str]:
        """Write a checkpoint of this type with random weights."""
        import torch
        import transformers
        from tiny_configs import PATCHES, tiny_config
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        from llmstage.models.families import model_family

        # Encoders, and decoders of encoder-decoders, are causal models in checkpoints that say so.
        patch = dict(PATCHES.get(model_type, {}))
        default = CONFIG_MAPPING[model_type]()
        if task_name == "causal_lm" and hasattr(default, "is_decoder"):
            patch |= {"is_decoder": True, "is_encoder_decoder": False}
            default.is_decoder, default.is_encoder_decoder = True, False
        if task_name != "causal_lm" and "is_decoder" in patch:
            patch["is_decoder"] = False
        if reads_media(model_type, task_name, default):
            raise NotTaken("it reads sound or images")
        takes = self.run(task_name).task.takes()
        family = model_family(default, takes)
        if family not in takes:
            raise NotTaken(f"llmstage reads this type as {FAMILIES[family]}, which task={task_name} does not take")
        processor = self.processor(family)
        tokens = {
            name: getattr(processor.tokenizer, f"{name}_token_id")
            for name in ("pad", "bos", "eos", "mask", "cls", "sep")
        }
        tokens = {name: token for name, token in tokens.items() if token is not None} | {
            "decoder_start": start_token(default, processor)
        }
        if model_type in PAD_IS_ONE:
            tokens |= {"pad": 1}
        config = tiny_config(type(default), len(processor) + 36, tokens, patch)
        has_head = task_name in ("causal_lm", "masked_lm", "translation")
        auto = getattr(transformers, TASKS[task_name] if has_head else "AutoModel")
        torch.manual_seed(0)
        try:
            model = auto.from_config(config)
        except (ValueError, TypeError):  # a type without one base class of its own
            model = getattr(transformers, TASKS[task_name]).from_config(config)
        sharpen(model)
        model.save_pretrained(folder)
        processor.save(folder)
        if model_type in PAD_IS_ONE:
            swap_first_ids(folder / "tokenizer.json")
        return config, family

    def compare(self, config: Any, family: str, task_name: str, folder: Path) -> dict[str, Any]:
        """Load the checkpoint as a run does, and compare the losses of a batch."""
        import torch

        from llmstage.config import ModelConfig
        from llmstage.data.encoding.order import of_one_length
        from llmstage.models.build import build_model
        from llmstage.models.packing_proof import PROOFS
        from llmstage.naming import load_module
        from llmstage.paths import ModelSource
        from llmstage.tokenization.tokenizer import load_processor
        from llmstage.training.packing import decide_packing

        run = self.run(task_name)
        task = load_module("tasks", task_name, trusted=True).TASK(run.task, run.generation)
        task.set_model_family(family)
        rows = task.demo_rows(24, 0)
        task.fit_labels(rows)
        processor = load_processor(str(folder), local=True)
        task.attach_tokenizer(processor, CONTEXT)
        torch.manual_seed(1)
        model = build_model(
            ModelConfig(path=str(folder), family=family), task.auto_model, processor, CONTEXT, task.model_options(),
            ModelSource(folder), offline=True, extra=task.extra_module,
        )  # fmt: skip
        model.eval()
        sharpen_new(model)
        PROOFS.clear()
        run = replace(run, model=ModelConfig(path=str(folder), family=family))
        packed = decide_packing(run, task, model, CONTEXT, packs=task.packs)
        proof = next(iter(PROOFS.values()), None)
        examples = choose([example for row in rows for example in task.encode(row)], task)
        with torch.no_grad():
            reference = own_losses(task, task_name, model, examples)
            if abs(own_losses(task, task_name, model, examples) - reference) > NATS:
                return {"status": "random", "reason": "transformers draws random numbers in evaluation too"}
            groups = of_one_length(
                [[0], [1], [2], [3]][: len(examples)], [len(example.input_ids) for example in examples]
            )
            batches = groups if task.reads_padding else [[row for group in groups for row in group]]
            unpacked = our_loss(
                task, model, [[[examples[number] for number in row] for row in batch] for batch in batches]
            )
            result: dict[str, Any] = {"unpacked": abs(unpacked - reference), "loss": reference}
            if packed:
                result["packed"] = abs(our_loss(task, model, [[examples[:2], examples[2:]]]) - reference)
        if not all(value == value and value < 1e9 for value in (reference, unpacked)):
            return {"status": "failed", "reason": "the loss is not finite"}
        if proof is not None:
            result["form"] = str(proof.form) if packed else None
            result["leak"] = proof.difference.nats if proof.difference is not None and not packed else None
            result["reason"] = proof.reason if task.packs else ""
            result["padding"] = proof.padded.nats if task.reads_padding and proof.padded is not None else None
        result["packs"] = task.packs
        exact = all(result[name] <= NATS for name in ("unpacked", "packed") if name in result)
        if not exact and not packed and task_name != "question_answering":
            batch = task.collate([[example] for example in examples])
            width = batch.inputs["input_ids"].shape[1]
            lengths = torch.tensor([min(len(example.input_ids), width) for example in examples])
            mask = (torch.arange(width) < lengths[:, None]).long()
            theirs = own_loss(task_name, model, replace(batch, inputs={"attention_mask": mask, **batch.inputs}))
            result["batch"] = abs(unpacked - theirs)
            if result["batch"] <= NATS:
                return {"status": "batch", **result}
        return {"status": "exact" if exact else "wrong", **result}


def start_token(config: Any, processor: Any) -> int:
    """The token that a decoder starts with: the padding token where the default config says so, as T5's, else bos."""
    start, pad = (getattr(config, f"{name}_token_id", None) for name in ("decoder_start", "pad"))
    same = start == pad or (start is None and "t5" in config.model_type and "gemma" not in config.model_type)
    return int(processor.pad_id if same else processor.bos_id or processor.eos_id)


def reads_media(model_type: str, task_name: str, config: Any) -> bool:
    """Whether the class of a type needs more than text."""
    import transformers
    from transformers.models.auto import modeling_auto

    name = getattr(modeling_auto, f"MODEL_FOR_{MAPPINGS[task_name]}_MAPPING_NAMES")[model_type]
    model_class = getattr(transformers, name if isinstance(name, str) else name[0])
    needs_sound = any(
        hasattr(config, key) for key in ("audio_config", "audio_encoder", "acoustic_tokenizer_encoder_config")
    )
    return needs_sound or getattr(model_class, "main_input_name", "input_ids") in (
        "input_features",
        "input_values",
        "pixel_values",
    )


NO_TOKENIZER = ("canine", "perceiver")
"""Types whose ids are characters or bytes; llmstage needs the offsets of a tokenizer.json."""
PAD_IS_ONE = ("mpnet",)
"""Types in whose classes the padding id is 1, whatever the config says."""


def swap_first_ids(path: Path) -> None:
    """Exchange the ids 0 (padding) and 1 of a tokenizer."""
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    swap = {0: 1, 1: 0}
    vocabulary = tokenizer["model"]["vocab"]
    for token, number in vocabulary.items():
        vocabulary[token] = swap.get(number, number)
    for token in tokenizer["added_tokens"]:
        token["id"] = swap.get(token["id"], token["id"])
    for token in (tokenizer.get("post_processor") or {}).get("special_tokens", {}).values():
        token["ids"] = [swap.get(number, number) for number in token["ids"]]
    path.write_text(json.dumps(tokenizer), encoding="utf-8")


class NotTaken(Exception):
    """llmstage reads a type as a family that the task does not take."""


FAMILIES = {
    "gpt": "a decoder",
    "bert": "an encoder",
    "t5": "an encoder-decoder",
    "clip": "two towers",
    "vlm": "an image-text model",
}


def sharpen(model: Any) -> None:
    """Larger matrices: the attention of a fresh model is nearly flat, and what leaks would hardly change its loss."""
    import torch

    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2 and weight.is_floating_point():
                weight.mul_(3)


def sharpen_new(model: Any) -> None:
    import torch

    new = set(getattr(model, "new_weights", []))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in new and weight.ndim == 2:
                weight.mul_(10)


def choose(examples: list[Any], task: Any) -> list[Any]:
    """Four documents of unlike length that fill two rows; most are longer than the windows of the tiny configs."""
    fitting = [example for example in examples if len(example.input_ids) >= 6 and task.num_targets(example) > 0]
    short = [example for example in fitting if len(example.input_ids) <= CONTEXT // 2] or fitting
    order = sorted(short, key=lambda example: -len(example.input_ids))
    picked = [*order[:3], order[-1]][:4]
    for number, example in enumerate(picked):
        example.row = number
    return picked


def our_loss(task: Any, model: Any, batches: list[list[list[Any]]]) -> float:
    """Our loss of micro-batches, each a list of rows of examples."""
    losses = [task.loss(model, task.collate(rows)) for rows in batches]
    return sum(float(loss.total) for loss in losses) / sum(loss.count for loss in losses)


def own_losses(task: Any, task_name: str, model: Any, examples: list[Any]) -> float:
    """transformers' own loss of each example alone, without padding, as a mean over all items."""
    total, count = 0.0, 0
    for example in examples:
        batch = task.collate([[example]])
        items = own_loss(task_name, model, batch)
        number = int((batch.labels != -100).sum()) if task_name not in ("classification", "question_answering") else 1
        total, count = total + items * number, count + number
    return total / count


def own_loss(task_name: str, model: Any, batch: Any) -> float:
    import torch
    import torch.nn.functional as F

    from llmstage.models.lm_loss import without_cache

    inputs = {name: value for name, value in batch.inputs.items() if name not in ("inside", "legal", "matches")}
    if (
        task_name == "question_answering"
    ):  # ours leaves out positions at which no answer can be: the same logits, masked here
        out = model(**inputs)
        parts = [out.start_logits, out.end_logits]
        losses = [
            F.cross_entropy(part.masked_fill(~batch.inputs["legal"], -torch.inf), batch.labels[:, number])
            for number, part in enumerate(parts)
        ]
        return float(sum(losses) / 2)
    if task_name == "translation":
        labels = batch.labels[:, 1:]  # ours begin with the start token, which transformers adds itself
        logits = model(**inputs, decoder_input_ids=teacher_forcing(model, labels), use_cache=False).logits
        return float(F.cross_entropy(logits.float().flatten(0, 1), labels.flatten()))
    if task_name == "causal_lm":
        mask = {name: inputs[name] for name in ("attention_mask",) if name in inputs}
        logits = model(input_ids=inputs["input_ids"], **without_cache(model), **mask).logits
        loss = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), batch.labels[:, 1:].flatten())
        return float(loss)
    return float(model(**inputs, labels=batch.labels).loss)


def teacher_forcing(model: Any, labels: Any) -> Any:
    """The ids that the decoder reads: the token that generate() starts from, then the labels, one position later."""
    import torch

    start = torch.full_like(labels[:, :1], model.config.decoder_start_token_id)
    return torch.cat([start, labels[:, :-1].clamp(min=0)], 1)


def short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or [""]
    text = lines[0] if not lines[0].endswith(":") or len(lines) == 1 else " ".join(lines[:2])
    name = type(error).__name__
    return (text if name == "ModelError" else f"{name}: {text}")[:220].replace(tempfile.gettempdir(), "…")


def work(cells: list[tuple[str, str]]) -> None:
    """Compute cells in this process; one line of JSON each on standard output."""
    import warnings

    import transformers

    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    sys.path.insert(0, str(Path(__file__).parent))
    shop = Workshop()

    def stop(*_: Any) -> None:
        raise TimeoutError(f"longer than {SECONDS} s")

    signal.signal(signal.SIGALRM, stop)
    for model_type, task_name in cells:
        start = time.perf_counter()
        signal.alarm(SECONDS)
        try:
            with tempfile.TemporaryDirectory() as folder:
                result = shop.cell(model_type, task_name, Path(folder))
        except TimeoutError as error:
            result = {"status": "failed", "reason": str(error)}
        finally:
            signal.alarm(0)
        line = {"type": model_type, "task": task_name, "seconds": round(time.perf_counter() - start, 1), **result}
        print(json.dumps(line), flush=True)


# all cells


def sweep(cells: list[tuple[str, str]], cache: Path) -> dict[str, dict[str, Any]]:
    """Compute the cells that the cache lacks, each chunk in a process of its own."""
    done: dict[str, dict[str, Any]] = json.loads(cache.read_text()) if cache.is_file() else {}
    left = [cell for cell in cells if "/".join(cell) not in done]
    while left:
        chunk = left[:CHUNK]
        command = [sys.executable, str(Path(__file__).resolve()), "--worker", json.dumps(chunk)]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        assert process.stdout is not None
        count = 0
        for text in process.stdout:
            if not text.startswith("{"):
                continue
            line = json.loads(text)
            done[f"{line['type']}/{line['task']}"] = line
            count += 1
            print(
                f"{line['type']:28} {line['task']:22} {line['status']:10} {line.get('form') or line.get('reason', '')}"[
                    :150
                ],
                flush=True,
            )
        if process.wait() != 0 and count < len(chunk):  # a crash takes the process with it, not the sweep
            model_type, task = chunk[count]
            line = {
                "type": model_type,
                "task": task,
                "status": "failed",
                "reason": f"the process ended with {process.returncode}",
            }
            done[f"{model_type}/{task}"] = line
            count += 1
        cache.write_text(json.dumps(done, indent=1))
        left = left[count:]
    return done


# the page

HEADINGS = {
    "causal_lm": "causal_lm, dialogue", "masked_lm": "masked_lm", "classification": "classification",
    "token_classification": "token_classification", "question_answering": "question_answering", "translation": "translation, summarization",
}  # fmt: skip
INTRODUCTION = """# Architectures

<!-- Written by `python tests/models/architectures.py`. Do not edit: run it again. -->

What llmstage does with each model type that transformers maps to a class of a task. Each cell was measured on a tiny model of
this type with random weights, loaded as `model.path=` loads it. Our loss of a training batch was compared with that of
transformers' forward on each text alone: its own loss for masked_lm, classification and token_classification; for the others the
cross-entropy of its logits (the own loss of some classes has other terms, does not shift, or starts the decoder with another token
than `generate()`; positions at which no answer can be are left out). A cell is exact where they differ by less than 1e-4 nats for a
token or a text. Most cells were measured once; those that were not exact were measured again after changes. A type whose class fails
on this tiny model or tokenizer counts as refused, too, though a run with a real checkpoint may get further.

| in a cell | meaning |
|---|---|
| packed | exact, with several documents in one row |
| packed: … | the same, with masks in another form than one block mask of bools (`llmstage/models/packing.py`) |
| unpacked | exact, one document a row: packed, its documents would differ from the same documents alone by the figure, in nats a token |
| exact | exact; the task does not pack |
| one length | exact; padding would change the outputs, so each micro-batch has texts of one length |
| as transformers | our loss of a padded batch is transformers' own, but transformers itself gives a text another loss in a batch |
| differs by … | a known fault: our loss is off by the figure (ProphetNet starts its decoder with the padding token, which it masks) |
| generates | a decoder answers by generating (`task.style=generate`): see causal_lm |
| other | llmstage reads the type as another family, or its class reads sound or images |
| refused (n) | it does not work, for the reason n below |

"""


def page(done: dict[str, dict[str, Any]], types: dict[str, list[str]]) -> str:
    """The page docs/models.md."""
    import torch
    import transformers

    reasons: dict[str, int] = {}
    counts: Counter[str] = Counter()
    names = sorted({name for mapped in types.values() for name in mapped})
    lines = ["| type | " + " | ".join(HEADINGS.values()) + " |", "|---|" + "---|" * len(HEADINGS)]
    for name in names:
        cells = []
        for task in TASKS:
            line = done.get(f"{name}/{task}") if name in types[task] else None
            text = "" if line is None else cell_text(line, reasons)
            counts[text.partition(":")[0].partition(" (")[0].partition(" +")[0].partition(" by")[0]] += bool(text)
            cells.append(text)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    total = sum(counts.values())
    measured = total - counts["other"] - counts["generates"]
    summary = ", ".join(
        f"{counts[key]} {key}"
        for key in ("packed", "unpacked", "exact", "one length", "as transformers", "refused", "differs")
        if counts[key]
    )
    date = time.strftime("%Y-%m-%d")
    head = (
        f"transformers {transformers.__version__}, torch {torch.__version__.partition('+')[0]}, {date}, {machine()}. {len(names)} types, {total} cells: "
        f"{summary}; {counts['generates']} answer by generating, {counts['other']} are read as another family. "
        f"Refused: {counts['refused'] / max(1, measured):.1%} of the {measured} cells that were measured.\n\n"
    )
    notes = "".join(f"{number}. {reason}\n" for reason, number in reasons.items())
    return INTRODUCTION + head + "\n".join(lines) + "\n\n## Why a type is refused\n\n" + notes


def cell_text(line: dict[str, Any], reasons: dict[str, int]) -> str:
    """One cell of the table; its reason for a refusal is added to `reasons`."""
    status, form, leak = line["status"], line.get("form"), line.get("leak")
    if status == "other":
        return "generates" if line["task"] == "question_answering" and "a decoder" in line["reason"] else "other"
    if status in ("refused", "failed", "not built", "random"):
        number = reasons.setdefault(plain_reason(line), len(reasons) + 1)
        return f"refused ({number})"
    if status == "batch":
        return "as transformers"
    if status == "wrong":
        return f"differs by {max(line.get('unpacked', 0), line.get('packed', 0)):.1g}"
    if line.get("padding") is not None:
        return "one length"
    if form:
        return "packed" if form == "block" else f"packed: {form}"
    if line["task"] in ("classification", "question_answering", "translation"):
        return "exact"
    return f"unpacked +{leak:.2g}" if leak is not None else "unpacked"


def plain_reason(line: dict[str, Any]) -> str:
    """The reason without names of folders, so that types with the same reason share a note."""
    text = re.sub(r"model\.path=\S+|\S*…\S*", "the model", str(line["reason"])).replace("|", "/")
    return text.replace("<", "").replace(">", "")


def machine() -> str:
    """The processor of this machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return "unknown processor"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="model types to do again")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "llmstage_architectures.json")
    parser.add_argument("--output", type=Path, default=PAGE, help="the page to write")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work([(model_type, task) for model_type, task in json.loads(args.worker)])
        return
    types = mapped_types()
    cells = sorted((model_type, task) for task in args.tasks for model_type in types[task])
    if args.only:
        done = json.loads(args.cache.read_text()) if args.cache.is_file() else {}
        again = {f"{model_type}/{task}" for model_type, task in cells if model_type in args.only}
        args.cache.write_text(json.dumps({name: line for name, line in done.items() if name not in again}))
        cells = [cell for cell in cells if cell[0] in args.only]
    done = sweep(cells, args.cache)
    print(Counter(line["status"] for line in done.values()))
    if args.output:
        args.output.write_text(page(done, types), encoding="utf-8")


if __name__ == "__main__":
    main()
