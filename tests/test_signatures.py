"""What code outside relies on: names, order and defaults of public parameters."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cached_property
from importlib import import_module
from pathlib import Path, PurePath
from types import FunctionType, ModuleType

from golden_files import Golden

import fastretina
import loaders
from fastretina import cli

# The modules that docs/api.md publishes beside the package `loaders` itself, in order.
PUBLISHED = (
    "loaders.base",
    "loaders.order",
    "loaders.schedule",
    "loaders.shards",
    "loaders.manifest",
    "loaders.tar",
    "loaders.place",
    "loaders.contents",
    "loaders.files",
    "loaders.decode",
    "loaders.device",
    "loaders.folder",
    "loaders.course",
    "loaders.grades",
    "loaders.arrays",
    "loaders.cores",
    "loaders.errors",
    "fastretina.data.loading",
    "fastretina.nn.step",
    "fastretina.metrics.predictions",
)


def of_callable(name: str, value: object) -> Iterator[str]:
    """Parameters with their kinds and defaults; one a line where they are many."""
    signature = inspect.signature(value)  # type: ignore[arg-type]
    bare = [_bare(parameter) for parameter in signature.parameters.values()]
    line = f"{name}{signature.replace(parameters=bare, return_annotation=_NONE)}"
    if len(line) <= 88:
        yield line
        return
    indent = " " * (len(name) - len(name.lstrip()) + 4)
    yield f"{name}("
    positional = True
    for parameter in bare:
        if positional and parameter.kind is parameter.KEYWORD_ONLY:
            positional = False
            yield f"{indent}*,"
        yield f"{indent}{parameter},"
    yield f"{indent[4:]})"


_NONE = inspect.Signature.empty


def _bare(parameter: inspect.Parameter) -> inspect.Parameter:
    """Without its annotation; a default that has fields of its own in short."""
    default = parameter.default
    if dataclasses.is_dataclass(default):
        parameter = parameter.replace(default=_Text(f"{type(default).__name__}(...)"))
    elif isinstance(default, PurePath):  # of every system alike
        parameter = parameter.replace(default=_Text(f"Path({default.as_posix()!r})"))
    elif isinstance(default, FunctionType):  # without its address
        parameter = parameter.replace(default=_Text(default.__name__))
    return parameter.replace(annotation=_NONE)


class _Text(str):
    """What is printed in place of a default."""

    def __repr__(self) -> str:
        return str(self)


def of_class(name: str, cls: type) -> Iterator[str]:
    """How it is made, where a user may, and its public methods and properties."""
    protocol = getattr(cls, "_is_protocol", False)
    if protocol or (issubclass(cls, Exception) and "__init__" not in vars(cls)):
        yield f"class {name}"
    else:
        yield from of_callable(f"class {name}", cls)
    if protocol:
        yield from (f"    {attribute}" for attribute in inspect.get_annotations(cls))
    fields = {*getattr(cls, "__dataclass_fields__", ()), *getattr(cls, "_fields", ())}
    for member, value in vars(cls).items():
        if member.startswith("_") or member in fields:
            continue
        if isinstance(value, (property, cached_property)):
            yield f"    {member}"
        elif isinstance(value, (FunctionType, classmethod, staticmethod)):
            yield from of_callable(f"    {member}", getattr(cls, member))


def of_module(module: ModuleType, names: list[str]) -> Iterator[str]:
    for name in names:
        value = getattr(module, name)
        where = f"{module.__name__}.{name}"
        if inspect.isclass(value):
            yield from of_class(where, value)
        elif callable(value) and not hasattr(value, "__args__"):
            yield from of_callable(where, value)
        else:
            yield where  # a constant or a type


def defined_in(module: ModuleType) -> list[str]:
    """The public names that a module binds itself, in their order: no imported ones."""
    names: dict[str, None] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names[node.name] = None
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            bound = [each for target in targets for each in ast.walk(target)]
            names |= {each.id: None for each in bound if isinstance(each, ast.Name)}
    return [name for name in names if not name.startswith("_")]


def options() -> Iterator[str]:
    """The fields of what flags are parsed into, in order, of all of the package."""
    for found in pkgutil.walk_packages(fastretina.__path__, "fastretina."):
        if found.name.endswith("__main__") or found.name in PUBLISHED:
            continue
        module = import_module(found.name)
        for name, value in sorted(vars(module).items()):
            ours = dataclasses.is_dataclass(value) and value.__module__ == found.name
            if ours and name.endswith("Options"):
                yield from of_callable(f"class {found.name}.{name}", value)


def test_signatures(golden: Golden) -> None:
    recipe = import_module("fastretina.recipe")
    published = [import_module(name) for name in PUBLISHED]
    mains = [f"fastretina.{name}.command" for name in cli.COMMANDS]
    lines = [
        *of_module(loaders, loaders.__all__),
        *of_module(cli, ["run", "guard", "main"]),
        *of_module(recipe, ["Recipe"]),
        *options(),
        *(line for each in published for line in of_module(each, defined_in(each))),
        *(line for name in mains for line in of_module(import_module(name), ["main"])),
    ]
    golden("signatures.txt", "\n".join(lines))


def test_published_modules_are_frozen() -> None:
    pages = (Path(__file__).parents[1] / "docs" / "api.md").read_text()
    shown = re.findall(r"^::: (\S+)", pages, re.MULTILINE)
    assert shown == ["loaders", *PUBLISHED]


def test_published_names_are_those_that_a_module_binds() -> None:
    names = defined_in(import_module("loaders.place"))
    assert names == ["Url", "Place", "place", "is_url", "stream_size"]


def test_signature_shows_kinds_defaults_and_order() -> None:
    def few(a: int, /, b: str = "x", *more: int, c: float) -> None: ...

    def many(first: str, *, second_is_long=Path("a", "b"), third=few, **rest): ...

    assert [*of_callable("few", few)] == ["few(a, /, b='x', *more, c)"]
    assert [*of_callable("many" * 12, many)] == [
        "many" * 12 + "(",
        "    first,",
        "    *,",
        "    second_is_long=Path('a/b'),",
        "    third=few,",
        "    **rest,",
        ")",
    ]
