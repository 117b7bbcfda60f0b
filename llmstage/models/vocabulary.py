"""Rows of the embeddings for tokens that a run adds to the vocabulary of a pretrained model (model.add_tokens)."""

from __future__ import annotations

from typing import Any

import torch

from llmstage.models.weight_types import release


def extend_embeddings(model: Any, size: int, subwords: dict[int, list[int]]) -> None:
    """Give the tokens `subwords` rows in the input embedding and in the output layer, of `size` rows at least, in place.

    `subwords`: the ids by which the tokenizer wrote each new token before. A new row is the mean of their rows, so that the model reads
    the token much as it did (Hewitt 2021 shows why a mean is a safe start); without subwords, it is the mean of all rows.
    """
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    release(model, lambda module: module in tables)
    old_size = int(tables[0].weight.shape[0])
    if size > old_size:
        model.resize_token_embeddings(size, mean_resizing=False)
    subwords = {**{index: [] for index in range(old_size, size)}, **subwords}
    for table in (model.get_input_embeddings(), model.get_output_embeddings()):
        for parameter in () if table is None else (table.weight, getattr(table, "bias", None)):
            if isinstance(parameter, torch.nn.Parameter):
                fill_rows(parameter, old_size, subwords)


@torch.no_grad()
def fill_rows(table: torch.nn.Parameter, old_size: int, subwords: dict[int, list[int]]) -> None:
    """Set the rows of new tokens; where both layers share a table, the second time changes nothing."""
    before = table[:old_size].clone()
    for index, ids in subwords.items():
        table[index] = before[ids].mean(0) if ids else before.mean(0)
