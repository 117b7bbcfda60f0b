"""Computes vectors of texts: the mean of a model's last hidden states, for any encoder or decoder that transformers loads."""

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
from llmstage.models.families import model_family
from llmstage.models.loading import load_model, max_positions
from llmstage.models.pooling import text_vectors
from llmstage.paths import locate_model
from llmstage.tokenization.tokenizer import Processor, load_processor
from llmstage.training.setup import load_model_config, quiet_libraries

Floats = NDArray[np.float32]
BATCH_SIZE = 64
"""Texts of one forward pass."""


class Encoder:
    """The model of retrieval.encoder. `digest` identifies its weights and its tokenizer."""

    def __init__(self, path: str, *, offline: bool) -> None:
        quiet_libraries(offline=offline)
        source = locate_model(path)
        try:
            config = load_model_config(source, offline=offline)
            if model_family(config) not in ("bert", "gpt"):
                raise ModelError(
                    f"{path} is a {config.model_type}: only encoders (bert) and decoders (gpt) compute vectors. Name one of those."
                )
            tokenizer_path = str(source.model_dir or source.hub_id)
            local = offline or source.model_dir is not None
            self.model: Any = load_model(transformers.AutoModel, source, {}, 0.0, offline=offline, quantized={}).eval()
            self.processor: Processor = load_processor(tokenizer_path, local=local)
        except ModelError as error:
            reason = str(error).replace("model.path=", "")
            raise ModelError(f"retrieval.encoder={path}: {reason}") from None
        self.max_length = max_positions(config) or 512
        weights = sorted(source.model_dir.glob("*.safetensors")) if source.model_dir is not None else []
        weight_digests = [DataFile(file, file.name).digest() for file in weights] or [tokenizer_path]
        self.digest = hashlib.sha256("|".join([*weight_digests, self.processor.digest()]).encode()).hexdigest()
        self.lock = threading.Lock()

    def vectors(self, texts: Sequence[str]) -> Floats:
        """Return vectors [N, D] of N texts. Of a text longer than the model's context only the beginning is read."""
        batches = []
        for start in range(0, len(texts), BATCH_SIZE):
            # One lock for each batch, not for all: a question does not wait until a new index is complete.
            with self.lock, torch.no_grad():
                ids = [
                    self.processor.marked_ids(text, None, self.max_length)[0]
                    for text in texts[start : start + BATCH_SIZE]
                ]
                # An empty text has no token where the model adds no special tokens.
                ids = [token_ids or [self.processor.pad_id] for token_ids in ids]
                batches.append(text_vectors(self.model, ids, self.processor.pad_id).float().cpu().numpy())
        return np.concatenate(batches)
