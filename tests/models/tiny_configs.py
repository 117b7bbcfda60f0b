"""Tiny configs of any model type of transformers, made from its default config by rules on the names of sizes."""

from __future__ import annotations

import re
from typing import Any

LAYERS, HEADS, HEAD, HIDDEN, INNER, WINDOW = 2, 4, 8, 32, 64, 16

RULES: list[tuple[str, Any]] = [
    (r"vocab_size|entity_vocab_size|.*_vocab_size|vocab_size_.*", None),  # the caller's
    (r"(num_|n_)?(hidden_)?layers?|n_layer|.*_layers|depth|num_blocks|num_hidden_layers", LAYERS),
    (r"(moe_)?layer_freq.*|.*_every.*|.*interval.*|first_k_dense.*|num_dense_layers|.*_period|.*_offset|.*_layer_idx", None),
    (r".*(num_key_value_heads|num_kv_heads|n_kv_heads|kv_n_heads|linear_num_key_heads|num_query_groups)", 2),
    (r"mamba_n_heads|mamba_num_heads|n_mamba_heads|num_heads_mamba", HIDDEN * 2 // HEAD),
    (r".*(num_attention_heads|num_heads|n_heads?|attention_heads|linear_num_value_heads|attn_heads)", HEADS),
    (r"(q|kv|o|v|k)_lora_rank|.*lora_rank|.*low_rank.*|.*_rank", 16),
    (r"qk_head_dim", 2 * HEAD),
    (r"rotary_dim", HEAD),
    (r"index_topk", WINDOW),
    (r".*(head_dim|d_kv|head_size|kv_channels|attention_head_size|d_head|head_dim_.*)|d_kv|qk_(rope|nope)_head_dim|v_head_dim", HEAD),
    (r"n_shared_experts|num_shared_experts|n_group|topk_group|num_expert_group.*|n_groups|mamba_n_groups|num_groups|.*topk_group", 1),
    (r".*experts?_per_tok.*|.*top_?k.*|num_selected_experts|moe_k", 2),
    (r".*_groups", None),
    (r".*num.*experts.*|n_routed_experts|num_local_experts|.*n_experts.*", 4),
    (r".*(state_size|d_state)|ssm_state_size", 8),
    (r".*(conv_kernel|d_conv|conv_l_cache|conv1d_width|kernel_size).*", None),
    (r".*time_step_rank|.*dt_rank", 4),
    (r"sliding_window|attention_chunk_size|window_size|local_attention|sliding_window_size|local_window_size", WINDOW),
    (r"attention_window", WINDOW),
    (r".*chunk_size(_feed_forward)?|chunk_len.*|.*chunk_length", None),
    (r".*(max_position_embeddings|n_positions|max_seq_len|n_ctx|max_source_positions|max_target_positions|seq_length|max_sequence_length).*", 256),
    (r".*(intermediate|ffn|d_ff|mlp|inner|feed_?forward|expert).*(size|dim|hidden)?", INNER),
    (r"image_size", 32),
    (r"patch_size", 8),
    (r".*(hidden_size|d_model|n_embd|hidden_dim|embed_dim|embedding_size|emb_dim|model_dim|_width|d_embed|lru_width|dim)", HIDDEN),
]  # fmt: skip
"""(name of a key, its size in a tiny config; None: as it is). The first rule that matches counts."""

UNSET = {"head_dim": HEAD, "num_key_value_heads": HEADS}
"""Sizes that a default config leaves open and that some classes do not fill in."""
LARGEST = 64
"""Whole numbers above it, under names that no rule knows, become this."""

KEEP = re.compile(
    r".*(token_?id|_id$|bos|eos|pad|theta|scale|factor|original_max|eps|range|std|seed|ratio|version|index|theta|beta).*"
)
"""Keys that are no sizes."""


INDEXER = {
    "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 16, "indexer_compress_ratio": 4,
}  # fmt: skip
PATCHES: dict[str, dict[str, Any]] = {
    # Types whose layers are of several kinds by another key than `layer_types`.
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "num_hidden_layers": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "dory": {
        "num_hidden_layers": 6, "n_input_layers": 2, "n_recurrent_layers": 2, "n_output_layers": 2,
        "layer_types": ["sliding_attention", "mlp", "full_attention", "mlp", "sliding_attention", "mlp"],
    },
    # Sizes that depend on each other.
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    "mobilebert": {"true_hidden_size": 32, "intra_bottleneck_size": 32, "embedding_size": 32, "intermediate_size": 32},
    "squeezebert": {"embedding_size": 32},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma3n": {"text_config.num_kv_shared_layers": 0},
    "gemma4_assistant": {"text_config.hidden_size_per_layer_input": 0},
    "dots3_note_text": {"head_dim": 16},
    "dots3_note": {"text_config.head_dim": 16},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "reformer": {
        "is_decoder": True, "attention_head_size": 8, "axial_pos_shape": [16, 16], "axial_pos_embds_dim": [16, 16], "num_buckets": 4,
        "attn_layers": ["local", "lsh"], "lsh_attn_chunk_length": 16, "local_attn_chunk_length": 16,
    },
    "xmod": {"default_language": "en_XX"},
    "xlstm": {"qk_dim_factor": 1.0, "v_dim_factor": 1.0, "mlstm_round_up_to_multiple_of": 8, "round_up_to_multiple_of": 8},
    "lilt": {"channel_shrink_ratio": 4, "hidden_size": 48},
    "zamba": {
        "attention_hidden_size": 64, "attention_head_dim": 16, "n_mamba_heads": 2, "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
    },
    "zamba2": {
        "attention_hidden_size": 64, "attention_head_dim": 16, "mamba_headdim": 8, "n_mamba_heads": 8, "hybrid_layer_ids": [1, 3],
        "num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "use_shared_attention_adapter": False, "kv_channels": 16, "num_query_groups": 4,
    },
    "hrm_text": {"num_layers_per_stack": 1, "num_hidden_layers": 8},
    "mistral4": {"head_dim": 16},
    "dbrx": {"attn_config.rope_theta": 10000.0, "attn_config.clip_qkv": 8.0},
    "cohere_compass_text": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "qwen4_exp_text": INDEXER,
    "qwen4_exp": {f"text_config.{key}": value for key, value in INDEXER.items()},
    "funnel": {"block_sizes": [1, 1], "num_decoder_layers": 1, "block_repeats": [1, 1], "num_hidden_layers": "drop", "num_blocks": "drop"},
    "neomme": {"head_dim": 16},
    "markuplm": {"max_xpath_tag_unit_embeddings": 256, "max_xpath_subs_unit_embeddings": 1024},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4},
}  # fmt: skip
"""Keys that follow from no rule, by model type."""


