"""Texts as vectors: the mean of a model's last hidden states, any encoder or decoder that llmstage trained or transformers
loads."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from llmstage.data.files import DataFile
from llmstage.errors import ModelError
from llmstage.models.build import load_model
from llmstage.models.pooling import text_vectors
from llmstage.paths import locate_model
from llmstage.tokenization.tokenizer import Processor, load_processor
from llmstage.training.setup import family, model_config, quiet_libraries

Floats = NDArray[np.float32]
AT_ONCE = 64
"""Texts of one part."""


class Encoder:
    """`digest` stands for the weights and the tokenizer."""

    def __init__(self, path: str, *, offline: bool) -> None:
        quiet_libraries(offline=offline)
        place = locate_model(path)
        try:
            config = model_config(place, offline=offline)
            if family(config) not in ("bert", "gpt"):
                raise ModelError(
                    f"{path} is a {config.model_type}: vectors are made by encoders (bert) and decoders (gpt). Name one of those."
                )
            source = str(place.model_dir or place.hub_id)
            local = offline or place.model_dir is not None
            self.model: Any = load_model(transformers.AutoModel, place, {}, 0.0, offline=offline, quantized={}).eval()
            self.processor: Processor = load_processor(source, local=local)
        except ModelError as error:
            reason = str(error).replace("model.path=", "")
            raise ModelError(f"retrieval.encoder={path}: {reason}") from None
        self.longest = int(getattr(config, "max_position_embeddings", None) or 512)
        weights = sorted(place.model_dir.glob("*.safetensors")) if place.model_dir is not None else []
        told = [DataFile(item, item.name).digest() for item in weights] or [source]
        self.digest = hashlib.sha256("|".join([*told, self.processor.digest()]).encode()).hexdigest()
        self.one_at_a_time = threading.Lock()

    def vectors(self, texts: Sequence[str]) -> Floats:
        """[N, D] of N texts; of a text longer than the model reads, of its beginning. Between two parts of many texts others have
        their turn, so that questions do not wait until a new index is whole."""
        made = []
        for start in range(0, len(texts), AT_ONCE):
            with self.one_at_a_time, torch.no_grad():
                ids = [
                    self.processor.marked_ids(text, None, self.longest)[0] for text in texts[start : start + AT_ONCE]
                ]
                ids = [own or [self.processor.pad_id] for own in ids]  # an empty text, in a model that marks none
                made.append(text_vectors(self.model, ids, self.processor.pad_id).float().cpu().numpy())
        return np.concatenate(made)
