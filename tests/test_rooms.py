"""The rooms of the library and the arrows between them, drawn from all imports but those for type checkers.

A room is a folder of `audiorl`, or a module beside them. A name imported from a package goes to the module that holds
it, so that a room is reached however the import is written.
"""

from __future__ import annotations

import ast
import importlib.util
import pkgutil
import re
from collections.abc import Iterator, Mapping, Set
from functools import cache
from pathlib import Path

import pytest

import audiorl

LIBRARY = Path(audiorl.__file__).parent
ROOT = LIBRARY.parent

# (from, to): an arrow that no import may draw
FORBIDDEN = [
    ("losses", "models"),
    ("losses", "trainers"),
    ("rewards", "models"),
    ("rewards", "trainers"),
    ("rewards", "evaluation"),
    ("models", "trainers"),
    ("text", "rewards"),
    ("text", "evaluation"),
]
# who may import the demo: what a user runs, and tests
GUESTS_OF_THE_DEMO = {"commands", "testing", "demo"}
# Circles that are left. These lists only get shorter: what is mended has to leave them.
KNOWN_CIRCLES: set[frozenset[str]] = set()
KNOWN_CIRCLES_OF_MODULES: set[frozenset[str]] = set()


def modules() -> dict[str, Path]:
    """Dotted name -> file."""
    found = {}
    for path in LIBRARY.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Everything below a node but what stands under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        yield from statements(ast.Module(child.orelse, [])) if typing_only else [child, *statements(child)]


def imported(source: str, package: str, known: Mapping[str, Path]) -> Iterator[str]:
    """The modules of the library that a source file imports."""
    for node in statements(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.split(".")[0] == "audiorl")
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            if base.split(".")[0] == "audiorl":
                yield from (home_of(base, name.name, known) for name in node.names)
        elif isinstance(node, ast.Call) and "import_module" in (getattr(node.func, key, "") for key in ("id", "attr")):
            texts = [str(value.value) for value in node.args if isinstance(value, ast.Constant)]
            yield from (text for text in texts if text.split(".")[0] == "audiorl")


def home_of(package: str, name: str, known: Mapping[str, Path]) -> str:
    """The module behind `from package import name`: a lazy name leads to the module that holds it."""
    if f"{package}.{name}" in known:
        return f"{package}.{name}"
    home = lazy_homes(package, known[package]).get(name, package) if package in known else package
    return package if home == package else home_of(home, name, known)


@cache
def lazy_homes(package: str, path: Path) -> dict[str, str]:
    """The table of lazy names in a package's `__init__`, full names of modules."""
    if path.name != "__init__.py":
        return {}
    tables = [
        ast.literal_eval(node.value)
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("_HOMES", "_FORMER")
    ]
    homes = {name: home for table in tables for name, home in table.items()}
    return {name: home if "." in home else f"{package}.{home}" for name, home in homes.items()}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def package_of(module: str, path: Path) -> str:
    """What relative imports of a module start from."""
    return module if path.name == "__init__.py" else module.rpartition(".")[0]


Imports = Mapping[str, frozenset[str]]  # module -> modules of the library that it imports


@pytest.fixture(scope="module")
def imports() -> Imports:
    known = modules()
    return {
        name: frozenset(imported(path.read_text(encoding="utf-8"), package_of(name, path), known)) - {name}
        for name, path in known.items()
    }


def arrows(imports: Imports) -> dict[tuple[str, str], set[str]]:
    """(room, room) -> the imports that draw this arrow."""
    drawn: dict[tuple[str, str], set[str]] = {}
    for module, targets in imports.items():
        for target in targets:
            if room(target) != room(module):
                drawn.setdefault((room(module), room(target)), set()).add(f"{module} imports {target}")
    return drawn


@pytest.fixture(scope="module")
def drawn(imports) -> dict[tuple[str, str], set[str]]:
    return arrows(imports)


def circles(graph: Mapping[str, Set[str]]) -> list[list[str]]:
    """Sets of two or more rooms that reach each other, sorted."""
    reached = {start: reach(graph, start) for start in graph}
    found = {tuple(sorted({a, *(b for b in reached[a] if a in reached.get(b, ()))})) for a in graph}
    return sorted(list(ring) for ring in found if len(ring) > 1)


