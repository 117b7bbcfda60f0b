"""Images in their layouts: folders, tables that name them, Parquet, saved data sets, tar shards; what a row is called."""

from __future__ import annotations

import base64
import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmstage.config.data import DataConfig, SplitConfig
from llmstage.data import image_containers
from llmstage.data.images import open_image
from llmstage.data.row_source import RowSource
from llmstage.data.rows import Columns
from llmstage.data.splits import open_splits
from llmstage.errors import DataError

SAID = Columns(
    ("image",), ("caption", "label"), content=("image",), either=(("caption",), ("label",)), images=("image",)
)
ASKED = Columns(("image", "question", "answer"), ("kind",), images=("image",))
Draw = Callable[..., Any]


def opened(words: Columns, /, **options: Any) -> dict[str, RowSource]:
    return open_splits(DataConfig(**options), words, lambda row: None, None)


def read(words: Columns = SAID, /, **options: Any) -> list[tuple[dict[str, Any], str]]:
    return list(opened(words, **options)["test"])


def same(place: str, picture: Any) -> bool:
    return np.array_equal(np.asarray(open_image(place)), np.asarray(picture))


# Folders


@pytest.mark.parametrize("reader", ["auto", "image_folder"])
def test_a_folder_a_class(classes: Path, draw: Draw, reader: str) -> None:
    found = read(test=str(classes), format=reader)
    assert [row["label"] for row, _ in found] == ["cat"] * 3 + ["狗"] * 3
    assert [place for _, place in found][:2] == [f"{classes}/cat/0.JPG", f"{classes}/cat/1.png"]
    assert same(found[4][0]["image"], draw(11))
    source = opened(SAID, test=str(classes), format=reader)["test"]
    assert "(image_folder, 2 classes)" in source.description


def test_a_folder_is_no_data_for_a_task_that_reads_texts(classes: Path) -> None:
    with pytest.raises(DataError, match=r"this folder holds no file that can be read as data"):
        read(Columns(("text",)), test=str(classes / "cat"))


def test_folders_that_are_splits_are_no_classes(tmp_path: Path, classes: Path) -> None:
    shutil.copytree(classes, tmp_path / "set" / "train")
    shutil.copytree(classes, tmp_path / "set" / "test")
    with pytest.raises(
        DataError, match=r"its folders are splits \(test, train\), not classes. Name each: data\.train="
    ):
        read(test=str(tmp_path / "set"))
    assert len(read(test=str(tmp_path / "set" / "test"))) == 6


def test_a_folder_without_images_and_an_image_that_is_named_alone(tmp_path: Path, classes: Path) -> None:
    (tmp_path / "empty" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no image in this folder\. Known endings: \.avif"):
        read(test=str(tmp_path / "empty"), format="image_folder")
    with pytest.raises(DataError, match=r"1\.png: one image is no data set"):
        read(test=str(classes / "cat" / "1.png"))


def test_the_digest_of_a_folder_follows_names_sizes_and_what_is_said(tmp_path: Path, classes: Path) -> None:
    def digest() -> str:
        return opened(SAID, test=str(classes))["test"].digest()

    first = digest()
    assert digest() == first
    (classes / "cat" / "2.png").rename(classes / "cat" / "7.png")
    assert (second := digest()) != first
    (classes / "cat" / "7.txt").write_text("a cat")
    third = digest()
    (classes / "cat" / "7.txt").write_text("a dog")
    assert len({first, second, third, digest()}) == 4
    shutil.move(classes, tmp_path / "moved")
    assert (
        opened(SAID, test=str(tmp_path / "moved"))["test"].digest()
        == opened(SAID, test=str(tmp_path / "moved"))["test"].digest()
    )


def test_a_moved_folder_is_cut_as_before(tmp_path: Path, draw: Draw) -> None:
    root = tmp_path / "a"
    (root / "x").mkdir(parents=True)
    for number in range(40):
        draw(number).save(root / "x" / f"{number}.png")

    def sides() -> dict[str, list[str]]:
        found = opened(SAID, train=str(root), split=SplitConfig(validation=0.2, test=0.2))
        return {split: [Path(row["image"]).name for row, _ in source] for split, source in found.items()}

    before = sides()
    root = root.rename(tmp_path / "b")
    assert sides() == before and all(len(names) > 2 for names in before.values())


def test_texts_beside_images(tmp_path: Path, draw: Draw) -> None:
    for number in range(3):
        draw(number).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(f"\ufeff图 {number}\n", "utf-8")
    assert [row["caption"] for row, _ in read(test=str(tmp_path))] == ["图 0", "图 1", "图 2"]
    (tmp_path / "1.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"/1\.png: 1\.txt beside it is not valid utf-8"):
        read(test=str(tmp_path))
    assert len(read(test=str(tmp_path), on_bad_row="quarantine")) == 2


def test_a_link_to_a_folder_above_is_no_endless_walk(classes: Path) -> None:
    (classes / "cat" / "up").symlink_to("..")
    assert len(read(test=str(classes))) == 6


# Tables that name images


def table(root: Path, kind: str) -> Path:
    rows = [{"file_name": f"cat/{number}.png", "text": f"cat {number}"} for number in (1, 2)]
    if kind == "metadata.parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), root / kind)
    elif kind.endswith("csv"):
        (root / kind).write_text("file_name,text\n" + "".join(f"{row['file_name']},{row['text']}\n" for row in rows))
    elif kind.endswith("tsv"):
        (root / kind).write_text("file_name\ttext\n" + "".join(f"{row['file_name']}\t{row['text']}\n" for row in rows))
    elif kind.endswith("jsonl"):
        (root / kind).write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        (root / kind).write_text(json.dumps(rows))
    return root / kind


@pytest.mark.parametrize("kind", ["metadata.jsonl", "metadata.csv", "metadata.parquet"])
@pytest.mark.parametrize("reader", ["auto", "image_folder"])
def test_a_folder_with_metadata(classes: Path, draw: Draw, kind: str, reader: str) -> None:
    table(classes, kind)
    found = read(test=str(classes), format=reader)
    assert [row["caption"] for row, _ in found] == ["cat 1", "cat 2"] and same(found[1][0]["image"], draw(2))
    assert found[0][1].startswith(f"{classes}/{kind}:")


@pytest.mark.parametrize("kind", ["a.jsonl", "a.csv", "a.tsv", "a.json", "metadata.parquet"])
def test_tables_name_images_from_their_own_folder_or_from_another(
    tmp_path: Path, classes: Path, draw: Draw, kind: str
) -> None:
    assert same(read(test=str(table(classes, kind)))[1][0]["image"], draw(2))
    elsewhere = table(tmp_path, kind)
    (row, _), *_ = read(test=str(elsewhere))
    assert row["image"] == str(tmp_path / "cat" / "1.png")  # not there: told when it is opened
    assert same(read(test=str(elsewhere), images=str(classes))[1][0]["image"], draw(2))


def test_several_captions_and_pictures_in_the_rows(tmp_path: Path, draw: Draw) -> None:
    file = io.BytesIO()
    draw(1).save(file, "PNG")
    text = base64.b64encode(file.getvalue()).decode()
    rows = [{"image": text, "captions": ["a", "一"]}, {"image": f"data:image/png;base64,{text}", "captions": ["b"]}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read(test=str(tmp_path / "a.jsonl"))
    assert found[0][0]["caption"] == ["a", "一"] and all(same(row["image"], draw(1)) for row, _ in found)


# Parquet and saved data sets


@pytest.mark.parametrize("kind", ["bytes", "struct", "path in a struct", "path"])
def test_parquet_holds_images_or_names_them(tmp_path: Path, draw: Draw, kind: str) -> None:
    import pyarrow
    import pyarrow.parquet

    packed = []
    for number in range(300):
        draw(number).save(tmp_path / f"{number}.png")
        packed.append((tmp_path / f"{number}.png").read_bytes())
    values: list[Any] = {
        "bytes": packed,
        "struct": [{"bytes": data, "path": "lost.png"} for data in packed],
        "path in a struct": [{"bytes": None, "path": f"{number}.png"} for number in range(300)],
        "path": [f"{number}.png" for number in range(300)],
    }[kind]
    if kind == "path in a struct":
        form = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
        column = pyarrow.array(values, form)
    else:
        column = pyarrow.array(values)
    whole = pyarrow.table({"img": column, "caption": [f"text {number}" for number in range(300)]})
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(whole, path, row_group_size=120)
    found = read(test=str(path))
    assert [place for _, place in found][:2] == [f"{path}:1", f"{path}:2"]
    assert found[7][0]["caption"] == "text 7" and all(len(str(row["image"])) < 400 for row, _ in found)
    for number in [*range(300), 5, 299, 0, 130, 119, 120]:  # forwards, and anywhere
        assert same(found[number][0]["image"], draw(number)), number
    if kind == "bytes":
        assert (
            image_containers.window(str(path), "img", path.stat().st_mtime_ns).values.__len__()
            <= 2 * image_containers.BATCH_ROWS
        )


def test_a_row_of_parquet_without_an_image_is_told(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    form = pyarrow.array([None, b"text"], pyarrow.binary())
    pyarrow.parquet.write_table(pyarrow.table({"image": form, "label": ["a", "b"]}), tmp_path / "a.parquet")
    (empty, _), (text, _) = read(test=str(tmp_path / "a.parquet"))
    with pytest.raises(ValueError, match=r"a\.parquet::0::image cannot be read \(row 1 has no image in 'image'\)"):
        open_image(empty["image"])
    with pytest.raises(ValueError, match=r"a\.parquet::1::image is no image"):
        open_image(text["image"])


def test_a_saved_data_set_with_an_image_feature(tmp_path: Path, draw: Draw) -> None:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "狗"])})
    rows = {"image": [draw(number) for number in range(20)], "label": [number % 2 for number in range(20)]}
    whole = datasets.Dataset.from_dict(rows, features=features)
    folder = tmp_path / "set"
    datasets.DatasetDict({"train": whole, "test": whole.select(range(5, 10))}).save_to_disk(
        folder, num_shards={"train": 3, "test": 1}
    )
    sources = opened(SAID, path=str(folder), split=SplitConfig(validation=0))
    train, test = (list(sources[split]) for split in ("train", "test"))
    assert [row["label"] for row, _ in train] == ["cat", "狗"] * 10
    assert all(same(row["image"], draw(number)) for number, (row, _) in enumerate(train))
    assert all(same(row["image"], draw(number)) for number, (row, _) in enumerate(test, 5))
    whole.to_parquet(tmp_path / "a.parquet")
    found = read(test=str(tmp_path / "a.parquet"))
    assert [row["label"] for row, _ in found] == ["cat", "狗"] * 10 and same(found[3][0]["image"], draw(3))


