"""Text, JSON and bytes as strangers write them: what is odd, cut off or of a kind."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np

Rng = np.random.Generator

# Values where a reader expects another: of every kind, and beyond what is sensible.
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 10**9, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e308),
    *(float("nan"), float("inf"), "", "0", "../../etc/passwd", "/etc/passwd", "\x00"),
    *(
        "\ud800",
        "<script>alert(1)</script>",
        "\x1b[31m\n",
        "=1+1",
        "http://127.0.0.1:9",
    ),
    *("a" * 100_000, [], [[]], {}, {"": None}, [None], [1, 2], [1e400], {"a": {}}),
)


def pick(rng: Rng, options: Any) -> Any:
    """One of them."""
    return options[int(rng.integers(len(options)))]


class Bait:
    """Makes a file where it is unpickled, which nothing may do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def baits(path: Path) -> list[bytes]:
    """Pickles that make this file, by protocol."""
    return [pickle.dumps({"a": Bait(path)}, protocol) for protocol in (0, 2, 4)]


def odd_json(rng: Rng, content: bytes) -> bytes:
    """A JSON text with one value, or the whole of it, otherwise."""
    kind = int(rng.integers(9))
    if kind == 0:
        depth = int(rng.integers(1000, 200_000))
        return pick(rng, (b"[", b'{"a":')) * depth
    if kind == 1:
        return odd_bytes(rng, content)
    if kind == 2:
        return content.decode().encode(pick(rng, ("utf-16", "utf-8-sig", "utf-32")))
    if kind == 3:
        return json.dumps(pick(rng, VALUES)).encode()
    tree = json.loads(content)
    owner, key = _place(rng, tree)
    if kind == 4:
        del owner[key]
    elif kind == 5 and isinstance(owner, dict):
        owner[pick(rng, ("", "odd", "__class__", "a" * 1000))] = pick(rng, VALUES)
    else:
        owner[key] = pick(rng, VALUES)
    text = json.dumps(tree)
    if kind == 6:  # a number of so many digits that Python won't read it
        text = text.replace(": 1", f": {'1' * 5000}", 1)
    return text.encode()


def _place(rng: Rng, tree: Any) -> tuple[Any, Any]:
    """A place in a tree: its owner, and its key there."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        pairs = node.items() if isinstance(node, dict) else enumerate(node)
        for key, child in list(pairs)[:200]:
            places.append((node, key))
            if isinstance(child, dict | list):
                walk(child)

    walk(tree)
    return pick(rng, places) if places else (tree, 0)


def odd_bytes(rng: Rng, content: bytes) -> bytes:
    """Bytes with a few of them changed, cut off, doubled, or others between."""
    kind, size = int(rng.integers(7)), max(len(content), 1)
    first, last = sorted(int(n) for n in rng.integers(0, size + 1, 2))
    if kind == 0:
        changed = bytearray(content)
        for _ in range(int(rng.integers(1, 9))):
            if changed:
                changed[int(rng.integers(len(changed)))] ^= 1 << int(rng.integers(8))
        return bytes(changed)
    if kind == 1:
        return content[:first]
    if kind == 2:
        return content[:first] + content[last:]
    if kind == 3:
        return content[:last] + content[first:]
    if kind == 4:
        return content[:first] + rng.bytes(int(rng.integers(1, 64))) + content[first:]
    if kind == 5:
        return content[:first] + bytes(last - first) + content[last:]
    return pick(rng, (b"", b"\n", b"\x00" * 100, rng.bytes(1000), b"\xff\xfe", b"PK"))
