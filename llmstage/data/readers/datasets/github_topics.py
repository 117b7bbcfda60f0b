"""Read GitHub topics (github.com/github/explore): `topics/<name>/index.md` with name, description and logo of a topic."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from llmstage.data.files import DataFile
from llmstage.data.rows import Bad, FileHead, FileRecord, ReadOptions, Records
from llmstage.errors import DataError

ENDINGS = ()
FENCE = "---"


def find(folder: Path) -> list[Path]:
    """Return the folder itself: the data set is one source."""
    return [folder]


def matches(head: FileHead) -> bool:
    """Return whether a folder is the data set, or its folder `topics`."""
    if not head.path.is_dir():
        return False
    first = next(pages(root_of(head.path)), None)
    return first is not None and "\ndisplay_name:" in first.read_text("utf-8", "replace")[:2000]


def read(file: DataFile, options: ReadOptions) -> Records:
    """Yield records `{image, caption, label, …}` of the topics that have a logo.

    `caption` is `<display name>: <short description>`; `label` is the display name.
    """
    root = file.path
    if not root.is_dir():
        raise DataError(
            f"{file.display_name}: data.format=github_topics reads the folder that holds topics/<name>/index.md."
        )
    count = 0
    for page in pages(root_of(root)):
        count += 1
        page_name = f"{file.display_name.rstrip('/')}/{page.relative_to(root).as_posix()}"
        fields = read_page(page, options.encoding)
        if isinstance(fields, str):
            yield 1, Bad(fields, page.parent.name, page_name)
        elif fields.get("logo"):
            folder = page.parent.relative_to(root)
            yield (
                1,
                FileRecord(
                    page_name, {"image": (folder / fields["logo"]).as_posix(), **topic(fields, page.parent.name)}
                ),
            )
    if not count:
        raise DataError(f"{file.display_name}: no topics/<name>/index.md in this folder. Check data.format.")


def pages(folder: Path) -> Iterator[Path]:
    return (path for item in sorted(folder.iterdir()) if (path := item / "index.md").is_file())


def read_page(page: Path, encoding: str) -> dict[str, str] | str:
    """Return the front matter and the first `paragraph` after it, or the reason why the page is unusable."""
    try:
        text = page.read_text(encoding).removeprefix("\ufeff")
    except ValueError as error:
        return f"not valid {encoding} ({error})"
    parts = text.split(f"{FENCE}\n", 2) if text.startswith(f"{FENCE}\n") else []
    if len(parts) < 3:
        return f"no front matter between two lines {FENCE}"
    try:
        front_matter = yaml.load(parts[1], Loader=yaml.BaseLoader)  # keeps texts: a topic may be called `on` or `3`
    except yaml.YAMLError as error:
        return f"the front matter is not YAML ({str(error).splitlines()[0]})"
    display_name = front_matter.get("display_name") if isinstance(front_matter, dict) else None
    if not isinstance(display_name, str) or not display_name.strip():
        return "the front matter has no display_name"
    fields = {str(key): " ".join(value.split()) for key, value in front_matter.items() if isinstance(value, str)}
    return {**fields, "paragraph": " ".join(parts[2].strip().partition("\n\n")[0].split())}


def topic(fields: dict[str, str], name: str) -> dict[str, Any]:
    """Return the record of one topic without its image."""
    title, short = fields["display_name"], fields.get("short_description", "")
    # Half of the descriptions begin with the name already.
    caption = short if short.startswith(title) else f"{title}: {short}" if short else title
    return {
        "caption": caption,
        "label": title,
        "short_description": short,
        "paragraph": fields["paragraph"],
        "topic": name,
    }


def beside(path: Path) -> list[Path]:
    """Return the pages: their content is part of the digest, not only their size."""
    return list(pages(root_of(path))) if path.is_dir() else []


def root_of(folder: Path) -> Path:
    return folder / "topics" if (folder / "topics").is_dir() else folder
