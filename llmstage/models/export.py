"""Export a model: a plain Hugging Face directory (also for transformers 4), ONNX, or 8-bit ONNX; and compare it with the model.

onnxruntime's quantize_dynamic makes the 8-bit weights, and not torchao: onnxruntime alone runs its file, in any language and
without torch, and its integer kernels are compiled for the CPUs on which such files run.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llmstage.errors import ModelError, UserError
from llmstage.models.adapter import has_adapter, merge_adapter
from llmstage.models.build import save_model
from llmstage.tokenization.tokenizer import Processor

Outputs = list[Tensor]
"""Logits of one batch; two tensors, start and end, for question answering."""

TEXTS = (
    "Where is my order 3051? It was due on 12 March.", "退款要等多久？订单号是 8842。", "Yes.", "The pump failed again at 40 bar.",
    "Shares of the company fell by 3.5 % after the report, which nobody had expected so soon.", "谢谢，我明天再来。",
    "Dr. Smith moved from Berlin to New York in 2019.", "how do i reset my card pin when i am abroad",
)  # fmt: skip
"""Texts for which the export and its model are compared."""


class LogitsModule(nn.Module):
    """A model from two inputs to its logits, for tracing."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        return outputs_of(self.model, input_ids, attention_mask)


def outputs_of(model: Any, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
    """The model's logits, or its start and end logits."""
    options: dict[str, Any] = {"use_cache": False} if hasattr(model, "generation_config") else {}
    if model.config.is_encoder_decoder:
        options["decoder_input_ids"] = input_ids
    out = model(input_ids=input_ids, attention_mask=attention_mask, **options)
    return (out.logits,) if "logits" in out else (out.start_logits, out.end_logits)


def comparison_prompts(processor: Processor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """`count` prompts as (ids, mask) [1, T], of different lengths."""
    before, after = processor.special_ids()
    for number in range(count):
        text = " ".join(TEXTS[(number + more) % len(TEXTS)] for more in range(1 + number // len(TEXTS)))
        ids = torch.tensor([[*before, *processor.plain_ids([text])[0][:96], *after]])
        yield ids, torch.ones_like(ids)


def difference(expected: list[Outputs], actual: list[Outputs]) -> float:
    """Root mean square of the difference, as a share of the standard deviation of the expected logits."""
    errors = torch.cat(
        [
            (a - b).double().flatten()
            for outputs in zip(expected, actual, strict=True)
            for a, b in zip(*outputs, strict=True)
        ]
    )
    spread = torch.cat([(a - a.mean(-1, keepdim=True)).double().flatten() for outputs in expected for a in outputs])
    return float(errors.pow(2).mean().sqrt() / spread.pow(2).mean().sqrt().clamp(min=1e-12))


@torch.no_grad()
def plain_outputs(model: Any, prompts: list[tuple[Tensor, Tensor]]) -> list[Outputs]:
    return [[part.float() for part in outputs_of(model, *prompt)] for prompt in prompts]


def export_hf(
    model: Any, processor: Processor, folder: Path, *, v4: bool
) -> Callable[[list[tuple[Tensor, Tensor]]], list[Outputs]]:
    """Weights, config and tokenizer, with an adapter merged; return a function that predicts from the directory by transformers alone."""
    if has_adapter(model):
        merge_adapter(model)
    save_model(model, processor, folder)
    if v4:
        write_v4(folder)
    model_class = type(model)

    def predict(prompts: list[tuple[Tensor, Tensor]]) -> list[Outputs]:
        return plain_outputs(model_class.from_pretrained(folder, dtype=torch.float32).eval(), prompts)

    return predict


def export_onnx(
    model: Any, processor: Processor, folder: Path, *, int8: bool
) -> Callable[[list[tuple[Tensor, Tensor]]], list[Outputs]]:
    """model.onnx (input_ids, attention_mask -> logits) with config and tokenizer; return a function that predicts by onnxruntime."""
    onnxruntime = runtime()
    if has_adapter(model):
        merge_adapter(model)
    if model.config.is_encoder_decoder or getattr(model, "extra", None) is not None or processor.images is not None:
        raise ModelError(
            f"{type(model).__name__} cannot be one graph from text to logits: it reads images, has both an encoder and a decoder, "
            f"or has weights of the task's own. Encoders and decoders of text can be one; use stage.format=hf for others."
        )
    names = ["input_ids", "attention_mask"]
    ids = torch.randint(0, len(processor), (2, 7), generator=torch.Generator().manual_seed(0))
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with torch.no_grad(), quiet():
        outputs = (
            ["logits"] if len(outputs_of(model, ids, torch.ones_like(ids))) == 1 else ["start_logits", "end_logits"]
        )
        program: Any = torch.onnx.export(
            LogitsModule(model), (ids, torch.ones_like(ids)), dynamo=True, dynamic_shapes=(free, free), input_names=names,
            output_names=outputs, verbose=False,
        )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    with quiet():
        program.save(str(path))
        if int8:
            from onnxruntime.quantization import QuantType, quantize_dynamic

            full_precision = path.rename(folder / "whole.onnx")
            # 7 of 8 bits: AVX2 without VNNI adds two products in 16 bits, which 8-bit weights overflow.
            quantize_dynamic(
                str(full_precision), str(path), weight_type=QuantType.QInt8, per_channel=True, reduce_range=True
            )
            for part in folder.glob("whole.onnx*"):
                part.unlink()
    model.config.save_pretrained(folder)
    processor.save(folder)

    def predict(prompts: list[tuple[Tensor, Tensor]]) -> list[Outputs]:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        feeds = [dict(zip(names, (part.numpy() for part in prompt), strict=True)) for prompt in prompts]
        return [[torch.from_numpy(part) for part in session.run(outputs, feed)] for feed in feeds]

    return predict


def runtime() -> Any:
    """The package onnxruntime. Raise UserError where one of the packages of ONNX is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"stage.format=onnx and int8 need the package {error.name}: pip install 'llmstage[onnx]'"
        ) from None
    return onnxruntime


@contextmanager
def quiet() -> Iterator[None]:
    """Silence torch.onnx and the quantizer, whose messages concern their own internals."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def write_v4(folder: Path) -> None:
    """Add the names that transformers 4 reads to the files of version 5."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["torch_dtype"] = config.get("dtype", "float32")
    ropes = config.get("rope_parameters") or {}
    if "rope_theta" in ropes:
        config["rope_theta"] = ropes["rope_theta"]
        rope_type = ropes.get("rope_type", "default")
        config["rope_scaling"] = (
            None if rope_type == "default" else {k: v for k, v in ropes.items() if k != "rope_theta"}
        )
    for name, key in (("full_attention", "global_rope_theta"), ("sliding_attention", "local_rope_theta")):
        if isinstance(ropes.get(name), dict):  # ModernBERT
            config[key] = ropes[name]["rope_theta"]
    layers = config.get("layer_types") or []
    if config["model_type"] == "modernbert" and layers:
        full = [index for index, attention in enumerate(layers) if attention == "full_attention"]
        config["global_attn_every_n_layers"] = full[1] if len(full) > 1 else len(layers)
    write(path, config)
    path = folder / "tokenizer_config.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    for key in ("backend", "is_local", "local_files_only"):
        tokenizer.pop(key, None)
    tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    extra = tokenizer.get("extra_special_tokens")
    if isinstance(extra, list):
        tokenizer["additional_special_tokens"] = tokenizer.pop("extra_special_tokens")
    template = folder / "chat_template.jinja"
    if template.is_file():
        tokenizer["chat_template"] = template.read_text(encoding="utf-8")
    write(path, tokenizer)
    names = (
        "bos_token",
        "eos_token",
        "unk_token",
        "sep_token",
        "pad_token",
        "cls_token",
        "mask_token",
        "additional_special_tokens",
    )
    write(
        folder / "special_tokens_map.json", {name: tokenizer[name] for name in names if tokenizer.get(name) is not None}
    )


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file that everybody can read."""
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    path.chmod(0o644)
