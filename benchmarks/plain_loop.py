"""Compare finetuning with a plain loop of transformers and torch: the loss of every step, and the replies of the trained model.

python benchmarks/plain_loop.py --model <Hugging Face directory> --data conversations.jsonl --steps 60
python benchmarks/plain_loop.py --model <…> --data <…> --adapter lora

llmstage trains in this process, and what each step reads is recorded. The plain loop then trains the same model on the same
conversations in the same order, each alone and without padding, through the model's own forward, torch's AdamW and clip_grad_norm_.
Afterwards the replies in predictions.jsonl are compared with generate() of the saved model, from prompts by apply_chat_template().
Exit status 1 where a loss differs by more than --tolerance, or a reply that generate() writes by a clear margin differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

import llmstage
from llmstage.tasks.dialogue import Dialogue

Document = tuple[list[int], list[int]]
"""Ids and labels of one conversation."""


class Recorder:
    """What every optimizer step of a run of task=dialogue reads, in order."""

    def __init__(self) -> None:
        self.steps: list[list[Document]] = [[]]
        self.adapter: dict[str, torch.Tensor] = {}
        """Low-rank weights before the first step, by name."""

    def __enter__(self) -> Recorder:
        self.loss, self.after_step = Dialogue.loss, Dialogue.after_step
        recorder = self

        def loss(task: Dialogue, model: Any, batch: Any) -> Any:
            if model.training:
                if len(recorder.steps) == 1 and not recorder.steps[0]:
                    trained = {name: part for name, part in model.named_parameters() if ".lora_" in name}
                    recorder.adapter = {name: part.detach().clone() for name, part in trained.items()}
                recorder.steps[-1] += documents(batch)
            return recorder.loss(task, model, batch)

        def after_step(task: Dialogue, model: Any) -> None:
            recorder.steps.append([])
            recorder.after_step(task, model)

        Dialogue.loss, Dialogue.after_step = loss, after_step  # type: ignore[method-assign,assignment]
        return self

    def __exit__(self, *exception: object) -> None:
        Dialogue.loss, Dialogue.after_step = self.loss, self.after_step  # type: ignore[method-assign]
        self.steps = [step for step in self.steps if step]


def documents(batch: Any) -> list[Document]:
    """Return the conversations of a packed micro-batch."""
    ids, labels, segments = batch.inputs["input_ids"], batch.labels, batch.segments
    numbers = sorted(set(segments.flatten().tolist()) - {-1})
    return [(ids[segments == number].tolist(), labels[segments == number].tolist()) for number in numbers]


def train_here(model: Path, data: Path, words: list[str], out: Path) -> tuple[Recorder, list[dict[str, Any]]]:
    """Run llmstage; return what was recorded, and the lines of metrics.jsonl that hold a step."""
    with Recorder() as recorder:
        llmstage.run(
            "stage=finetune", "task=dialogue", f"model.path={model}", f"data.train={data}", "trainer.precision=fp32",
            "trainer.eval_every=0", "trainer.baselines=false", "trainer.train_rows_scored=0", f"hydra.run.dir={out}", *words,
        )  # fmt: skip
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return recorder, [line for line in lines if "loss" in line and "lr" in line]


def plain_losses(model: Any, steps: list[list[Document]], rates: list[float]) -> list[float]:
    """Train `model` on the recorded conversations; return the mean loss of a target of each step.

    Weights of matrices decay by 0.1, as llmstage's defaults say; norms, biases and embeddings do not.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decays = [parameter.ndim > 1 and id(parameter) not in embeddings for parameter in trained]
    groups = [
        {"params": [part for part, decay in zip(trained, decays, strict=True) if decay is chosen], "weight_decay": rate}
        for chosen, rate in ((True, 0.1), (False, 0.0))
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], betas=(0.9, 0.95), eps=1e-8)
    model.train()
    losses = []
    for documents_of_step, rate in zip(steps, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        count = sum(label != -100 for _, labels in documents_of_step for label in labels[1:])
        total = 0.0
        for ids, labels in documents_of_step:
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1].float()
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels[1:]), reduction="sum") / count
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses


@torch.no_grad()
def compare_replies(out: Path, new_tokens: int, margin: float = 0.01) -> tuple[int, int]:
    """Return (replies that equal generate(), replies), of those that generate() writes by more than `margin` at every token."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(out / "model")
    model = transformers.AutoModelForCausalLM.from_pretrained(out / "model", dtype=torch.float32).eval()
    same = compared = 0
    for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record.get("prediction") is None:
            continue
        prompt = tokenizer.apply_chat_template(
            record["prompt"], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        written = model.generate(
            **prompt, max_new_tokens=new_tokens, do_sample=False, output_scores=True, return_dict_in_generate=True
        )
        gaps = [float(-torch.diff(score[0].topk(2).values)) for score in written.scores]
        if min(gaps) < margin:
            continue  # two tokens are as likely, and rounding decides
        text = tokenizer.decode(written.sequences[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        compared += 1
        same += text.strip() == record["prediction"].strip()
    return same, compared


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--adapter", choices=["none", "lora"], default="none")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="relative difference of a step's loss")
    parser.add_argument("words", nargs="*", help="further words for llmstage")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        words = [f"trainer.max_steps={options.steps}", "trainer.batch_tokens=2048", "data.context=512", *options.words]
        if options.adapter == "lora":
            words += ["adapter=lora", "seed=0"]
        recorder, lines = train_here(options.model, options.data, words, out)
        model = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
        if recorder.adapter:
            add_adapter(model, recorder.adapter)
        losses = plain_losses(model, recorder.steps, [line["lr"] for line in lines])
        ours = [line["loss"] for line in lines]
        largest = max(abs(a - b) / b for a, b in zip(ours, losses, strict=True))
        same, compared = compare_replies(out, 64)
    print(f"{len(losses)} steps: loss {losses[0]:.4f} to {losses[-1]:.4f}; largest relative difference {largest:.2g}")
    print(f"{same} of {compared} replies equal generate() of the saved model")
    return int(largest > options.tolerance or same < compared)


def add_adapter(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """Let peft add low-rank updates of rank 16 and alpha 32, llmstage's defaults, that start with the given weights."""
    import peft

    targets = sorted({name.split(".lora_")[0] for name in weights})
    peft.inject_adapter_in_model(peft.LoraConfig(r=16, lora_alpha=32, target_modules=targets), model)
    missing = model.load_state_dict(weights, strict=False).unexpected_keys
    assert not missing, f"peft has other names: {missing[:3]}"


if __name__ == "__main__":
    sys.exit(main())
