"""Every probe family: its splits are disjoint, its axes told, and nothing gives the answer away."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from llmstage.demo.scenes import is_held_out, read_scene
from llmstage.errors import UserError
from llmstage.explore.items import Item, as_text, split_of
from llmstage.explore.probes import chosen, families, generate, load

FAMILIES = families()
TWELVE = {
    "modular", "addition", "copying", "induction", "key_value", "in_context", "brackets", "multi_hop", "negation",
    "tracking", "long_dialogue", "image_caption",
}  # fmt: skip


def wholes(items: list[Item], family: str) -> list[Item]:
    return [item for item in items if item.family == family]


def test_the_twelve_families_are_found_by_their_files():
    assert set(FAMILIES) >= TWELVE


@pytest.mark.parametrize("family", FAMILIES)
def test_splits_share_no_parameters(family: str):
    train = wholes(generate(family, 30, 0, splits=["train"]), family)
    test = wholes(generate(family, 30, 1, splits=["test"]), family)
    assert train and test
    assert {item.split for item in train} == {"train"} and {item.split for item in test} == {"test"}
    assert not {item.key for item in train} & {item.key for item in test}
    assert not {as_text(item) for item in train} & {as_text(item) for item in test} or any(i.choices for i in train)


@pytest.mark.parametrize("family", FAMILIES)
def test_axes_and_language_are_in_meta_and_ids_do_not_collide(family: str):
    module = load(family)
    items = generate(family, 8, 0)
    own = wholes(items, family)
    assert len({item.id for item in items}) == len(items)
    for cell in module.CORE:
        found = [item for item in own if cell.items() <= item.meta.items()]
        assert found, cell
        assert {item.meta.get("lang") for item in found} - {"numbers", None} <= set(module.LANGUAGES)
    if len(module.LANGUAGES) > 1:
        assert {"en", "zh"} <= {item.meta["lang"] for item in own}
        assert any("一" <= char <= "鿿" for item in own if item.meta["lang"] == "zh" for char in item.prompt)
    known = {item.id: item for item in items}
    for item in items:
        assert all(known[part].family.startswith(f"{family}.") for part in item.parts)
    assert all(item.split == split_of(item.family, item.key) for item in items)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_gives_the_same_items_and_another_one_others(family: str):
    first, again, other = (generate(family, 12, seed) for seed in (5, 5, 6))
    assert first == again
    assert {item.prompt for item in first} != {item.prompt for item in other} or family == "image_caption"
    assert [item.key for item in first] != [item.key for item in other]


PARTED = {
    "addition", "copying", "induction", "key_value", "brackets", "multi_hop", "negation", "tracking", "long_dialogue",
    "image_caption",
}  # fmt: skip


@pytest.mark.parametrize("family", sorted(PARTED))
def test_parts_are_given_where_the_family_has_them(family: str):
    items = generate(family, 10, 0)
    assert sum(bool(item.parts) for item in wholes(items, family)) >= len(load(family).CORE)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_form_of_the_prompt_does_not_give_the_answer_away(family: str):
    """Neither its length, nor the place of the choice, nor the choice most or least like the others, nor a fixed place in
    the prompt, says more of the answer than always saying the most frequent one."""
    cells: dict[str, list[Item]] = defaultdict(list)
    for item in wholes(generate(family, 200, 0), family):
        # A row of one symbol, or one pair, says its answer by being so short.
        cells[item.id.split("/")[1]].append(item)
    for name, items in cells.items():
        usual = Counter(item.right for item in items).most_common(1)[0][1] / len(items)
        if items[0].choices:
            sizes = len(items[0].choices)
            places = Counter(item.label for item in items)
            assert max(places.values()) / len(items) < 1 / sizes + 0.13, (name, places)
            for pick in (max, min):
                guess = [pick(item.choices, key=lambda one, own=item: likeness(one, own.choices)) for item in items]
                right = sum(one == item.right for one, item in zip(guess, items, strict=True)) / len(items)
                assert right < max(usual, 1 / sizes) + 0.15, (name, right)
        by_length: dict[int, Counter[str]] = defaultdict(Counter)
        for item in items[::2]:
            by_length[len(as_text(item))][item.right] += 1
        told = [item for item in items[1::2] if by_length[len(as_text(item))]]
        hits = [by_length[len(as_text(item))].most_common(1)[0][0] == item.right for item in told]
        if len(hits) >= 30:
            assert sum(hits) / len(hits) < usual + 0.2, (name, sum(hits) / len(hits), usual)
        if len(items[0].right.split()) == 1 and "pairs=1," not in name and "len=1" not in name:
            for at in (*range(4), *range(-6, 0)):
                same = [item for item in items if word_at(item, at) == item.right.strip()]
                assert len(same) / len(items) < 0.62, (name, at, len(same))


def likeness(choice: str, choices: list[str]) -> float:
    """Words shared with the other choices."""
    own = Counter(choice)
    return sum(sum((own & Counter(other)).values()) / max(len(choice), len(other)) for other in choices)


def word_at(item: Item, at: int) -> str:
    words = item.prompt.replace(".", " ").replace(",", " ").split()
    return words[at] if -len(words) <= at < len(words) else ""


def test_held_out_pairs_come_only_where_the_cell_says_so():
    for item in wholes(generate("image_caption", 40, 0), "image_caption"):
        if isinstance(item.image, str):
            held = any(is_held_out(thing.pair) for thing in read_scene(item.image)[1])
            assert held == (item.meta["composition"] == "unseen")
    rows = as_text(wholes(generate("image_caption", 1, 0), "image_caption")[0]).split("\n")
    assert len(rows) == 4 and rows[0].count("|") == 2


def test_a_small_cell_gives_what_it_has():
    items = wholes(generate("addition", 300, 0), "addition")
    assert sum(item.meta["digits"] == 1 for item in items) == 100


def test_names_core_and_full_choose_families():
    assert chosen(["core"]) == {family: list(load(family).CORE) for family in FAMILIES}
    assert chosen(["full", "copying"]) == {family: list(load(family).FULL) for family in FAMILIES}
    assert chosen(["copying"]) == {"copying": list(load("copying").CORE)}
    many, few = (
        wholes(generate("copying", 1, 0, cells=cells), "copying")
        for cells in (load("copying").FULL, load("copying").CORE)
    )
    assert len(many) > len(few)
    with pytest.raises(UserError, match=r"explore\.probes\.nothing"):
        load("nothing")


def test_values_behind_a_name_choose_levels():
    assert chosen(["copying:copy"]) == {"copying": [{"op": "copy", "len": length} for length in (2, 5, 10)]}
    assert chosen(["copying:copy:5", "copying:sort:5", "copying:5:copy"]) == {
        "copying": [{"op": "copy", "len": 5}, {"op": "sort", "len": 5}]
    }
    assert chosen(["addition:4:reversed"]) == {"addition": [{"digits": 4, "order": "reversed", "spaced": False}]}
    assert {cell["alphabet"] for cell in chosen(["copying:16"])["copying"]} == {
        10,
        22,
    }  # of the full set: no usual one has it
    items = wholes(generate("copying", 4, 0, cells=chosen(["copying:copy"])["copying"]), "copying")
    assert len(items) == 12 and all(item.prompt.startswith(("copy", "照抄")) for item in items)
    with pytest.raises(
        UserError, match=r"no level of copying is copi\. Its axes are op: copy, reverse, sort, succ; len: 2, 5, 10"
    ):
        chosen(["copying:copi"])
