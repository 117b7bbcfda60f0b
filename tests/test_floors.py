"""The floors of DESIGN.md, section 3, read off the imports themselves."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "llmstage"
FILES = sorted(PACKAGE.rglob("*.py"))
TASKS = sorted(path.stem for path in (PACKAGE / "tasks").glob("*.py") if not path.stem.startswith(("__init__", "base")))

FLOOR = {
    **dict.fromkeys(("__init__", "errors", "naming", "console", "places", "experiment", "allocator", "schema"), 0),
    **dict.fromkeys(("metrics", "models", "data", "report"), 1),
    "tasks": 2,
    **dict.fromkeys(("engine", "explore", "inspect", "monitor", "serve"), 3),
    "stages": 4,
    **dict.fromkeys(("cli", "inherit", "overrides", "plans", "help", "__main__"), 5),
}
HEAVY = {"torch", "transformers", "datasets", "tokenizers", "sklearn", "sacrebleu", "pyarrow", "safetensors"}
LONGEST = 370


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported(tree: ast.AST) -> list[str]:
    """Every module imported anywhere below a node, as dotted names; `from a import b` gives both a and a.b."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            found += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def at_module_level(tree: ast.Module) -> list[str]:
    """Imports that run when the file is imported; those under TYPE_CHECKING do not."""
    kept = []
    for node in tree.body:
        guarded = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if not guarded and not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            kept += imported(node)
    return kept


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_the_reader_sees_imports_inside_functions_and_leaves_out_type_checking():
    tree = ast.parse("import a\nif TYPE_CHECKING:\n    import b\ndef f():\n    from c.d import e\n")
    assert set(imported(tree)) == {"a", "b", "c.d", "c.d.e"}
    assert at_module_level(tree) == ["a"]


def test_every_room_has_a_floor():
    assert {room(path) for path in FILES} <= FLOOR.keys()


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_a_file_imports_its_own_floor_or_lower(path):
    own = FLOOR[room(path)]
    higher = []
    for name in imported(parse(path)):
        parts = name.split(".")
        if (
            parts[0] == "llmstage"
            and len(parts) > 1
            and (PACKAGE / parts[1]).with_suffix(".py").exists() | (PACKAGE / parts[1]).is_dir()
            and FLOOR[parts[1]] > own
        ):
            higher.append(name)
    assert not higher, f"{shown(path)} (floor {own}) imports {higher}"


@pytest.mark.parametrize("path", [path for path in FILES if room(path) in ("stages", "tasks")], ids=shown)
def test_no_stage_imports_a_stage_and_no_task_a_task(path):
    package = f"llmstage.{room(path)}."
    siblings = {name for name in imported(parse(path)) if name.startswith(package)} - {f"llmstage.tasks.{path.stem}"}
    assert not {name for name in siblings if not name.startswith("llmstage.tasks.base")}


@pytest.mark.parametrize("path", [path for path in FILES if FLOOR[room(path)] in (0, 5)], ids=shown)
def test_the_ground_floor_and_the_door_import_nothing_heavy(path):
    assert not {name.split(".")[0] for name in at_module_level(parse(path))} & HEAVY


def test_importing_the_door_leaves_torch_out():
    code = "import sys, llmstage.cli; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "llmstage" in loaded.split()
    assert not set(loaded.split()) & HEAVY


@pytest.mark.parametrize("path", [path for path in FILES if room(path) in ("engine", "stages")], ids=shown)
def test_engine_and_stages_name_no_task(path):
    tree = parse(path)
    for node in ast.walk(tree):  # doc strings may give an example
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = ""
    code = ast.unparse(tree)
    words = {word for name in TASKS for word in (name, "".join(part.capitalize() for part in name.split("_")))}
    named = {word for word in words if re.search(rf"(?<![A-Za-z0-9]){word}(?![A-Za-z0-9])", code)}
    assert TASKS
    assert not named, f"{shown(path)} knows {named} by name"


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_files_stay_readable(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST
