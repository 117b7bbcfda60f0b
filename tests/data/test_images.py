"""One picture: every mode comes out as RGB with the right pixels; what is none is told and never decoded."""

from __future__ import annotations

import base64
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llmstage.data.images import BadImage, locate_image, open_image


def pixels(place: str | Path) -> list[tuple[int, ...]]:
    image = open_image(str(place))
    assert image.mode == "RGB"
    return [tuple(pixel) for row in np.asarray(image) for pixel in row.tolist()]


def saved(folder: Path, image: Image.Image, name: str = "a.png", **options: Any) -> Path:
    image.save(folder / name, **options)
    return folder / name


def test_grey_becomes_colour(tmp_path: Path) -> None:
    grey = Image.new("L", (2, 1))
    grey.putdata([0, 200])
    assert pixels(saved(tmp_path, grey)) == [(0, 0, 0), (200, 200, 200)]


def test_what_is_transparent_is_white_and_what_is_half_so_is_mixed(tmp_path: Path) -> None:
    image = Image.new("RGBA", (3, 1))
    image.putdata([(255, 0, 0, 255), (10, 20, 30, 0), (0, 0, 0, 128)])
    assert pixels(saved(tmp_path, image)) == [(255, 0, 0), (255, 255, 255), (127, 127, 127)]
    grey = Image.new("LA", (2, 1))
    grey.putdata([(7, 255), (7, 0)])
    assert pixels(saved(tmp_path, grey)) == [(7, 7, 7), (255, 255, 255)]


def test_a_palette_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 255, 0, 0, 0])
    image.putdata([0, 1])
    assert pixels(saved(tmp_path, image)) == [(0, 0, 255), (0, 0, 0)]
    assert pixels(saved(tmp_path, image, "b.png", transparency=1)) == [(0, 0, 255), (255, 255, 255)]
    assert pixels(saved(tmp_path, image, "c.gif", transparency=1)) == [(0, 0, 255), (255, 255, 255)]


def test_rgb_with_a_transparent_colour(tmp_path: Path) -> None:
    image = Image.new("RGB", (2, 1))
    image.putdata([(1, 2, 3), (9, 9, 9)])
    assert pixels(saved(tmp_path, image, transparency=(9, 9, 9))) == [(1, 2, 3), (255, 255, 255)]


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 257 * 100, 65535]], dtype=np.uint16))
    assert image.mode == "I;16"
    assert pixels(saved(tmp_path, image)) == [(0, 0, 0), (100, 100, 100), (255, 255, 255)]


def test_one_bit_and_the_colours_of_print(tmp_path: Path) -> None:
    assert pixels(saved(tmp_path, Image.new("1", (1, 1), 1))) == [(255, 255, 255)]
    (red,) = pixels(saved(tmp_path, Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "a.tif"))
    assert red == (255, 0, 0)
    (print_red,) = pixels(saved(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "a.jpg"))[:1]
    assert print_red[0] > 240 and max(print_red[1:]) < 15


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_photograph_is_turned_as_its_camera_noted(tmp_path: Path, turn: int, draw: Callable[..., Any]) -> None:
    upright = draw(5, (32, 16))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(undo[turn]) if turn in undo else upright
    exif = Image.Exif()
    exif[0x0112] = turn
    for name in ("a.jpg", "a.png"):
        options = {"quality": 100, "subsampling": 0} if name == "a.jpg" else {}
        seen = open_image(str(saved(tmp_path, stored, name, exif=exif, **options)))
        assert seen.size == (32, 16)
        assert np.abs(np.asarray(seen).astype(int) - np.asarray(upright).astype(int)).mean() < 8


