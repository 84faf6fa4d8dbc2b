"""The house: arrows run downward, no circles, nothing too long or too wide."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from fastretina import cli

ROOT = Path(__file__).parents[1]
COMMANDS = set(cli.COMMANDS)
SHARED = {"recipe", "ranges", "run", "run_config", "run_result", "versions", "cli"} | {
    "__main__",
    "formatting",
    "processes",
    "interrupts",
    "outputs",
    "lack",
    "progress",
    "terminal",
    "wall_clock",
    "user_cache",
}
LAYERS = {"data", "nn", "metrics", "measure"}

# What does not keep to a rule yet, and why.
KNOWN_CIRCLES: dict[str, str] = {}
KNOWN_CLIMBS: dict[tuple[str, str], str] = {}
KNOWN_LONG: dict[str, str] = {}
KNOWN_NAMES: dict[str, str] = {}
KNOWN_WIDE: dict[str, str] = {}
KNOWN_SHARED: dict[str, str] = {
    "Options": "each command's flags, by one name on purpose",
}

MAX_LINES = 400
MAX_PARAMETERS = 6
BANNED_NAMES = {"told", "_told", "said", "_said"}


def modules() -> dict[str, Path]:
    """Every module of the wheel and of the benchmarks, by its dotted name."""
    found = {}
    for package in ("loaders", "fastretina", "bench"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()
OURS = [name for name in MODULES if not name.startswith("bench")]


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def imports(module: str, *, type_checking: bool = False) -> set[str]:
    """Our modules that a module imports, anywhere in it; itself excepted.

    A name taken from a package counts as an arrow to the package's ``__init__`` too:
    that runs first.
    """
    named: set[str] = set()
    for node in _runtime_nodes(tree(module), type_checking):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            assert node.module is not None
            named.add(node.module)
            named |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in named if name in MODULES} - {module}


def _runtime_nodes(node: ast.AST, type_checking: bool) -> Iterator[ast.AST]:
    """All nodes below one; those below ``if TYPE_CHECKING:`` only where wanted."""
    yield node
    skipped: list[ast.stmt] = []
    if isinstance(node, ast.If) and not type_checking:
        test = node.test
        name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
        skipped = node.body if name == "TYPE_CHECKING" else []
    for child in ast.iter_child_nodes(node):
        if child not in skipped:
            yield from _runtime_nodes(child, type_checking)


def room(module: str) -> str:
    """What a module belongs to: ``loaders``, ``train``, ``nn``, ``recipe`` ..."""
    package, _, rest = module.partition(".")
    return rest.partition(".")[0] if package == "fastretina" and rest else package


def floor(module: str) -> int:
    """How high a module stands; an arrow may not climb."""
    name = room(module)
    if name == "bench":
        return 4
    if name in COMMANDS:
        return 3
    if name in LAYERS:
        return 2
    return 0 if name == "loaders" else 1  # fastretina/__init__.py and what is shared


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many a caller can give; ``*args`` and ``**named`` count one each."""
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    bound = bool(named) and named[0].arg in ("self", "cls")
    return len(named) - bound + bool(given.vararg) + bool(given.kwarg)


