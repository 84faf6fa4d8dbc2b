"""What a disk may hold after a loss of power, of what a run has written to it.

    operations in their order --> a moment --> what is on the disk for sure
                                          '--> what may be there or not: its subsets

A file's bytes are there for sure after its own ``fsync``, a name after that of its
folder, and that is all that POSIX promises. Beside it, ext4's journal is tried: names
reach the disk in their order, and any ``fsync`` takes all before it along.
"""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

ROOT = 0  # the node of the folder that is watched
Content = dict[str, bytes | None]  # by relative path; None is a folder


@dataclass(slots=True)
class Node:
    """A file, a folder or a link, whatever its name.

    Attributes:
        kind: ``file``, ``folder`` or ``link``.
        content: of a file, or where a link leads.
        names: of a folder: name to node.
    """

    kind: str
    content: bytearray = field(default_factory=bytearray)
    names: dict[str, int] = field(default_factory=dict)

    def copy(self) -> Node:
        return Node(self.kind, bytearray(self.content), dict(self.names))


class Enter(NamedTuple):
    """A name for a new node, or for one that moves away from another name."""

    folder: int
    name: str
    node: int
    before: tuple[int, str] | None = None


class Leave(NamedTuple):
    """A name is removed."""

    folder: int
    name: str


class Exchange(NamedTuple):
    """Two names of a folder are exchanged, at once."""

    folder: int
    name: str
    other: str


class Write(NamedTuple):
    """Bytes at a place of a file."""

    node: int
    offset: int
    content: bytes


class Cut(NamedTuple):
    """A file's new size; what is new is zero."""

    node: int
    size: int


class Sync(NamedTuple):
    """Of a file's bytes or a folder's names, those of ``reach`` operations."""

    node: int
    reach: int


Operation = Enter | Leave | Exchange | Write | Cut | Sync
_NAMES = Enter | Leave | Exchange


class Choice(NamedTuple):
    """Which of the things that the disk may hold.

    Attributes:
        moment: number of operations that were called.
        how: what of those that nobody waited for has reached the disk: none, all, only
            one, all but one, all with half of one, only half of one; or in ext4's
            order: so many names, with no bytes, all, or zeros in their place.
        one: that operation, or so many names.
    """

    moment: int
    how: str
    one: int = 0


@dataclass(slots=True)
class Recording:
    """All that a run did to a folder.

    Attributes:
        nodes: what there is, as it was before, and empty ones of what was made.
        operations: in their order.
    """

    nodes: dict[int, Node]
    operations: list[Operation] = field(default_factory=list)

    def choices(self) -> list[Choice]:
        """Every state that is tried, at every moment."""
        found = []
        certain: dict[bool, set[int]] = {False: set(), True: set()}
        for moment in range(len(self.operations) + 1):
            if moment and isinstance(sync := self.operations[moment - 1], Sync):
                for ordered, places in certain.items():
                    places |= self._made_durable(sync, ordered)
            found += [Choice(moment, "none"), Choice(moment, "all")]
            for one in self._pending(moment, certain[False]):
                found += [Choice(moment, how, one) for how in ("only", "all but")]
                if isinstance(self.operations[one], Write):
                    found += [Choice(moment, how, one) for how in ("half", "only half")]
            pending = self._pending(moment, certain[True])
            data = any(isinstance(self.operations[p], Write | Cut) for p in pending)
            names = sum(isinstance(self.operations[p], _NAMES) for p in pending)
            for count in range(names + 1):
                found.append(Choice(moment, "ext4, no bytes", count))
                if data:
                    found.append(Choice(moment, "ext4, all bytes", count))
                    found.append(Choice(moment, "ext4, zeros for bytes", count))
        return found

    def _made_durable(self, sync: Sync, ordered: bool) -> set[int]:
        """The operations that a power cut can't undo after this one."""
        return {
            place
            for place, each in enumerate(self.operations[: sync.reach])
            if (isinstance(each, Write | Cut) and each.node == sync.node)
            or (isinstance(each, _NAMES) and (ordered or each.folder == sync.node))
        }

    def _pending(self, moment: int, certain: set[int]) -> list[int]:
        return [
            place
            for place, each in enumerate(self.operations[:moment])
            if place not in certain and not isinstance(each, Sync)
        ]

    def state(self, choice: Choice) -> Content:
        """What the folder holds then."""
        moment, how, one = choice
        ordered = how.startswith("ext4")
        certain: set[int] = set()
        for sync in self.operations[:moment]:
            if isinstance(sync, Sync):
                certain |= self._made_durable(sync, ordered)
        pending = self._pending(moment, certain)
        torn, zeroed = None, False
        if ordered:
            data = [p for p in pending if isinstance(self.operations[p], Write | Cut)]
            names = [p for p in pending if p not in data]
            more = names[:one] + (data if how != "ext4, no bytes" else [])
            zeroed = how == "ext4, zeros for bytes"
        elif how in ("none", "only", "only half"):
            more = [] if how == "none" else [one]
        else:
            more = [place for place in pending if (how, place) != ("all but", one)]
        if how in ("half", "only half"):
            torn = one
        nodes = {number: node.copy() for number, node in self.nodes.items()}
        for place in sorted(certain | {*more}):
            operation = self.operations[place]
            if isinstance(operation, Write):
                length = len(operation.content)
                kept = length
                if place == torn:
                    kept = length // 2
                elif zeroed and place not in certain:
                    kept = 0
                content = operation.content[:kept] + bytes(length - kept)
                operation = operation._replace(content=content)
            apply(nodes, operation)
        return content_of(nodes)

    def whole(self) -> Content:
        """What the folder holds in the end, where the power stays."""
        return self.state(Choice(len(self.operations), "all"))

    def describe_choice(self, choice: Choice) -> str:
        """A state in a few words."""
        moment, how, one = choice
        last = self.describe(moment - 1) if moment else "nothing"
        what = f"{one} names" if how.startswith("ext4") else ""
        if how in ("only", "all but", "half", "only half"):
            what = self.describe(one)
        return f"after {last}, of what was not synced: {how} {what}".rstrip()

    def describe(self, place: int) -> str:
        """An operation in a few words."""
        each = self.operations[place]
        if isinstance(each, Sync):
            return f"the sync of {self.name_of(each.node)} ({place})"
        if isinstance(each, Enter):
            word = "the name" if each.before is None else "the move to"
            return f"{word} {each.name} ({place})"
        if isinstance(each, Leave):
            return f"the removal of {each.name} ({place})"
        if isinstance(each, Exchange):
            return f"the exchange of {each.name} and {each.other} ({place})"
        return f"the bytes {place} of {self.name_of(each.node)}"

    def name_of(self, node: int) -> str:
        """The last name that a node has had."""
        for each in reversed(self.operations):
            if isinstance(each, Enter) and each.node == node:
                return each.name
        names = [n for f in self.nodes.values() for n, at in f.names.items()]
        at = [at for f in self.nodes.values() for at in f.names.values()]
        return names[at.index(node)] if node in at else "a file"


