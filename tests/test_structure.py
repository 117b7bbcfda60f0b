"""The layers of the packages, the import graph, and the words of names, read from the source files themselves."""

from __future__ import annotations

import ast
import copy
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "llmstage"
FILES = sorted(PACKAGE.rglob("*.py"))
TASKS = sorted(path.stem for path in (PACKAGE / "tasks").glob("*.py") if not path.stem.startswith(("__init__", "base")))

LAYERS = {
    "llmstage": 0,
    **{f"llmstage.{name}": 0 for name in ("errors", "naming", "console", "paths", "allocator", "config")},
    **{f"llmstage.{name}": 1 for name in ("data", "demo", "tokenization", "kernels", "models", "report")},
    "llmstage.evaluation.metrics": 1,
    "llmstage.tasks": 2,
    **{f"llmstage.{name}": 3 for name in ("training", "evaluation", "inspect", "explore", "research", "inference")},
    "llmstage.stages": 4,
    **{f"llmstage.{name}": 5 for name in ("cli", "api", "__main__")},
}
"""The layer of a module is that of its longest prefix here. A module imports its own layer or lower."""
LOWER_AND_UPPER = (
    ("explore", "research"), ("inspect", "explore"), ("training", "explore"), ("training", "inspect"), ("training", "inference"),
    ("inference", "explore"), ("data", "models"), ("data", "tokenization"), ("kernels", "models"), ("tokenization", "models"),
)  # fmt: skip
"""Pairs of packages of one layer of which the first does not import the second."""
HEAVY = {"torch", "transformers", "datasets", "tokenizers", "sklearn", "sacrebleu", "pyarrow", "safetensors"}

REPLACED_WORDS = frozenset(
    [
        "told",
        "said",
        "found",
        "made",
        "wanted",
        "kept",
        "own",
        "other",
        "one",
        "whole",
        "pieces",
        "look",
        "tell",
        "ask",
        "say",
        "lean",
        "products",
        "turned",
        "eyes",
        "pictures",
        "place",
        "kind",
        "family",
        "suit",
        "learn",
        "adopt",
        "bind",
        "arrange",
        "stand_in",
        "ask_all",
        "exhibits",
        "asked_for",
        "compared",
        "foresee",
    ]
)
"""Names that the glossary replaces by the field's word, as whole names."""
REPLACED_PARTS = frozenset("told said found kept wanted made pieces eyes exhibits lean own place".split())  # noqa: SIM905
"""Of these, the ones that are not a part of a longer name either."""
NAME_EXCEPTIONS = {
    (
        "llmstage/config/explore_ladder.py",
        "kind",
    ): "the keys stage.ladder.kind and stage.toy_worlds.kind, as users type them",
    ("llmstage/config/run.py", "family"): "the key model.family, which says it inside its group",
    ("llmstage/config/task.py", "learn"): "the key task.learn of captioning: which captions are learned",
    ("llmstage/inference/server/uvicorn_internals.py", "connection_made"): "the method of asyncio.Protocol",
}
"""(file, name): the reason why the word is the right one there."""


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in FILES}


def layer(module: str) -> int:
    """The layer of the longest prefix; the root stands only for itself."""
    parts = module.split(".")
    for length in range(len(parts), 1, -1):
        prefix = ".".join(parts[:length])
        if prefix in LAYERS:
            return LAYERS[prefix]
    assert module == "llmstage", f"{module} has no layer: add its package to LAYERS"
    return LAYERS[module]


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def walk(tree: ast.AST, *, functions: bool = True, types: bool = True) -> Iterator[ast.AST]:
    """All nodes; without `functions`, none inside a function; without `types`, none below `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        if not types and is_type_checking(node):
            continue
        if not functions and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        yield node
        yield from walk(node, functions=functions, types=types)


def imported(tree: ast.AST, *, functions: bool = True, types: bool = True) -> list[str]:
    """Every imported module as a dotted name; `from a import b` gives both a and a.b."""
    names: list[str] = []
    for node in walk(tree, functions=functions, types=types):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            names += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


@cache
def imports_of(path: Path, *, functions: bool = True, types: bool = True) -> tuple[str, ...]:
    """imported() of a file."""
    return tuple(imported(parse(path), functions=functions, types=types))


def import_graph() -> dict[str, set[str]]:
    """The modules of the package that each module imports, inside functions and for type checking too."""
    graph = {}
    for module, path in MODULES.items():
        if module == "llmstage":
            continue  # it re-exports the Python interface, lazily
        names = imports_of(path)
        # `from package import module` needs the module; the package itself is needed only for names it defines.
        parents = {name.rpartition(".")[0] for name in names if name in MODULES}
        graph[module] = {name for name in names if name in MODULES and name != module} - parents
    return graph


def find_cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one module (Tarjan 1972)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    cycles: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for target in graph.get(module, ()):
            if target not in order:
                visit(target)
                lowest[module] = min(lowest[module], lowest[target])
            elif target in stack:
                lowest[module] = min(lowest[module], order[target])
        if lowest[module] == order[module]:
            component = []
            while True:
                component.append(stack.pop())
                if component[-1] == module:
                    break
            if len(component) > 1:
                cycles.append(sorted(component))

    for module in graph:
        if module not in order:
            visit(module)
    return cycles


def assigned_names(tree: ast.AST) -> Iterator[str]:
    """Names of variables, arguments, attributes, functions and classes that a file defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def is_replaced(name: str) -> bool:
    """Whether the glossary has another word for this name."""
    lower = name.lower().strip("_")
    return lower in REPLACED_WORDS or bool(REPLACED_PARTS & set(lower.split("_")))