def test_damaged_exif_data_leave_the_picture_as_it_is(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.new("RGB", (3, 2), "red"), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    assert open_image(str(path)).size == (3, 2)


def test_a_jpeg_under_the_name_of_a_png(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (250, 10, 10)).save(tmp_path / "a.png", "JPEG")
    assert pixels(tmp_path / "a.png")[0][0] > 240


def huge(side: int) -> bytes:
    """A PNG that says it is side x side pixels, and is: black ones, so that it is small."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(b"\0" * (side + 1)) for _ in range(side)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [20_000, 10_000])
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was unpacked"))
    (tmp_path / "a.png").write_bytes(huge(side))
    told = rf"a\.png has ({side:,} x {side:,}|{side * side}) pixels: more than 89,478,485|a\.png is too large"
    with pytest.raises(BadImage, match=told):
        open_image(str(tmp_path / "a.png"))


def test_what_is_no_picture(tmp_path: Path, draw: Callable[..., Any]) -> None:
    whole = saved(tmp_path, draw(0, (64, 64))).read_bytes()
    cases = {
        "half.png": (whole[: len(whole) // 2], "half.png cannot be decoded: "),
        "text.jpg": (b"just words", r"text.jpg is no image: it begins with b'just wor'"),
        "none.png": (b"", r"none.png is empty \(0 bytes\)"),
        "header.png": (whole[:20], "header.png (is no image|cannot be decoded)"),
    }
    for name, (data, told) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BadImage, match=told):
            open_image(str(tmp_path / name))
    (tmp_path / "half.jpg").write_bytes(saved(tmp_path, draw(0, (64, 64)), "a.jpg").read_bytes()[:700])
    with pytest.raises(BadImage, match=r"half\.jpg cannot be decoded"):
        open_image(str(tmp_path / "half.jpg"))
    with pytest.raises(BadImage, match=r"there is no file .*missing\.png"):
        open_image(str(tmp_path / "missing.png"))
    with pytest.raises(BadImage, match="is no file"):
        open_image(str(tmp_path))
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(BadImage, match=r"pipe\.png is no file"):
        open_image(str(tmp_path / "pipe.png"))
    with pytest.raises(BadImage, match="cannot be read"):
        open_image("/" + "a" * 5000 + ".png")
    with pytest.raises(BadImage, match="no scene of the demo world"):
        open_image("demo:nonsense")


def test_a_picture_in_the_row_itself(tmp_path: Path, draw: Callable[..., Any]) -> None:
    file = io.BytesIO()
    draw(3).save(file, "PNG")
    text = base64.b64encode(file.getvalue()).decode()
    lines = "\n".join(text[at : at + 60] for at in range(0, len(text), 60))
    for name in (f"data:image/png;base64,{text}", text, lines):
        assert np.array_equal(np.asarray(open_image(locate_image(tmp_path, name))), np.asarray(draw(3)))
    with pytest.raises(BadImage, match=r"data:image/png;base64,a b is no base64|data:image.* is no base64"):
        open_image("data:image/png;base64,?b")
    with pytest.raises(BadImage, match=r"cannot be decoded|no image"):
        open_image(f"data:image/png;base64,{text[: len(text) // 8 * 4]}")


def test_names_are_seen_from_the_folder_and_do_not_leave_it(tmp_path: Path) -> None:
    inside = tmp_path / "set"
    (inside / "a").mkdir(parents=True)
    assert locate_image(inside, "a/b.png") == str(inside / "a" / "b.png")
    assert locate_image(inside, "a/../b.png") == str(inside / "b.png")
    assert locate_image(inside, "s.tar::x/1.png") == f"{inside}/s.tar::x/1.png"
    assert locate_image(inside, "/data/b.png") == "/data/b.png"
    for name in ("../x.png", "a/../../x.png", "../x.tar::a.png", ".."):
        with pytest.raises(BadImage, match=r"leaves the folder of its file; data\.images=<folder>"):
            locate_image(inside, name)
    (tmp_path / "blobs").mkdir()
    Image.new("RGB", (1, 1)).save(tmp_path / "blobs" / "1.png")
    (inside / "link.png").symlink_to("../blobs/1.png")  # as the hub's own cache is built
    assert pixels(locate_image(inside, "link.png")) == [(0, 0, 0)]
    with pytest.raises(BadImage, match="the name of the image is empty"):
        locate_image(inside, "  ")
    with pytest.raises(BadImage, match="is a web address"):
        locate_image(inside, "https://example.org/a.png")
