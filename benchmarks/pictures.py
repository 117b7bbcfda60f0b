"""Pictures on the disk for the races in which a model sees: files as a user has them, drawn once and kept for later runs."""

from __future__ import annotations

import getpass
import hashlib
import json
import tempfile
from pathlib import Path

SIDE = 256
"""Pixels of a side of a file, as data sets of pictures are often handed on."""
DRAWN = 64
"""Pixels of a side as a scene is drawn; it is then enlarged, which is faster than drawing it large."""
GRAIN = 8
"""Standard deviation of the noise laid over a JPEG picture, of 255: flat areas would be unpacked faster than a photo is."""
EVERY_PNG = 4
"""Every so manieth file is PNG, without grain, the others are JPEG."""


def scene_files(count: int) -> list[dict[str, str]]:
    """`count` rows of {"image": file, "caption"}: the scenes of the demo world."""
    import numpy as np
    from PIL import Image

    from llmstage.demo.scenes import contrastive_rows, draw

    rows = contrastive_rows(count, 0, "seen")
    folder = cached_path(json.dumps([SIDE, DRAWN, GRAIN, EVERY_PNG, [row["image"] for row in rows]]))
    files = [folder / f"{number}.{'png' if number % EVERY_PNG == 0 else 'jpg'}" for number in range(len(rows))]
    for number, (row, file) in enumerate(zip(rows, files, strict=True)):
        if file.is_file():
            continue
        picture = draw(f"demo:{DRAWN}:{row['image'].split(':', 2)[2]}").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        if file.suffix == ".jpg":
            grain = np.random.default_rng(number).normal(0, GRAIN, (SIDE, SIDE, 1))
            picture = Image.fromarray((np.asarray(picture) + grain).clip(0, 255).astype(np.uint8))
        store(picture, file)
    return [{"image": str(file), "caption": row["caption"]} for row, file in zip(rows, files, strict=True)]


def logo_files(folder: Path) -> list[dict[str, str]]:
    """Rows of {"image", "caption"} from pages of github/explore: front matter that names a logo and describes a topic.

    Logos are saved anew as RGB on white, as llmstage sees them: how a transparent part is shown is not what is raced.
    """
    import yaml

    from llmstage.data.images import open_image

    rows, out = [], cached_path(str(folder))
    for page in sorted(folder.glob("*/index.md")):
        front_matter = yaml.safe_load(page.read_text("utf-8").split("---")[1])
        file = out / f"{page.parent.name}.png"
        if not file.is_file():
            store(open_image(str(page.parent / front_matter["logo"])), file)
        rows.append(
            {"image": str(file), "caption": f"{front_matter['display_name']}: {front_matter['short_description']}"}
        )
    return rows


def cached_path(key: str) -> Path:
    name = hashlib.sha256(key.encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"llmstage-bench-pictures-{getpass.getuser()}" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def store(picture: object, file: Path) -> None:
    draft = file.with_name(f"draft-{file.name}")
    picture.save(draft, **({"quality": 90} if file.suffix == ".jpg" else {}))  # type: ignore[attr-defined]
    draft.rename(file)
