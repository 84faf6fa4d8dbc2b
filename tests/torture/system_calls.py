"""Record with strace what a command does to a folder, call by call."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from torture.campaign import Fault, Skip
from torture.disk import (
    ROOT,
    Cut,
    Enter,
    Exchange,
    Leave,
    Node,
    Operation,
    Recording,
    Sync,
    Write,
    apply,
    content_of,
    read_disk,
)

_CALLS = (
    "open,openat,creat,close,write,pwrite64,writev,pwritev,ftruncate,truncate,"
    "fallocate,rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,symlink,"
    "symlinkat,link,linkat,fsync,fdatasync,copy_file_range,sendfile,"
    "dup,dup2,dup3"
)
_PAGE = 4096
_LINE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)(?:<([^>]*)>)?.*")
_BEGUN = re.compile(r"(\d+) +(\w+)\((.*) <unfinished \.\.\.>")
_ENDED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)")
_DESCRIPTOR = re.compile(r"(AT_FDCWD|\d+)<([^>]*)>")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')


def require_strace() -> None:
    """Make sure that processes can be watched here.

    Raises:
        Skip: they can't.
    """
    if shutil.which("strace") is None:
        raise Skip("no strace on this machine")
    tried = subprocess.run(
        ["strace", "-f", "-o", "/dev/null", "true"], capture_output=True, check=False
    )
    if tried.returncode:
        raise Skip("strace may not be used on this machine")


def record(
    words: Sequence[str], root: Path, trace: Path, environment: Mapping[str, str]
) -> Recording:
    """Run a command and note all that it and its children do below a folder.

    Args:
        words: the command.
        root: absolute, without links; paths in ``words`` begin with it.
        trace: a file for what strace notes.
        environment: of the command.

    Raises:
        Fault: it fails, or what was noted doesn't give what is there afterwards.
    """
    before = read_disk(root)
    flags = ["-f", "-y", "-xx", "-qq", "-s", "100000000", "--seccomp-bpf"]
    flags += ["-e", f"trace={_CALLS}", "-e", "signal=none"]
    ran = subprocess.run(
        ["strace", *flags, "-o", str(trace), *words],
        cwd=root.parent,
        env=dict(environment),
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise Fault(f"{' '.join(words[:8])}: exit code {ran.returncode}: {ran.stderr}")
    reader = _Reader(root, before)
    with trace.open() as lines:
        for line in lines:
            reader.read(line)
    recording = reader.recording()
    _add_mapped_writes(recording, root)
    return recording


class _Reader:
    """Turns strace's lines into operations."""

    def __init__(self, root: Path, before: dict[int, Node]) -> None:
        self._root = str(root)
        self._hex = "".join(f"\\x{byte:02x}" for byte in self._root.encode())
        self._before = before
        self._now = {number: node.copy() for number, node in before.items()}
        self._operations: list[Operation] = []
        self._begun: dict[str, tuple[str, int]] = {}
        self._open: dict[tuple[str, str], tuple[int, int]] = {}  # node and offset

    def recording(self) -> Recording:
        """What was read."""
        nodes = dict(self._before)
        for number, node in self._now.items():
            if number not in nodes:  # names and bytes come with the operations
                kept = node.content if node.kind == "link" else bytearray()
                nodes[number] = Node(node.kind, bytearray(kept))
        return Recording(nodes, self._operations)

    def read(self, line: str) -> None:
        """Take a line: a call, or its beginning or its end."""
        reach = len(self._operations)
        line = line.rstrip("\n")
        if begun := _BEGUN.fullmatch(line):
            process, call, given = begun.groups()
            self._begun[process] = (f"{process} {call}({given}", reach)
            return
        if ended := _ENDED.fullmatch(line):
            process, _, rest = ended.groups()
            start, reach = self._begun.pop(process)
            line = start + rest
        if self._hex not in line:
            return
        if found := _LINE.fullmatch(line):
            process, call, given, result, path = found.groups()
            if int(result) >= 0:
                self._take(call, given, int(result), path, reach)

    def _take(
        self, call: str, given: str, result: int, path: str | None, reach: int
    ) -> None:
        strings = [
            bytes.fromhex(s.replace("\\x", "")) for s, _ in _STRING.findall(given)
        ]
        if any(cut for _, cut in _STRING.findall(given)):
            raise Fault("strace has cut a string short")
        folders = [_text(p) for _, p in _DESCRIPTOR.findall(_STRING.sub("", given))]
        if call in ("open", "openat", "creat"):
            assert path is not None
            self._opened(
                _text(path),
                str(result),
                given if call != "creat" else "O_CREAT|O_TRUNC",
            )
            return
        if call in ("write", "pwrite64", "writev", "pwritev"):
            descriptor = given[: given.index("<")]
            at = (folders[0], descriptor)
            if at not in self._open:
                return
            node, offset = self._open[at]
            if call.startswith("pwrite"):
                offset = int(given.rsplit(",", 1)[1])
            else:
                self._open[at] = node, offset + result
            self._do(Write(node, offset, b"".join(strings)[:result]))
        elif call in ("ftruncate", "truncate", "fallocate"):
            target = folders[0] if call != "truncate" else strings[0].decode()
            node = self._find(target)
            if node is not None:
                sizes = [int(word) for word in given.split(", ")[1:]]
                size = sizes[0]
                if call == "fallocate":
                    size = max(sum(sizes[-2:]), len(self._now[node].content))
                self._do(Cut(node, size))
        elif call in ("fsync", "fdatasync"):
            node = self._find(folders[0])
            if node is not None:
                self._do(Sync(node, reach))
        elif call in ("dup", "dup2", "dup3"):  # a log, written to as stdout
            at = (folders[0], given[: given.index("<")])
            if at in self._open:
                self._open[folders[0], str(result)] = self._open[at]
        elif call in ("copy_file_range", "sendfile", "link", "linkat"):
            raise Fault(f"{call} is not understood: {folders} {strings!r}")
        elif call != "close":
            self._named(call, given, [s.decode() for s in strings], folders)

    def _opened(self, path: str, descriptor: str, flags: str) -> None:
        place = self._place(path)
        if place is None:
            return
        node = self._find(path)
        if node is None:
            if "O_CREAT" not in flags:
                return
            node = self._make("file", *place)
        elif "O_TRUNC" in flags and self._now[node].content:
            self._do(Cut(node, 0))
        append = "O_APPEND" in flags
        self._open[path, descriptor] = node, append * len(self._now[node].content)

    def _named(
        self, call: str, given: str, strings: list[str], folders: list[str]
    ) -> None:
        """A call that makes, moves or removes a name."""
        paths = [
            text
            if text.startswith("/")
            else f"{folders[min(n, len(folders) - 1)]}/{text}"
            for n, text in enumerate(strings)
            if text.startswith("/") or folders
        ]
        if call.startswith("rename"):
            source, target = self._place(paths[0]), self._place(paths[1])
            if source is None or target is None:
                raise Fault(f"moved into or out of what is watched: {paths}")
            if "RENAME_EXCHANGE" in given:
                assert source[0] == target[0], paths
                self._do(Exchange(*source, target[1]))
                return
            node = self._now[source[0]].names[source[1]]
            for at, (old, offset) in list(self._open.items()):
                if at[0] == paths[0]:
                    self._open[paths[1], at[1]] = old, offset
            self._do(Enter(*target, node, source))
            return
        place = self._place(paths[-1])
        if place is None:
            return
        if call in ("unlink", "unlinkat", "rmdir"):
            self._do(Leave(*place))
        elif call in ("mkdir", "mkdirat"):
            self._make("folder", *place)
        elif call in ("symlink", "symlinkat"):
            self._make("link", *place, strings[0].encode())
        else:
            raise Fault(f"{call} is not understood: {given}")

    def _make(self, kind: str, folder: int, name: str, content: bytes = b"") -> int:
        number = len(self._now)
        self._now[number] = Node(kind, bytearray(content))
        self._do(Enter(folder, name, number))
        return number

    def _do(self, operation: Operation) -> None:
        apply(self._now, operation)
        self._operations.append(operation)

    def _place(self, path: str) -> tuple[int, str] | None:
        """A path's folder and name; None outside of what is watched."""
        inside = path.removeprefix(self._root + "/")
        if inside == path:
            return None
        *above, name = inside.split("/")
        number = ROOT
        for each in above:
            number = self._now[number].names[each]
        return number, name

    def _find(self, path: str) -> int | None:
        if path == self._root:
            return ROOT
        try:
            place = self._place(path)
        except KeyError:
            return None
        return None if place is None else self._now[place[0]].names.get(place[1])