def reach(graph: Mapping[str, Set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    todo = list(graph.get(start, ()))
    while todo:
        if (place := todo.pop()) not in seen:
            seen.add(place)
            todo.extend(graph.get(place, ()))
    return seen


def graph_of(drawn: Mapping[tuple[str, str], set[str]]) -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for start, end in drawn:
        graph.setdefault(start, set()).add(end)
        graph.setdefault(end, set())
    return graph


@pytest.mark.parametrize(("start", "end"), FORBIDDEN, ids=lambda name: name)
def test_a_lower_room_does_not_import_a_higher_one(drawn, start, end):
    assert not drawn.get((start, end)), "\n".join(sorted(drawn[start, end]))


def test_only_what_a_user_runs_imports_the_demo(drawn):
    guests = {start for start, end in drawn if end == "demo"} - GUESTS_OF_THE_DEMO
    assert not guests, [drawn[guest, "demo"] for guest in guests]


def test_rooms_have_no_circle_but_those_that_are_known(drawn):
    found = circles(graph_of(drawn))
    unknown = [ring for ring in found if frozenset(ring) not in KNOWN_CIRCLES]
    lines = {
        line
        for ring in unknown
        for (start, end), several in drawn.items()
        if start in ring and end in ring
        for line in several
    }
    assert not unknown, "\n".join(sorted(lines))
    assert {frozenset(ring) for ring in found} == KNOWN_CIRCLES, "a circle that is gone has to leave KNOWN_CIRCLES"


def test_modules_have_no_circle_but_those_that_are_known(imports):
    found = {frozenset(ring) for ring in circles(imports)}
    assert found == KNOWN_CIRCLES_OF_MODULES, "a circle that is gone has to leave the list"


@pytest.mark.parametrize("folder", ["trainers", "evaluation", "model_card", "report"])
def test_who_measures_asks_a_task_and_not_the_kind_of_model(folder):
    """`family.task` answers what differs between transcripts and labels; no name of a class is looked at."""
    asks = re.compile(r"labels is (not )?None|endswith\([\"']For|_MAPPING_NAMES")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in (LIBRARY / folder).rglob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if asks.search(line)
    ]
    assert found == []


# Named in docstrings, and not ours: a script of batch-opt-rlhf-asr, and a group of entry points.
NAMED_ELSEWHERE = {"finetune.py", "audiorl.families"}


def docstrings(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def is_there(name: str) -> bool:
    """Whether `folder/file.py` is a file of the repository, or `audiorl.x.y` a module or a name in one."""
    if name.endswith(".py"):
        folders = ("audiorl", "benchmarks", "docs", "examples", "tests")
        return any(f"/{path.relative_to(ROOT)}".endswith(f"/{name}") for top in folders for path in files_of(top))
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


@cache
def files_of(folder: str) -> list[Path]:
    return list((ROOT / folder).rglob("*.py"))


def missing_names(text: str) -> list[str]:
    names = set(re.findall(r"[\w/]*\w\.py\b|\baudiorl(?:\.\w+)+", text)) - NAMED_ELSEWHERE
    yours = re.compile(r"\bmy_|NAME")  # files that a reader is to write
    return sorted(name for name in names if not yours.search(name) and not is_there(name))


def test_modules_that_docstrings_and_pages_name_exist():
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in modules().values()
        for text in docstrings(path.read_text(encoding="utf-8"))
        for name in missing_names(text)
    }
    pages = [*(ROOT / "docs").rglob("*.md"), *LIBRARY.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    found |= {f"{path.relative_to(ROOT)}: {name}" for path in pages for name in missing_names(path.read_text("utf-8"))}
    assert not found, "\n".join(sorted(found))


def test_a_stale_name_in_a_docstring_is_found():
    assert missing_names("`ctc.py`, `audiorl/losses/ctc.py`, `audiorl.losses.ctc`, `audiorl.GRPOTrainer`") == []
    assert missing_names("`online.py`, `audiorl.gone`") == ["audiorl.gone", "online.py"]


# ---- the test itself: what it would not see, it could not forbid ----

KNOWN = {"audiorl": LIBRARY / "__init__.py", "audiorl.losses.a": Path("a.py"), "audiorl.trainers.b": Path("b.py")}


@pytest.mark.parametrize(
    "source",
    [
        "import audiorl.trainers.b",
        "from audiorl.trainers.b import x",
        "from audiorl.trainers import b",
        "from ..trainers import b",
        "from audiorl import DPOTrainer",
        "def f():\n    from audiorl.trainers.b import x",
        "import importlib\nimportlib.import_module('audiorl.trainers.b')",
        "if TYPE_CHECKING:\n    pass\nelse:\n    from audiorl.trainers.b import x",
    ],
)
def test_every_way_of_importing_is_seen(source):
    found = frozenset(imported(source, "audiorl.losses", KNOWN))
    assert ("losses", "trainers") in arrows({"audiorl.losses.a": found})


def test_imports_for_type_checkers_draw_no_arrow():
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from audiorl.trainers.b import x"
    assert not list(imported(source, "audiorl.losses", KNOWN))


def test_a_circle_is_found_through_a_third_room():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_no_test_imports_another_test_file():
    """What tests share has a home of its own; a test file can be moved or left out without breaking others."""
    tests = Path(__file__).parent
    found = [
        f"{path.relative_to(tests)}:{node.lineno}"
        for path in tests.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom | ast.Import)
        for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
        if name.split(".")[-1].startswith("test_")
    ]
    assert found == []
