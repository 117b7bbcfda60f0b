"""Create Python environments for the peers, once, in a cache folder. They are separate from llmstage's environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

PACKAGES = {
    "transformers": ("transformers=={transformers}", "accelerate", "datasets", "trl", "lm-eval"),
    "litgpt": ("litgpt",),
}
"""Packages of each environment, besides torch. torch and transformers have llmstage's versions, so that both sides multiply with the
same kernels. litgpt requires another version of transformers."""
DONE = "installed"


def cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "llmstage" / "benchmarks"


def requirements(name: str) -> list[str]:
    pinned = {package: version(package).partition("+")[0] for package in ("torch", "transformers")}
    return [f"torch=={pinned['torch']}", *(word.format(**pinned) for word in PACKAGES[name])]


def environment(name: str, folder: Path | None = None) -> tuple[str, str]:
    """Return the interpreter of the environment `name`, and the reason if there is none. One of the two is empty."""
    environment_dir = (folder or cache_folder()) / name
    python = environment_dir / "bin" / "python"
    requirement_lines = "\n".join(requirements(name))
    mark = environment_dir / DONE
    if mark.is_file() and mark.read_text("utf-8") == requirement_lines and python.exists():
        return str(python), ""
    shutil.rmtree(environment_dir, ignore_errors=True)
    environment_dir.parent.mkdir(parents=True, exist_ok=True)
    print(f"installing {' '.join(requirements(name))} into {environment_dir} (once)", flush=True)
    for command in (
        [sys.executable, "-m", "venv", str(environment_dir)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements(name)],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            error_lines = [
                line for line in done.stderr.splitlines() if line.startswith("ERROR")
            ] or done.stderr.splitlines()
            return "", f"{name} could not be installed: {' '.join(error_lines)[-300:]}"
    mark.write_text(requirement_lines, "utf-8")
    return str(python), ""
