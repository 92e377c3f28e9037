"""Rules about the layout of the code, checked by reading imports and top-level names.

Each rule is about packages, rooms (folders inside a package) and files in general: a new file needs no new line here.
"""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.study_tests.conftest import settings, write_table

ROOT = Path(__file__).resolve().parents[1]

PACKAGES = ("study", "embedding_jobs", "trainables", "analysis")

FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}  # by the name of the module

# What each package may import of the others: whole packages, or single modules and rooms.
EDGES = {
    "study": ("embedding_jobs", "trainables", "analysis"),
    "trainables": ("embedding_jobs.files", "embedding_jobs.errors"),
    "analysis": ("trainables.records", "embedding_jobs.files", "embedding_jobs.errors"),
    "embedding_jobs": (),
}

# Where the heavy libraries may be imported: rooms and single modules.
HEAVY = {
    "torch": (
        "trainables.methods",
        "trainables.evaluation",
        "trainables.training",
        "trainables.packs.trainable",
        "trainables.packs.single",
        "trainables.packs.cost",
        "embedding_jobs.encoders",
    ),
    "ray": (
        "embedding_jobs.pipeline",
        "embedding_jobs.ray_session",
        "trainables.packs.trainable",
        "study.execution",
        "study.cluster",
    ),
    "optuna": ("study.search",),
    "mlflow": ("study.tracking", "study.model", "analysis.results.mlflow"),
}

# Files at the top of `study`; everything else there lies in a room.
TOP_OF_STUDY = {"__init__.py", "__main__.py", "errors.py", "py.typed"}

MAX_LINES = 400


@cache
def parsed(module: str) -> ast.Module:
    """Return the syntax tree of a module."""
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


def imports(module: str, *, for_types: bool = True) -> Iterator[tuple[str, str | None]]:
    """Yield every (module, name) that a module imports, at its top and inside functions; the name is None for a module.

    Args:
        module: The name of the module that imports.
        for_types: Whether to include what stands below `if TYPE_CHECKING:`.
    """
    waiting: list[ast.AST] = [parsed(module)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{module} must import by absolute names"
            assert not node.level, f"{module} must import by absolute names"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield (full, None) if full in FILES else (node.module, alias.name)
        elif isinstance(node, ast.If) and not for_types and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def is_within(module: str, places: Iterable[str]) -> bool:
    """Return whether a module is one of these places or lies in one of them."""
    return any(f"{module}.".startswith(f"{place}.") for place in places)


def room(module: str) -> str:
    """Return the room of a module: its folder inside the package, or the module itself at the package's top."""
    return ".".join(module.split(".")[:2])


def circle(arrows: Mapping[str, set[str]]) -> list[str]:
    """Return the names along one circle of arrows, or an empty list."""
    done: set[str] = set()

    def search(path: list[str]) -> list[str]:
        for target in sorted(arrows.get(path[-1], ())):
            if target in path:
                return [*path[path.index(target) :], target]
            if target not in done and (found := search([*path, target])):
                return found
        done.add(path[-1])
        return []

    return next((found for name in sorted(arrows) if name not in done and (found := search([name]))), [])


def test_edges_between_packages() -> None:
    strays = {
        f"{module} imports {target}"
        for module in FILES
        for target, _ in imports(module)
        if (package := module.split(".")[0]) != (other := target.split(".")[0])
        and other in PACKAGES
        and not is_within(target, EDGES[package])
    }
    assert strays == set()


def test_modules_import_each_other_in_no_circle() -> None:
    arrows = {module: {target for target, _ in imports(module, for_types=False)} - {module} for module in FILES}
    assert circle(arrows) == []


def test_rooms_import_each_other_in_no_circle() -> None:
    arrows: dict[str, set[str]] = {}
    for module in FILES:
        targets = {room(target) for target, _ in imports(module) if target in FILES}
        arrows.setdefault(room(module), set()).update(targets - {room(module)})
    arrows.pop("study")  # the public API: it names what rooms hold
    assert circle(arrows) == []


def test_circles_are_found() -> None:
    assert circle({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}}) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"d", "b"}}) == ["b", "c", "b"]


@pytest.mark.parametrize("library", HEAVY)
def test_who_imports_the_heavy_libraries(library: str) -> None:
    found = {module for module in FILES for target, _ in imports(module) if target.split(".")[0] == library}
    assert found, f"{library} is imported nowhere: remove it here"
    assert {module for module in found if not is_within(module, HEAVY[library])} == set()


def top_level_names(module: str) -> Iterator[str]:
    """Yield the names of the functions, classes and constants that a module defines at its top."""
    for node in parsed(module).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def test_a_public_name_stands_for_one_thing() -> None:
    homes: dict[str, list[str]] = {}
    for module in FILES:
        for name in set(top_level_names(module)):
            if not name.startswith("_"):
                homes.setdefault(name, []).append(module)
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


def test_private_names_stay_in_their_file() -> None:
    strays = {
        f"{module} imports {target}.{name}"
        for module in FILES
        for target, name in imports(module)
        if target.split(".")[0] in PACKAGES and (name or target).split(".")[-1].startswith("_")
    }
    assert strays == set()


def test_the_top_of_study_holds_no_concept() -> None:
    assert {path.name for path in (ROOT / "study").iterdir() if path.is_file()} == TOP_OF_STUDY


def test_files_stay_small() -> None:
    lengths = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in FILES.items()}
    assert {module: length for module, length in lengths.items() if length > MAX_LINES} == {}


@pytest.mark.parametrize("arguments", [["--help"], ["check", "--help"], ["check"]])
def test_the_command_starts_without_heavy_imports(arguments: list[str], tmp_path: Path) -> None:
    write_table(tmp_path / "table.csv")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(settings()))
    code = (
        f"import sys; sys.argv = ['study', *{arguments}]\n"
        "from study.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    assert not ended.code\n"
        "heavy = {'torch', 'ray', 'optuna', 'mlflow', 'transformers', 'timm', 'matplotlib', 'pandas'}\n"
        "print('loaded', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded []"
