"""Undocumented parts of transformers that this project relies on, each with what is used where a version lacks it.

The names of this library change between minor versions. Every private or undocumented one is in this file and in no other,
so that a new version is checked in one place. Public names (`AutoModel`, `DynamicCache`, `AttentionInterface`) are imported
where they are used.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

__all__ = [
    "BODY_EXCLUDED", "TASK_HEADS", "Conv1D", "GradientCheckpointingLayer", "attention_implementation", "cache_arguments",
    "cache_parameter", "class_names", "fp32_modules", "has_cache", "loading_types", "mapped_types", "register_attention", "repeat_groups", "sdpa_attention",
    "tied_weight_names", "use_attention",
]  # fmt: skip

TASK_HEADS = ("classifier", "score", "qa_outputs", "extra")
"""Modules that belong to a task: small, and trained in full beside an adapter. `extra` is the task's own module."""
BODY_EXCLUDED = (*TASK_HEADS, "head", "lm_head", "cls", "pooler")
"""Modules of transformers' classes that are outside the body: their linear layers get no adapter and no float8."""

MAPPINGS = {
    "AutoModel": "MODEL_MAPPING_NAMES",
    "AutoModelForCausalLM": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "AutoModelForMaskedLM": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "AutoModelForSeq2SeqLM": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "AutoModelForSequenceClassification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "AutoModelForTokenClassification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "AutoModelForQuestionAnswering": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    "AutoModelForImageTextToText": "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "AutoModelForZeroShotImageClassification": "MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES",
}
"""transformers' mapping of model types to classes, by the name of the Auto class that reads it."""

try:
    from transformers.modeling_layers import GradientCheckpointingLayer
except ImportError:

    class GradientCheckpointingLayer(nn.Module):  # type: ignore[no-redef]
        """No layer is an instance of this class: activation checkpointing is then refused."""


try:
    from transformers.pytorch_utils import Conv1D
except ImportError:

    class Conv1D(nn.Module):  # type: ignore[no-redef]
        """GPT-2's linear layer with a transposed weight. No layer is an instance of this class."""


def cache_parameter(module: Any) -> str | None:
    """The keyword by which this model's forward takes keys and values of earlier tokens; None where it takes none.

    It is `past_key_values` up to transformers 5.23 and `cache` from 5.24 on. A forward that gets the wrong one ignores it
    without an error, and then writes text that does not follow from the prompt.
    """
    parameters = inspect.signature(module.forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in parameters), None)


def cache_arguments(module: Any, cache: Any) -> dict[str, Any]:
    """Keyword arguments that make this model's forward read and extend `cache`. Raises TypeError where it takes no cache."""
    name = cache_parameter(module)
    if name is None:
        raise TypeError(f"{type(module).__name__}.forward() takes no cache of keys and values")
    return {name: cache, "use_cache": True}


def has_cache(kwargs: dict[str, Any]) -> bool:
    """Whether the keyword arguments of a layer's forward hold a cache, by either name."""
    return any(kwargs.get(name) is not None for name in ("cache", "past_key_values"))


def attention_implementation(config: Any) -> str | None:
    """Name of the attention that a model with this config computes, e.g. `sdpa`."""
    name = getattr(config, "_attn_implementation", None)
    return None if name is None else str(name)


def sdpa_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> Tensor:
    """Attention as transformers computes it by torch's scaled_dot_product_attention: query [B, H, T, D] -> [B, T, H, D]."""
    forward: Any = AttentionInterface()["sdpa"]
    result: Tensor = forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
    )[0]
    return result


def repeat_groups(states: Tensor, groups: int) -> Tensor:
    """Keys or values [B, G, T, D] repeated for the query heads that share them: [B, G * groups, T, D]."""
    if groups == 1:
        return states
    batch, heads, length, width = states.shape
    expanded = states[:, :, None].expand(batch, heads, groups, length, width)
    return expanded.reshape(batch, heads * groups, length, width)


def register_attention(name: str, function: Any) -> None:
    """Offer `function` as the attention called `name`, with the masks of transformers' `sdpa`."""
    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, AttentionMaskInterface()["sdpa"])


def use_attention(model: Any, name: str, instead_of: str = "sdpa") -> bool:
    """Let a model compute the registered attention `name`, if it computes `instead_of` now; returns whether it does."""
    if attention_implementation(model.config) != instead_of:
        return False
    model.set_attn_implementation(name)
    return True


def mapped_types(auto_class: str, default: str | None = None) -> set[str]:
    """Model types that transformers loads by one of its classes, e.g. AutoModelForMaskedLM. `default`: the one type of the answer
    where this version of transformers does not tell."""
    from transformers.models.auto import modeling_auto

    name = MAPPINGS.get(auto_class)
    mapping = getattr(modeling_auto, name, None) if name else None
    return set(mapping) if mapping is not None else {default} if default else set()


def class_names(auto_class: str) -> str:
    """How the classes behind one of transformers' Auto classes are called, e.g. ...ForMaskedLM."""
    return "..." + auto_class.removeprefix("AutoModel")


def tied_weight_names(model: Any) -> set[str]:
    """Names of weights that are another weight under a second name."""
    return set(getattr(model, "all_tied_weights_keys", None) or ())


def fp32_modules(model: Any) -> set[str]:
    """Names of modules that transformers keeps in fp32 whatever the type of the model, such as T5's `wo`."""
    names: set[str] = set()
    for key in ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict"):
        names.update(part for name in getattr(model, key, None) or () for part in str(name).split("."))
    return names


@contextmanager
def loading_types(choose: Callable[[Any], tuple[set[str], Any]]) -> Iterator[None]:
    """Let from_pretrained() load some weights in another type than the model. `choose(model)`: their names and the type.

    Where this version of transformers has no such plan, all weights are loaded in the type of the model.
    """
    original = getattr(PreTrainedModel, "_get_dtype_plan", None)
    if original is None:
        yield
        return

    def plan(self: Any, dtype: Any) -> dict[str, Any]:
        names, held_dtype = choose(self)
        # One pattern for the same weight of all layers: a model may have thousands.
        patterns = {re.sub(r"\d+", r"\\d+", re.escape(name)) for name in names}
        return {**original(self, dtype), **{f"^{pattern}$": held_dtype for pattern in sorted(patterns)}}

    PreTrainedModel._get_dtype_plan = plan  # type: ignore[method-assign]
    try:
        yield
    finally:
        PreTrainedModel._get_dtype_plan = original  # type: ignore[method-assign]
