"""Fail where an installed version is not the floor that pyproject.toml declares."""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
NOT_AT_THE_FLOOR = {"torch"}
"""No CPU wheel of the floor is at hand where this runs: the newest is tested instead."""


def major_minor(version: Version) -> tuple[int, int]:
    """Return the first two numbers of a version; patch releases of a floor are as low as the floor."""
    return version.major, version.minor


def main() -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wrong = []
    for line in [*project["dependencies"], *extras["lora"], *extras["serve"]]:
        requirement = Requirement(line)
        floors = [Version(item.version) for item in requirement.specifier if item.operator in (">=", "==")]
        installed = Version(version(requirement.name))
        if requirement.name not in NOT_AT_THE_FLOOR and (
            not floors or major_minor(installed) != major_minor(max(floors))
        ):
            wrong.append(f"{requirement.name}: {installed} is installed, pyproject.toml says {requirement.specifier}")
    print("\n".join(wrong) or "every version is the floor of pyproject.toml")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
