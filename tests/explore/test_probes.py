"""Every probe family: its splits are disjoint, its axes are in the metadata, and the prompt's form does not reveal the answer."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from llmstage.demo.scenes import is_held_out, read_scene
from llmstage.errors import UserError
from llmstage.explore.items import Item, as_text, split_of
from llmstage.explore.probes import families, generate, load, select_cells

FAMILIES = families()
TWELVE = {
    "modular", "addition", "copying", "induction", "key_value", "in_context", "brackets", "multi_hop", "negation",
    "tracking", "long_dialogue", "image_caption",
}  # fmt: skip


def top_level(items: list[Item], probe_family: str) -> list[Item]:
    return [item for item in items if item.probe_family == probe_family]


def test_the_twelve_families_are_discovered_by_their_files():
    assert set(FAMILIES) >= TWELVE


@pytest.mark.parametrize("probe_family", FAMILIES)
def test_splits_share_no_parameters(probe_family: str):
    train = top_level(generate(probe_family, 30, 0, splits=["train"]), probe_family)
    test = top_level(generate(probe_family, 30, 1, splits=["test"]), probe_family)
    assert train and test
    assert {item.split for item in train} == {"train"} and {item.split for item in test} == {"test"}
    assert not {item.key for item in train} & {item.key for item in test}
    assert not {as_text(item) for item in train} & {as_text(item) for item in test} or any(i.choices for i in train)


@pytest.mark.parametrize("probe_family", FAMILIES)
def test_axes_and_language_are_in_meta_and_ids_do_not_collide(probe_family: str):
    module = load(probe_family)
    items = generate(probe_family, 8, 0)
    members = top_level(items, probe_family)
    assert len({item.id for item in items}) == len(items)
    for cell in module.CORE:
        matching = [item for item in members if cell.items() <= item.meta.items()]
        assert matching, cell
        assert {item.meta.get("lang") for item in matching} - {"numbers", None} <= set(module.LANGUAGES)
    if len(module.LANGUAGES) > 1:
        assert {"en", "zh"} <= {item.meta["lang"] for item in members}
        assert any("一" <= char <= "鿿" for item in members if item.meta["lang"] == "zh" for char in item.prompt)
    known = {item.id: item for item in items}
    for item in items:
        assert all(known[part].probe_family.startswith(f"{probe_family}.") for part in item.parts)
    assert all(item.split == split_of(item.probe_family, item.key) for item in items)


@pytest.mark.parametrize("probe_family", FAMILIES)
def test_the_same_seed_gives_the_same_items_and_another_one_others(probe_family: str):
    first, again, different = (generate(probe_family, 12, seed) for seed in (5, 5, 6))
    assert first == again
    assert {item.prompt for item in first} != {item.prompt for item in different} or probe_family == "image_caption"
    assert [item.key for item in first] != [item.key for item in different]


PARTED = {
    "addition", "copying", "induction", "key_value", "brackets", "multi_hop", "negation", "tracking", "long_dialogue",
    "image_caption",
}  # fmt: skip


@pytest.mark.parametrize("probe_family", sorted(PARTED))
def test_parts_are_given_where_the_family_has_them(probe_family: str):
    items = generate(probe_family, 10, 0)
    assert sum(bool(item.parts) for item in top_level(items, probe_family)) >= len(load(probe_family).CORE)


@pytest.mark.parametrize("probe_family", FAMILIES)
def test_the_form_of_the_prompt_does_not_give_the_answer_away(probe_family: str):
    """Its length, the index of the choice, the choice most or least like the others, and a fixed position in the prompt predict
    the answer no better than the most frequent answer does."""
    cells: dict[str, list[Item]] = defaultdict(list)
    for item in top_level(generate(probe_family, 200, 0), probe_family):
        # A sequence of one symbol, or one pair, reveals its answer because it is so short.
        cells[item.id.split("/")[1]].append(item)
    for name, items in cells.items():
        usual = Counter(item.right for item in items).most_common(1)[0][1] / len(items)
        if items[0].choices:
            sizes = len(items[0].choices)
            labels = Counter(item.label for item in items)
            assert max(labels.values()) / len(items) < 1 / sizes + 0.13, (name, labels)
            for pick in (max, min):
                guess = [pick(item.choices, key=lambda text, item=item: likeness(text, item.choices)) for item in items]
                right = sum(text == item.right for text, item in zip(guess, items, strict=True)) / len(items)
                assert right < max(usual, 1 / sizes) + 0.15, (name, right)
        by_length: dict[int, Counter[str]] = defaultdict(Counter)
        for item in items[::2]:
            by_length[len(as_text(item))][item.right] += 1
        known = [item for item in items[1::2] if by_length[len(as_text(item))]]
        hits = [by_length[len(as_text(item))].most_common(1)[0][0] == item.right for item in known]
        if len(hits) >= 30:
            assert sum(hits) / len(hits) < usual + 0.2, (name, sum(hits) / len(hits), usual)
        if len(items[0].right.split()) == 1 and "pairs=1," not in name and "len=1" not in name:
            for at in (*range(4), *range(-6, 0)):
                same = [item for item in items if word_at(item, at) == item.right.strip()]
                assert len(same) / len(items) < 0.62, (name, at, len(same))


def likeness(choice: str, choices: list[str]) -> float:
    """Characters shared with the other choices."""
    characters = Counter(choice)
    return sum(sum((characters & Counter(text)).values()) / max(len(choice), len(text)) for text in choices)


def word_at(item: Item, at: int) -> str:
    words = item.prompt.replace(".", " ").replace(",", " ").split()
    return words[at] if -len(words) <= at < len(words) else ""


def test_held_out_pairs_are_only_in_cells_that_name_them():
    for item in top_level(generate("image_caption", 40, 0), "image_caption"):
        if isinstance(item.image, str):
            held = any(is_held_out(thing.pair) for thing in read_scene(item.image)[1])
            assert held == (item.meta["composition"] == "unseen")
    rows = as_text(top_level(generate("image_caption", 1, 0), "image_caption")[0]).split("\n")
    assert len(rows) == 4 and rows[0].count("|") == 2


def test_a_small_cell_gives_all_of_its_items():
    items = top_level(generate("addition", 300, 0), "addition")
    assert sum(item.meta["digits"] == 1 for item in items) == 100


def test_names_core_and_full_choose_families():
    assert select_cells(["core"]) == {name: list(load(name).CORE) for name in FAMILIES}
    assert select_cells(["full", "copying"]) == {name: list(load(name).FULL) for name in FAMILIES}
    assert select_cells(["copying"]) == {"copying": list(load("copying").CORE)}
    many, few = (
        top_level(generate("copying", 1, 0, cells=cells), "copying")
        for cells in (load("copying").FULL, load("copying").CORE)
    )
    assert len(many) > len(few)
    with pytest.raises(UserError, match=r"explore\.probes\.nothing"):
        load("nothing")


def test_values_after_a_name_choose_levels():
    assert select_cells(["copying:copy"]) == {"copying": [{"op": "copy", "len": length} for length in (2, 5, 10)]}
    assert select_cells(["copying:copy:5", "copying:sort:5", "copying:5:copy"]) == {
        "copying": [{"op": "copy", "len": 5}, {"op": "sort", "len": 5}]
    }
    assert select_cells(["addition:4:reversed"]) == {"addition": [{"digits": 4, "order": "reversed", "spaced": False}]}
    # No core cell has an alphabet of 16 symbols: these are of the full set.
    assert {cell["alphabet"] for cell in select_cells(["copying:16"])["copying"]} == {10, 22}
    items = top_level(generate("copying", 4, 0, cells=select_cells(["copying:copy"])["copying"]), "copying")
    assert len(items) == 12 and all(item.prompt.startswith(("copy", "照抄")) for item in items)
    with pytest.raises(
        UserError, match=r"no level of copying is copi\. Its axes are op: copy, reverse, sort, succ; len: 2, 5, 10"
    ):
        select_cells(["copying:copi"])