def tiny_dict(value: dict[str, Any], vocab_size: int, tokens: dict[str, int]) -> dict[str, Any]:
    """A config as a dict, with small sizes in all its parts. Token ids that do not fit become small ones."""
    kinds = value.get("layer_types") or value.get("layers_block_type") or value.get("block_types") or []
    names = list(dict.fromkeys(kind for kind in kinds if isinstance(kind, str)))
    layers = max(LAYERS, len(names))
    depth = next(
        (value[key] for key in ("num_hidden_layers", "n_layer", "num_layers") if isinstance(value.get(key), int)), -1
    )
    long = {len(item) for key, item in value.items() if isinstance(item, list) and "layer" in key}
    result: dict[str, Any] = {}
    for key, item in value.items():
        if key in ("transformers_version", "architectures", "model_type", "dtype", "torch_dtype"):
            if key == "model_type":
                result[key] = item
            continue
        if key == "per_layer_config" and isinstance(item, dict):  # by the number of the layer
            result[key] = {}
        elif isinstance(item, dict):
            result[key] = (
                tiny_dict(item, vocab_size, tokens) if "config" in key or "model_type" in item else tiny_mapping(item)
            )
        elif (
            isinstance(item, list)
            and item
            and (key.endswith(("layer_types", "block_type", "block_types")) or "layer" in key)
        ):
            kept = names if item == kinds else list(dict.fromkeys(map(str, item)))
            first = [next(one for one in item if str(one) == name) for name in map(str, kept)]
            result[key] = (first * layers)[:layers] if len(item) in long else item
        elif key.endswith("token_id") or key.endswith("_token_index"):
            result[key] = token_for(key, item, vocab_size, tokens)
        elif (
            isinstance(item, list) and len(item) == depth and all(isinstance(one, int) for one in item)
        ):  # one size a layer
            result[key] = [
                one if isinstance(one, bool) else tiny_size(key, one, vocab_size, layers) for one in item[:layers]
            ]
        elif isinstance(item, list) and len(item) == depth:
            result[key] = item[:layers]
        elif item is None and key in UNSET:
            result[key] = UNSET[key]
        elif isinstance(item, bool) or not isinstance(item, int):
            result[key] = item
        else:
            result[key] = tiny_size(key, item, vocab_size, layers)
    latent = result.get("kv_lora_rank")  # latent attention has no grouped keys
    if "num_key_value_heads" in result and (latent or value["num_key_value_heads"] == value.get("num_attention_heads")):
        result["num_key_value_heads"] = result.get("num_attention_heads", HEADS)
    if "vocab_size" in value and value["vocab_size"] is None:
        result["vocab_size"] = vocab_size
    return result


def tiny_mapping(item: dict[str, Any]) -> dict[str, Any]:
    """Parameters of positions: the parts of a head that mrope rotates are those of a small head."""
    return {
        key: [2, 1, 1] if key == "mrope_section" else tiny_mapping(value) if isinstance(value, dict) else value
        for key, value in item.items()
    }


def token_for(key: str, item: Any, vocab_size: int, tokens: dict[str, int]) -> Any:
    name = key.removesuffix("_token_id")
    if name in tokens:
        return tokens[name]
    if isinstance(item, int) and item >= vocab_size - 20:  # a token of images or sounds: behind those of the tokenizer
        return vocab_size - 16 + sum(map(ord, key)) % 16
    return None if isinstance(item, list) else item


def tiny_size(key: str, item: int, vocab_size: int, layers: int) -> int:
    if re.fullmatch(r"vocab_size.*|.*_vocab_size", key):
        return vocab_size
    for pattern, size in RULES:
        if re.fullmatch(pattern, key):
            if size is None or item <= 0:
                return item if item < 1024 else LARGEST
            if size == LAYERS and pattern.startswith("(num_"):
                return min(item, layers)
            return min(item, size) if size in (1, 2, WINDOW, 256) and "heads" not in key else size
    return LARGEST if item > LARGEST and not KEEP.fullmatch(key) else item


def tiny_config(config_class: Any, vocab_size: int, tokens: dict[str, int], patch: dict[str, Any]) -> Any:
    """A tiny config of this class; `patch`: keys that follow from no rule, where a name with dots reaches into a part."""
    values = tiny_dict(config_class().to_dict(), vocab_size, tokens)
    for key, item in patch.items():
        *path, last = key.split(".")
        part = values
        for name in path:
            part = part[name]
        if item == "drop":
            part.pop(last, None)
        else:
            part[last] = item
    model_type = values.pop("model_type", None)
    config = config_class(**values)
    if getattr(config, "is_encoder_decoder", False) and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = tokens.get("decoder_start", 0)  # as the config.json of real checkpoints has it
    assert config.model_type == model_type or model_type is None
    return config