def functions(module: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(module)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def public_types(module: str) -> Iterator[str]:
    """The public classes and type aliases that a module defines."""
    for node in tree(module).body:
        if isinstance(node, ast.ClassDef):
            name = node.name
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = node.value
            variable = isinstance(value, ast.Call) and "TypeVar" in ast.dump(value.func)
            name = "" if variable else node.targets[0].id
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        else:
            continue
        if name[:1].isupper() and not name.isupper():  # neither private nor a constant
            yield name


def check(known: dict[str, str], broken: set[str], rule: str) -> None:
    """What breaks a rule is known to, and what is known to still does."""
    assert not broken - set(known), rule
    assert not set(known) - broken, "mended: take it out of the list"


def test_every_folder_is_a_layer_or_a_command() -> None:
    rooms = {room(name) for name in OURS} - {"loaders", "fastretina"}
    assert rooms == COMMANDS | SHARED | LAYERS


def fail_on_circle(graph: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_no_circles_of_modules() -> None:
    """Imports in functions count: who reads one module must not end where he began."""
    fail_on_circle({name: imports(name) - set(KNOWN_CIRCLES) for name in OURS})


def test_no_circles_of_folders() -> None:
    graph: dict[str, set[str]] = {}
    for name in OURS:
        others = {room(other) for other in imports(name)} - {room(name)}
        graph.setdefault(room(name), set()).update(others)
    fail_on_circle(graph)


def test_arrows_run_downward() -> None:
    """The layers know no command, the loaders no trainer, and no one the benchmarks."""
    climbs = {
        (name, other)
        for name in MODULES
        for other in imports(name, type_checking=True)
        if floor(other) > floor(name)
    }
    # The console command finds the commands by name, and imports none.
    assert climbs == set(KNOWN_CLIMBS)


def test_every_module_says_what_it_is() -> None:
    assert not [name for name in MODULES if not ast.get_docstring(tree(name))]


def test_no_module_is_too_long() -> None:
    long = {
        name for name in OURS if len(MODULES[name].read_text().splitlines()) > MAX_LINES
    }
    check(KNOWN_LONG, long, f"a module has at most {MAX_LINES} lines")


def test_no_function_is_named_in_dialect() -> None:
    named = {
        f"{module}.{function.name}"
        for module in MODULES
        for function in functions(module)
        if function.name in BANNED_NAMES
    }
    check(KNOWN_NAMES, named, "format_x, describe_x, report_x, message ...")


def test_no_two_types_share_a_name() -> None:
    """Who reads a name in one module should have met it in no other sense."""
    times = Counter(name for module in MODULES for name in public_types(module))
    shared = {name for name, number in times.items() if number > 1}
    check(KNOWN_SHARED, shared, "a class or type alias has a name of its own")


def test_no_function_has_too_many_parameters() -> None:
    wide = {
        f"{module}.{function.name}"
        for module in MODULES
        for function in functions(module)
        if parameters(function) > MAX_PARAMETERS
    }
    check(KNOWN_WIDE, wide, f"a function takes at most {MAX_PARAMETERS} parameters")


def test_commands_open_the_same_way() -> None:
    """``python -m fastretina.NAME`` is three lines, and all begins in ``command``."""
    for name in COMMANDS:
        door = tree(f"fastretina.{name}.__main__")
        _, imported, run = door.body
        assert ast.unparse(imported) == "from fastretina.cli import open_door"
        assert ast.unparse(run) == f"raise SystemExit(open_door('{name}'))"


# The rules themselves see what they should.


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("import loaders.order", {"loaders.order"}),
        ("def f():\n    from loaders import order", {"loaders", "loaders.order"}),
        ("from loaders.order import Draws", {"loaders.order"}),
        ("if TYPE_CHECKING:\n    import loaders.order", set()),
        (
            "if typing.TYPE_CHECKING:\n    import loaders\nelse:\n    import bench",
            {"bench"},
        ),
        ("import numpy", set()),
    ],
)
def test_imports_are_seen(
    source: str, seen: set[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "new.py").write_text(source)
    monkeypatch.setitem(MODULES, "new", tmp_path / "new.py")
    tree.cache_clear()
    assert imports("new") == seen
    tree.cache_clear()


def test_circle_is_found_with_its_modules(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "one.py").write_text("def f():\n    import two")
    (tmp_path / "two.py").write_text("from one import f")
    for name in ("one", "two"):
        monkeypatch.setitem(MODULES, name, tmp_path / f"{name}.py")
    with pytest.raises(pytest.fail.Exception, match=r"one -> two|two -> one"):
        fail_on_circle({name: imports(name) for name in ("one", "two")})


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("class Kind(NamedTuple): ...", ["Kind"]),
        ("class _Kind: ...", []),
        ("Kind = Literal['a', 'b']", ["Kind"]),
        ("Kind: TypeAlias = 'int | str'", ["Kind"]),
        ("Kind = TypeVar('Kind')\nOther = typing.TypeVar('Other')", []),
        ("KINDS = (1, 2)\nkind = 1\nmine.Kind = 1", []),
        ("def f():\n    class Kind: ...", []),
    ],
)
def test_public_types_are_seen(
    source: str, seen: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "new.py").write_text(source)
    monkeypatch.setitem(MODULES, "new", tmp_path / "new.py")
    tree.cache_clear()
    assert list(public_types("new")) == seen
    tree.cache_clear()


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("def f(): ...", 0),
        ("def f(self, a, /, b, *, c=1): ...", 3),
        ("def f(a, *b, c, **d): ...", 4),
        ("async def f(cls): ...", 0),
    ],
)
def test_parameters_are_counted(source: str, count: int) -> None:
    (function,) = ast.parse(source).body
    assert isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
    assert parameters(function) == count
