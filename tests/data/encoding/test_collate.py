"""Laws of padding and of the block mask."""

from __future__ import annotations

import random

import torch

from llmstage.data.encoding.collate import block_mask, labels_for, pack, pad


def random_rows(seed: int) -> list[list[list[int]]]:
    draw = random.Random(seed)
    return [
        [[draw.randrange(1, 99) for _ in range(draw.randint(1, 9))] for _ in range(draw.randint(1, 4))]
        for _ in range(draw.randint(1, 5))
    ]


def test_pad_keeps_every_value_and_fills_the_right():
    out = pad([[1, 2, 3], [4], []], 7)
    assert out.tolist() == [[1, 2, 3], [4, 7, 7], [7, 7, 7]]


def test_a_query_sees_its_own_feature_and_nothing_later():
    for seed in range(20):
        packed = pack(random_rows(seed), 0, causal=True)
        owner = packed.segments
        mask = block_mask(owner, causal=True)
        assert mask.shape == (owner.shape[0], 1, owner.shape[1], owner.shape[1])
        for row, own in enumerate(owner.tolist()):
            for query in range(len(own)):
                seen = mask[row, 0, query].nonzero().flatten().tolist()
                assert seen == [key for key in range(query + 1) if own[key] == own[query]]
                assert query in seen  # also on padding: no row of the softmax is empty


def test_an_encoder_sees_both_ways():
    mask = block_mask(torch.tensor([[0, 0, 1, -1]]), causal=False)[0, 0]
    assert mask.int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_packed_rows_hold_every_token_in_order_with_positions_from_zero():
    for seed in range(20):
        rows = random_rows(seed)
        packed = pack(rows, 0, causal=True)
        flat = [ids for row in rows for ids in row]
        assert packed.num_tokens == sum(map(len, flat))
        assert packed.inputs["input_ids"].shape == packed.segments.shape
        for number, ids in enumerate(flat):
            here = packed.segments == number
            assert packed.inputs["input_ids"][here].tolist() == ids
            if "position_ids" in packed.inputs:
                assert packed.inputs["position_ids"][here].tolist() == list(range(len(ids)))
        assert int((packed.segments >= 0).sum()) == packed.num_tokens
        assert bool((packed.inputs["input_ids"][packed.segments < 0] == 0).all())


def test_no_mask_is_made_where_none_is_needed():
    assert pack([[[1, 2]], [[3]]], 0, causal=True).inputs.keys() == {"input_ids"}
    assert "attention_mask" in pack([[[1, 2]], [[3]]], 0, causal=False).inputs


def test_labels_stand_where_their_tokens_stand():
    rows = random_rows(3)
    packed = pack(rows, -100, causal=True)
    assert torch.equal(labels_for(rows, -100), packed.inputs["input_ids"])