def test_imports_inside_functions_and_for_type_checking_are_seen():
    tree = ast.parse("import a\nif TYPE_CHECKING:\n    import b\ndef f():\n    from c.d import e\n")
    assert set(imported(tree)) == {"a", "b", "c.d", "c.d.e"}
    assert imported(tree, functions=False, types=False) == ["a"]


def test_a_cycle_is_found():
    assert find_cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert find_cycles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_a_module_imports_its_own_layer_or_lower():
    upward = [
        f"{module} (layer {layer(module)}) imports {name}"
        for module, path in MODULES.items()
        for name in imports_of(path)
        if module != "llmstage" and name in MODULES and layer(name) > layer(module)
    ]
    assert not upward, "\n".join(upward)


def test_no_import_cycle():
    """Imports inside functions and for type checking count: a cycle that is hidden there is still one idea in two files."""
    cycles = find_cycles(import_graph())
    assert not cycles, "\n".join(" <-> ".join(cycle) for cycle in cycles)


def test_a_package_does_not_import_what_builds_on_it():
    """Packages of one layer have an order too: explore works without research, data without models."""
    wrong = {
        f"{module} imports {name}"
        for module, path in MODULES.items()
        for name in imports_of(path)
        for lower, upper in LOWER_AND_UPPER
        if module.startswith(f"llmstage.{lower}") and name.startswith(f"llmstage.{upper}")
    }
    assert not wrong


def test_no_stage_imports_a_stage_and_no_task_a_task():
    wrong = []
    for package in ("stages", "tasks"):
        for path in (PACKAGE / package).glob("*.py"):
            names = {name for name in imports_of(path) if name.startswith(f"llmstage.{package}.")}
            names -= {f"llmstage.{package}.{path.stem}"}
            wrong += [f"{relative(path)}: {name}" for name in names if not name.startswith("llmstage.tasks.base")]
    assert not wrong


def test_layer_zero_and_the_command_line_import_nothing_heavy():
    heavy = {
        f"{module}: {name}"
        for module, path in MODULES.items()
        if layer(module) in (0, 5)
        for name in imports_of(path, functions=False, types=False)
        if name.split(".")[0] in HEAVY
    }
    assert not heavy


def test_importing_the_command_line_leaves_torch_out():
    code = "import sys, llmstage.cli.command; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "llmstage" in loaded.split()
    assert not set(loaded.split()) & HEAVY


def test_training_evaluation_and_stages_name_no_task():
    words = {word for name in TASKS for word in (name, "".join(part.capitalize() for part in name.split("_")))}
    wrong = {}
    for module, path in MODULES.items():
        if not module.startswith(("llmstage.training", "llmstage.evaluation", "llmstage.stages")) or layer(module) < 3:
            continue
        tree = copy.deepcopy(parse(path))
        for node in ast.walk(tree):  # doc strings may give an example
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                node.value.value = ""
        code = ast.unparse(tree)
        named = {word for word in words if re.search(rf"(?<![A-Za-z0-9.]){word}(?![A-Za-z0-9])", code)}
        if named:
            wrong[relative(path)] = named
    assert TASKS
    assert not wrong


def test_names_are_the_words_of_the_field():
    wrong = []
    used = set()
    for path in FILES:
        for name in assigned_names(parse(path)):
            if not is_replaced(name):
                continue
            if (relative(path), name) in NAME_EXCEPTIONS:
                used.add((relative(path), name))
            else:
                wrong.append(f"{relative(path)}: {name}")
    counts = {line: wrong.count(line) for line in wrong}
    assert not wrong, f"{len(wrong)} names:\n" + "\n".join(f"{line} ({count})" for line, count in counts.items())
    assert len(NAME_EXCEPTIONS) < 20 and all(NAME_EXCEPTIONS.values())
    assert used == NAME_EXCEPTIONS.keys(), "an exception that is no longer needed"


INTERNALS = {
    "torch": "llmstage/kernels/torch_internals.py",
    "transformers": "llmstage/kernels/transformers_internals.py",
    "peft": "llmstage/models/adapter.py",
    "hydra": "llmstage/cli/hydra_runs.py",
    "omegaconf": "llmstage/cli/hydra_runs.py",
    "uvicorn": "llmstage/inference/server/uvicorn_internals.py",
}
"""The one file of each library that may use its private names, with a fallback where a release changes them."""


def private_names(tree: ast.AST) -> Iterator[str]:
    """Dotted names of a library that have a private part: imported, or read as an attribute of the library."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = imported(ast.Module([node], []))
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
        for name in names:
            parts = name.split(".")
            if parts[0] in INTERNALS and any(re.match(r"_[A-Za-z]", part) for part in parts[1:]):
                yield name


def test_private_names_of_a_library_are_in_one_file():
    assert list(private_names(ast.parse("import torch\ntorch._C.f()\nfrom hydra._internal.utils import x"))) != []
    wrong = {
        f"{relative(path)}: {name}"
        for path in FILES
        for name in private_names(parse(path))
        if relative(path) != INTERNALS[name.split(".")[0]]
    }
    assert not wrong, "\n".join(sorted(wrong))