def _text(path: str) -> str:
    return bytes.fromhex(path.replace("\\x", "")).decode()


def _add_mapped_writes(recording: Recording, root: Path) -> None:
    """Note what went through memory maps, which is no system call: page by page.

    It may reach the disk at any time since the file got its size, so it is noted there.

    Raises:
        Fault: the folder holds something else than was noted, whatever is mapped.
    """
    operations, places = recording.operations, {}
    noted = recording.whole()
    now = content_of(read_disk(root))
    if set(noted) != set(now):
        raise Fault(f"not noted: {sorted(set(noted) ^ set(now))}")
    nodes = {number: node.copy() for number, node in recording.nodes.items()}
    for operation in operations:
        apply(nodes, operation)
    for path, content in now.items():
        before = noted[path]
        if content == before:
            continue
        node = _node_at(nodes, path)
        sized = [
            n
            for n, each in enumerate(operations)
            if isinstance(each, Cut) and each.node == node
        ]
        if (
            content is None
            or before is None
            or len(content) != len(before)
            or not sized
        ):
            raise Fault(f"{path} is not what was noted")
        places[sized[-1] + 1] = [
            Write(node, at, content[at : at + _PAGE])
            for at in range(0, len(content), _PAGE)
            if content[at : at + _PAGE] != before[at : at + _PAGE]
        ]
    for place, writes in sorted(places.items(), reverse=True):
        operations[place:place] = writes
        for number, each in enumerate(operations):
            if isinstance(each, Sync) and each.reach > place:
                operations[number] = each._replace(reach=each.reach + len(writes))


def _node_at(nodes: dict[int, Node], path: str) -> int:
    number = ROOT
    for name in path.split("/"):
        number = nodes[number].names[name]
    return number
