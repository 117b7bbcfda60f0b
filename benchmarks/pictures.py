"""Write image files for the races of models with images. The files are like a user's files; later runs use them again."""

from __future__ import annotations

import getpass
import hashlib
import json
import tempfile
from pathlib import Path

SIDE = 256
"""Height and width of a file in pixels, a common size in image data sets."""
DRAWN = 64
"""Height and width at which a scene is drawn, in pixels. The scene is then enlarged, which is faster than drawing it large."""
GRAIN = 8
"""Standard deviation of the noise that is added to a JPEG (of 255). Without it, flat areas would decode faster than a photo."""
EVERY_PNG = 4
"""Every EVERY_PNG-th file is PNG without noise; the others are JPEG."""


def scene_files(count: int) -> list[dict[str, str]]:
    """Return `count` rows of {"image": file, "caption"}, scenes of the demo world."""
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
    """Return rows of {"image", "caption"} from pages of github/explore, whose front matter names a logo and describes a topic.

    The function saves logos again as RGB on white, as llmstage reads them: the race does not compare the handling of transparency.
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
