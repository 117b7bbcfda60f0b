"""What is written is read back, in memory as on disk."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from llmstage.data.encoding.store import ExampleStore, ExampleWriter, Ledger


def fill(folder: Path | None, id_type: str = "uint16", top: int = 65535) -> tuple[ExampleStore, list[dict]]:
    draw = random.Random(1)
    writer = ExampleWriter(folder, id_type)
    given = []
    for row in range(50):
        length = draw.randint(1, 30)
        arrays = {
            "input_ids": [draw.randint(0, top) for _ in range(length)],
            "target": [draw.randint(0, 1) for _ in range(length)],
            "label": [draw.randint(0, 2**31 - 1)],
        }
        given.append(arrays)
        writer.add(arrays, row // 2)
        writer.refs.append({"text": f"你好 {row}", "list": [row, None]})
    writer.ledger.tokens = 123
    return writer.finish(), given


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize(("id_type", "top"), [("uint16", 65535), ("uint32", 200_000)])
def test_features_come_back_as_they_were(tmp_path, on_disk, id_type, top):
    store, given = fill(tmp_path / "a" / "store" if on_disk else None, id_type, top)
    assert len(store) == 50
    for index, arrays in enumerate(given):
        read, ref, row = store.get(index)
        assert read == arrays and row == index // 2
        assert ref == {"text": f"你好 {index}", "list": [index, None]}
    assert store.lengths.tolist() == [len(arrays["input_ids"]) for arrays in given]
    assert store.ledger.tokens == 123


def test_memory_disk_and_opening_again_are_equal(tmp_path):
    memory, _ = fill(None)
    disk, _ = fill(tmp_path / "store")
    opened = ExampleStore.open(tmp_path / "store")
    for index in range(50):
        assert memory.get(index) == disk.get(index) == opened.get(index)
    assert memory.ledger == disk.ledger == opened.ledger


def test_a_folder_is_published_whole_and_the_second_writer_takes_the_first_ones(tmp_path):
    folder = tmp_path / "store"
    one, two = ExampleWriter(folder, "uint16"), ExampleWriter(folder.with_name("other"), "uint16")
    one.add({"input_ids": [1, 2]}, 0)
    assert not folder.exists()  # not before it is whole
    one.finish()
    two.add({"input_ids": [1, 2]}, 0)
    two.folder = folder  # another process got there first
    assert two.finish().get(0)[0] == {"input_ids": [1, 2]}
    assert [path.name for path in tmp_path.iterdir()] == ["store"]  # no draft is left


def test_the_share_of_lost_targets():
    assert Ledger().lost_target_share == 0
    assert Ledger(target_tokens=75, lost_targets=25).lost_target_share == 0.25
    assert Ledger(target_tokens=75, lost_targets=25).as_dict()["lost_target_share"] == 0.25


@pytest.mark.parametrize("on_disk", [True, False])
def test_floats_stay_floats(tmp_path, on_disk):
    writer = ExampleWriter(tmp_path / "store" if on_disk else None, "uint16")
    writer.add({"input_ids": [1, 2], "numbers": [0.5, -1.25]}, 0)
    writer.add({"input_ids": [3], "numbers": [2.0, 7.5]}, 1)
    store = writer.finish()
    assert store.get(0)[0] == {"input_ids": [1, 2], "numbers": [0.5, -1.25]}
    assert store.get(1)[0]["numbers"] == [2.0, 7.5]