# Tar shards


def shard(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def png(picture: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def test_shards_hold_rows_by_key(tmp_path: Path, draw: Draw) -> None:
    for number in range(2):
        shard(
            tmp_path / f"{number:06}.tar",
            {
                f"a/{number}1.png": png(draw(10 * number + 1)),
                f"a/{number}1.seg.png": png(draw(77)),
                f"a/{number}1.txt": "一只猫".encode(),
                f"{number}2.cls": b"3\n",
                f"{number}2.JPG": png(draw(10 * number + 2)),
                f"{number}3.json": b'{"caption": ["x", "y"], "image": "evil"}',
                f"{number}3.png": png(draw(10 * number + 3)),
                f"{number}3.txt.bak": b"",
                ".hidden": b"",
            },
        )
    found = read(test=str(tmp_path / "*.tar"))
    assert [place.rpartition("/")[2] for _, place in found[:3]] == [
        "01.png",
        "000000.tar::02.JPG",
        "000000.tar::03.png",
    ]
    assert found[0][1] == f"{tmp_path}/000000.tar::a/01.png"
    assert [row.get("caption") for row, _ in found] == ["一只猫", None, ["x", "y"]] * 2
    assert [row.get("label") for row, _ in found] == [None, "3", None] * 2
    for (row, _), number in zip(found, (1, 2, 3, 11, 12, 13), strict=True):
        assert same(row["image"], draw(number))
    assert len(read(test=str(tmp_path))) == 6  # a folder of shards


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar"])
def test_a_packed_shard_is_to_be_unpacked(tmp_path: Path, name: str, draw: Draw) -> None:
    whole = shard(tmp_path / "b.tar", {"1.png": png(draw(1)), "1.txt": b"a"}).read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(whole))
    with pytest.raises(DataError, match=rf"{name}: a packed tar has no random access. Unpack it: gunzip"):
        read(test=str(tmp_path / name))


def test_damage_in_a_shard_is_named(tmp_path: Path, draw: Draw) -> None:
    good = {"0.png": png(draw(0)), "0.txt": b"fine"}
    for name, data, told in (
        ("1.txt", b"only text", r"a\.tar::1\.txt: no image of '1', which has \.txt only"),
        ("0.json", b"{", r"a\.tar::0\.png: 0\.json is not JSON"),
        ("0.json", b"[]", r"a\.tar::0\.png: 0\.json is JSON, but no object"),
        ("0.cls", b"caf\xe9", r"a\.tar::0\.png: 0\.cls is not valid utf-8"),
        ("0.json", b"[" * 3_000_000, r"a\.tar::0\.png: 3\.0 MB in one record, more than data\.max_row_mb=1"),
    ):
        path = shard(tmp_path / "a.tar", {**good, name: data, "2.png": png(draw(2)), "2.txt": b"too"})
        with pytest.raises(DataError, match=told):
            read(test=str(path), max_row_mb=1)
        assert read(test=str(path), max_row_mb=1, on_bad_row="quarantine")
    whole = shard(tmp_path / "b.tar", good).read_bytes()
    (tmp_path / "b.tar").write_bytes(whole[:700])
    with pytest.raises(DataError, match=r"b\.tar: no tar file, or one that is cut off"):
        read(test=str(tmp_path / "b.tar"))


# NLVR


def nlvr(root: Path, draw: Draw) -> Path:
    (root / "dev" / "images" / "0").mkdir(parents=True)
    lines = []
    tower = [{"x_loc": 40, "y_loc": 80, "type": "square", "color": "Black", "size": 20}]
    for number, (label, boxes) in enumerate(
        (("true", [tower] * 3), ("false", [[*tower, {**tower[0], "x_loc": 7}]] * 3))
    ):
        lines.append(
            {"sentence": f"Say {number}.", "label": label, "identifier": f"9-{number}", "directory": "0", "structured_rep": boxes}
        )  # fmt: skip
        for order in range(2):
            draw(10 * number + order).save(root / "dev" / "images" / "0" / f"dev-9-{number}-{order}.png")
    (root / "dev" / "dev.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root / "dev"


@pytest.mark.parametrize("reader", ["auto", "nlvr"])
def test_nlvr_asks_of_all_and_captions_by_the_true_ones(tmp_path: Path, draw: Draw, reader: str) -> None:
    folder = nlvr(tmp_path, draw)
    for path in (folder, folder / "dev.json"):
        found = read(ASKED, test=str(path), format=reader)
        assert [(row["question"], row["answer"], row["kind"]) for row, _ in found] == [
            ("Say 0.", "true", "tower"),
            ("Say 1.", "false", "scatter"),
        ]
        assert same(found[1][0]["image"], draw(10)) and found[1][1] == f"{folder}/dev.json:2"
        ((said, place),) = read(SAID, test=str(path), format=reader)
        assert said["caption"] == "Say 0." and place.endswith("dev.json:1") and "label" not in said
    source = opened(SAID, test=str(folder))["test"]
    assert "(nlvr, true statements only" in source.description
    assert opened(ASKED, test=str(folder))["test"].digest() != source.digest()


def test_nlvr_cut_by_what_was_shown_together_and_damaged(tmp_path: Path, draw: Draw) -> None:
    folder = nlvr(tmp_path, draw)
    with pytest.raises(DataError, match=r"presentation has too few distinct values to cut by: 1 in 2 rows"):
        opened(ASKED, train=str(folder), split=SplitConfig(group="presentation", test=0))
    (folder / "dev.json").write_text((folder / "dev.json").read_text() + '{"sentence": "x", "identifier": "1-1"}\n')
    with pytest.raises(DataError, match=r"dev\.json:3: no text 'directory', as NLVR has"):
        read(ASKED, test=str(folder))


# GitHub topics


def topics(root: Path, draw: Draw) -> Path:
    pages = {
        "a": "---\ndisplay_name: Alpha\nshort_description: Alpha is first.\nlogo: a.png\n---\nOne\ntwo.\n\nThree.\n",
        "b": '---\ndisplay_name: "B: 乙"\nshort_description: 第二。\nlogo: b.png\n---\n二',
        "no": "---\ndisplay_name: on\n---\n",
        "on": "---\ndisplay_name: on\nlogo: on.png\n---\nx",
    }
    for number, (name, text) in enumerate(pages.items()):
        (root / "topics" / name).mkdir(parents=True)
        (root / "topics" / name / "index.md").write_text(text, "utf-8")
        draw(number).save(root / "topics" / name / f"{name}.png")
    return root


@pytest.mark.parametrize("reader", ["auto", "github_topics"])
def test_topics_with_a_logo(tmp_path: Path, draw: Draw, reader: str) -> None:
    root = topics(tmp_path / "set", draw)
    for path in (root, root / "topics"):
        found = read(test=str(path), format=reader)
        assert [row["caption"] for row, _ in found] == ["Alpha is first.", "B: 乙: 第二。", "on"]
        assert [row["label"] for row, _ in found] == ["Alpha", "B: 乙", "on"]
        assert same(found[2][0]["image"], draw(3)) and found[1][1].endswith("topics/b/index.md:1")
    titled = read(test=str(root), columns={"caption": "paragraph"})
    assert titled[0][0]["caption"] == "One two."


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no fence", "no front matter between two lines ---"),
        ("---\na: [\n---\n", "the front matter is not YAML"),
        ("---\nlogo: b.png\n---\n", "the front matter has no display_name"),
        (
            "---\ndisplay_name: B\nlogo: ../../../b.png\n---\n",
            r"topics/b/\.\./\.\./\.\./b\.png leaves the folder|leaves the folder",
        ),
    ],
)
def test_a_damaged_topic_is_named(tmp_path: Path, draw: Draw, text: str, told: str) -> None:
    root = topics(tmp_path / "set", draw)
    (root / "topics" / "b" / "index.md").write_text(text)
    with pytest.raises(DataError, match=rf"topics/b/index\.md:1: {told}"):
        read(test=str(root))
    assert len(read(test=str(root), on_bad_row="quarantine")) == 2


def test_what_is_said_of_topics_counts_in_the_digest(tmp_path: Path, draw: Draw) -> None:
    root = topics(tmp_path / "set", draw)
    before = opened(SAID, test=str(root))["test"].digest()
    page = root / "topics" / "a" / "index.md"
    page.write_text(page.read_text().replace("first", "fiRst"))
    assert opened(SAID, test=str(root))["test"].digest() != before


def test_neither_layout_without_its_files(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(DataError, match=r"no topics/<name>/index\.md in this folder"):
        read(test=str(tmp_path), format="github_topics")
