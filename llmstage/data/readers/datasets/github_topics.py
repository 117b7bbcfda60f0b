"""GitHub topics (github.com/github/explore): `topics/<name>/index.md` with what a topic is called and says, and its logo."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from llmstage.data.files import DataFile
from llmstage.data.records import Bad, Found, ReadOptions, Records
from llmstage.errors import DataError

ENDINGS = ()
FENCE = "---"


def find(folder: Path) -> list[Path]:
    """The whole set is one source."""
    return [folder]


def looks_like(folder: Path) -> bool:
    """Whether a folder is the set, or its folder `topics`."""
    first = next(pages(root_of(folder)), None)
    return first is not None and "\ndisplay_name:" in first.read_text("utf-8", "replace")[:2000]


def read(file: DataFile, options: ReadOptions) -> Records:
    """Records `{image, caption, label, …}` of the topics that have a logo: `caption` is `<display name>: <short
    description>`, `label` the display name."""
    root = file.path
    if not root.is_dir():
        raise DataError(f"{file.shown}: data.format=github_topics reads the folder that holds topics/<name>/index.md.")
    count = 0
    for page in pages(root_of(root)):
        count += 1
        shown = f"{file.shown.rstrip('/')}/{page.relative_to(root).as_posix()}"
        made = read_page(page, options.encoding)
        if isinstance(made, str):
            yield 1, Bad(made, page.parent.name, shown)
        elif made.get("logo"):
            folder = page.parent.relative_to(root)
            yield 1, Found(shown, {"image": (folder / made["logo"]).as_posix(), **topic(made, page.parent.name)})
    if not count:
        raise DataError(f"{file.shown}: no topics/<name>/index.md in this folder. Check data.format.")


def pages(folder: Path) -> Iterator[Path]:
    return (path for item in sorted(folder.iterdir()) if (path := item / "index.md").is_file())


def read_page(page: Path, encoding: str) -> dict[str, str] | str:
    """The front matter with the first `paragraph` after it, or what is wrong."""
    try:
        text = page.read_text(encoding).removeprefix("\ufeff")
    except ValueError as error:
        return f"not valid {encoding} ({error})"
    parts = text.split(f"{FENCE}\n", 2) if text.startswith(f"{FENCE}\n") else []
    if len(parts) < 3:
        return f"no front matter between two lines {FENCE}"
    try:
        told = yaml.load(parts[1], Loader=yaml.BaseLoader)  # texts only: a topic may be called `on` or `3`
    except yaml.YAMLError as error:
        return f"the front matter is not YAML ({str(error).splitlines()[0]})"
    if not isinstance(told, dict) or not isinstance(told.get("display_name"), str) or not told["display_name"].strip():
        return "the front matter has no display_name"
    found = {str(key): " ".join(value.split()) for key, value in told.items() if isinstance(value, str)}
    return {**found, "paragraph": " ".join(parts[2].strip().partition("\n\n")[0].split())}


def topic(told: dict[str, str], name: str) -> dict[str, Any]:
    title, short = told["display_name"], told.get("short_description", "")
    # Half of the descriptions begin with the name.
    caption = short if short.startswith(title) else f"{title}: {short}" if short else title
    return {
        "caption": caption,
        "label": title,
        "short_description": short,
        "paragraph": told["paragraph"],
        "topic": name,
    }


def beside(path: Path) -> list[Path]:
    """The pages, whose content counts and not their size alone."""
    return list(pages(root_of(path))) if path.is_dir() else []


def root_of(folder: Path) -> Path:
    return folder / "topics" if (folder / "topics").is_dir() else folder
