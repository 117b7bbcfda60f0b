"""Keys of version 0.1.0 under their present names. The old names work until version 0.3, with a hint on standard error.

Every place that reads keys from outside translates them with this one table: the command line, YAML files, plan.yaml, the
run.yaml of an older run and the config saved in an older checkpoint.
"""

from __future__ import annotations

from typing import Any

UNTIL = "0.3"
"""The version that no longer knows the old names."""

RENAMED_KEYS = {
    "model.width": "model.hidden_size",
    "model.layers": "model.num_hidden_layers",
    "model.heads": "model.num_attention_heads",
    "model.mlp_width": "model.intermediate_size",
    "model.vision.width": "model.vision.hidden_size",
    "model.vision.layers": "model.vision.num_hidden_layers",
    "model.vision.heads": "model.vision.num_attention_heads",
    "model.vision.mlp_width": "model.vision.intermediate_size",
    "model.kind": "model.family",
    "generation.beams": "generation.num_beams",
    "trainer.checkpointing": "trainer.activation_checkpointing",
    "trainer.keep": "trainer.save_total_limit",
    "trainer.lean": "trainer.fused_blocks",
    "task.kinds": "task.model_families",
    "retrieval.kind": "retrieval.method",
    "retrieval.top": "retrieval.top_k",
    "retrieval.tokens": "retrieval.max_tokens",
    "stage.gold": "stage.toy_worlds",
    "stage.why": "stage.diagnosis",
    "stage.collect": "stage.novelty",
}
"""Old key to new key. A key group stands for all keys below it."""


def present_key(key: str) -> str:
    """Return the present name of a key; a key that was not renamed comes back as it is."""
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        new = RENAMED_KEYS.get(".".join(parts[:length]))
        if new is not None:
            return ".".join([new, *parts[length:]])
    return key


def hint(old: str, new: str) -> str:
    """Return the line that tells a user the present name of an old key."""
    return f"{old} is called {new} now; the old key works until {UNTIL}"


def rename_keys(data: dict[str, Any], prefix: str = "", renamed: dict[str, str] | None = None) -> dict[str, Any]:
    """Return nested config data under present key names, in a new dict.

    `prefix` is the full key of `data` itself. Each old key that occurs is added to `renamed` with its new name. Where the
    data have a key under both names, the old name loses: a writer who knows the new name means it.
    """
    result: dict[str, Any] = {}
    for name, value in data.items():
        old = f"{prefix}.{name}" if prefix else str(name)
        new = present_key(old)
        if isinstance(value, dict):
            value = rename_keys(value, new, renamed)
        if new == old:
            result[name] = value
            continue
        if renamed is not None:
            renamed[old] = new
        new_name = new.rpartition(".")[2]
        if new_name not in data:
            result[new_name] = value
    return result


def key_of(override: str) -> str:
    """Return the key of an override such as `+model.width=64` or `~data.split`, without its marks."""
    return override.lstrip("+~").partition("=")[0]


def present_override(override: str) -> str:
    """Return an override of the command line with its key under the present name."""
    key = key_of(override)
    new = present_key(key)
    return override if new == key else override.replace(key, new, 1)