def apply(nodes: dict[int, Node], operation: Operation) -> None:
    """Change a disk as an operation does, whatever of those before has reached it."""
    if isinstance(operation, Enter):
        if operation.before is not None:
            folder, name = operation.before
            if nodes[folder].names.get(name) == operation.node:
                del nodes[folder].names[name]
        nodes[operation.folder].names[operation.name] = operation.node
    elif isinstance(operation, Leave):
        nodes[operation.folder].names.pop(operation.name, None)
    elif isinstance(operation, Exchange):
        names = nodes[operation.folder].names
        one, other = operation.name, operation.other
        names[one], names[other] = names[other], names[one]
    elif isinstance(operation, Write):
        content = nodes[operation.node].content
        end = operation.offset + len(operation.content)
        content.extend(bytes(max(end - len(content), 0)))
        content[operation.offset : end] = operation.content
    elif isinstance(operation, Cut):
        content = nodes[operation.node].content
        del content[operation.size :]
        content.extend(bytes(operation.size - len(content)))


def content_of(nodes: dict[int, Node]) -> Content:
    """Every path below the watched folder; a link's content begins with ``-> ``."""
    found: Content = {}
    todo = [("", ROOT)]
    while todo:
        above, number = todo.pop()
        for name, inner in nodes[number].names.items():
            node, path = nodes[inner], f"{above}{name}"
            if node.kind == "folder":
                found[path] = None
                todo.append((f"{path}/", inner))
            else:
                start = b"-> " if node.kind == "link" else b""
                found[path] = start + bytes(node.content)
    return found


def read_disk(root: Path) -> dict[int, Node]:
    """The nodes of a folder as it is."""
    nodes = {ROOT: Node("folder")}
    numbers = {root: ROOT}
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = Path(folder) / name
            number = len(nodes)
            if path.is_symlink():
                nodes[number] = Node("link", bytearray(os.readlink(path).encode()))
            elif path.is_dir():
                nodes[number] = Node("folder")
                numbers[path] = number
            else:
                nodes[number] = Node("file", bytearray(path.read_bytes()))
            nodes[numbers[Path(folder)]].names[name] = number
    return nodes


def put_down(content: Content, folder: Path) -> None:
    """Write a state's content into an empty folder."""
    for path, data in sorted(content.items()):
        target = folder / path
        if data is None:
            target.mkdir()
        elif data.startswith(b"-> "):
            target.symlink_to(data[3:].decode())
        else:
            target.write_bytes(data)


def versions(recording: Recording) -> dict[str, set[bytes | None]]:
    """Every path to what stood there as a whole: before, and after each move to it."""
    nodes = {number: node.copy() for number, node in recording.nodes.items()}
    found: dict[str, set[bytes | None]] = defaultdict(set)

    def note() -> None:
        for path, data in content_of(nodes).items():
            found[path].add(data)

    note()
    for operation in recording.operations:
        apply(nodes, operation)
        moved = isinstance(operation, Enter) and operation.before is not None
        if moved or isinstance(operation, Exchange):
            note()
    return found
