"""What may happen to the files of a finished data set: a change of one, by a draw."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Rng = np.random.Generator
Damage = Callable[[Path, Rng], Path]  # of a folder; returns the file

_SPLITS = ("train", "test")


def _one(rng: Rng, paths: list[Path]) -> Path:
    return paths[int(rng.integers(len(paths)))]


def _file(suffix: str) -> Callable[[Path, Rng], Path]:
    def choose(folder: Path, rng: Rng) -> Path:
        return _one(rng, sorted(folder.glob(f"*{suffix}")))

    return choose


# ------------------------------------------------------------------------- any bytes


def flip_bits(content: bytearray, rng: Rng) -> bytes:
    """Change 1 to 8 of its bits."""
    for place in rng.integers(0, len(content), rng.integers(1, 9)).tolist():
        content[place] ^= 1 << int(rng.integers(8))
    return bytes(content)


def cut_short(content: bytearray, rng: Rng) -> bytes:
    """Leave off its end, or all of it."""
    return bytes(content[: int(rng.integers(len(content)))])


def splice(content: bytearray, rng: Rng) -> bytes:
    """Repeat or leave out a part of it, or write it over another."""
    a, b, c = sorted(rng.integers(0, len(content) + 1, 3).tolist())
    joined = [
        content[:c] + content[a:],
        content[:a] + content[b:],
        content[:b] + content[a : a + len(content) - b],
    ]
    return bytes(joined[int(rng.integers(3))])


def overwrite(content: bytearray, rng: Rng) -> bytes:
    """Put zeros or rubbish in the place of a part."""
    start = int(rng.integers(len(content)))
    size = min(int(rng.integers(1, 2000)), len(content) - start)
    filled = bytes(size) if rng.random() < 0.5 else rng.bytes(size)
    return bytes(content[:start] + filled + content[start + size :])


def append(content: bytearray, rng: Rng) -> bytes:
    """Let it go on."""
    return bytes(content) + rng.bytes(int(rng.integers(1, 2000)))


def empty(content: bytearray, rng: Rng) -> bytes:
    """Leave nothing of it."""
    return b""


def _of_bytes(
    choose: Callable[[Path, Rng], Path], change: Callable[[bytearray, Rng], bytes]
) -> Damage:
    def damage(folder: Path, rng: Rng) -> Path:
        path = choose(folder, rng)
        path.write_bytes(change(bytearray(path.read_bytes()), rng))
        return path

    return damage


def _remove(choose: Callable[[Path, Rng], Path]) -> Damage:
    def damage(folder: Path, rng: Rng) -> Path:
        path = choose(folder, rng)
        path.unlink()
        if rng.random() < 0.3:  # something else in its place
            path.mkdir()
        return path

    return damage


def _exchange(suffix: str) -> Damage:
    """Give two files each other's names."""

    def damage(folder: Path, rng: Rng) -> Path:
        paths = sorted(folder.glob(f"*{suffix}"))
        a, b = (paths[n] for n in rng.permutation(len(paths))[:2].tolist())
        content = a.read_bytes()
        a.write_bytes(b.read_bytes())
        b.write_bytes(content)
        return a

    return damage


# --------------------------------------------------------------------------- the tars


def change_grade(folder: Path, rng: Rng) -> Path:
    """Another grade beside an image."""
    path = _one(rng, sorted(folder.glob("*.tar")))
    content = bytearray(path.read_bytes())
    places = [
        place + 512
        for place in range(0, len(content), 512)
        if b".cls\0" in content[place : place + 100]
    ]
    place = places[int(rng.integers(len(places)))]
    content[place] = ord("0") + (content[place] - ord("0") + 1) % 5
    path.write_bytes(content)
    return path


# -------------------------------------------------------------------------- the index

Rows = list[dict[str, Any]]


def _odd(rng: Rng, column: str) -> Any:
    """A value that a column of the index should not hold."""
    if column in ("key", "patient", "eye", "sha256"):
        odd = ["", "../../x", "x" * 5000, "a\0b", "ÿ", "a b", "0" * 64, None]
    else:
        odd = [-1, 0, 1, 5, 7, 100, 512, 10**6, 10**12, (1 << 63) - 1, -(1 << 63), None]
    return odd[int(rng.integers(len(odd)))]


def _swap_values(rows: Rows, rng: Rng, column: str) -> None:
    a, b = rng.permutation(len(rows))[:2].tolist()
    rows[a][column], rows[b][column] = rows[b][column], rows[a][column]


def _edit_rows(change: Callable[[Rows, Rng], None]) -> Damage:
    def damage(folder: Path, rng: Rng) -> Path:
        path = folder / f"{_SPLITS[int(rng.integers(2))]}.parquet"
        table = pq.read_table(path)
        for _ in range(50):  # until something has changed that its type can hold
            rows = table.to_pylist()
            change(rows, rng)
            try:
                changed = pa.Table.from_pylist(rows, table.schema)
            except (pa.ArrowException, OverflowError, ValueError, TypeError):
                continue
            if not changed.equals(table):
                break
        pq.write_table(changed, path)
        return path

    return damage


def _swapped(column: str) -> Damage:
    return _edit_rows(lambda rows, rng: _swap_values(rows, rng, column))


def _odd_value(rows: Rows, rng: Rng) -> None:
    columns = sorted(rows[0])
    column = columns[int(rng.integers(len(columns)))]
    rows[int(rng.integers(len(rows)))][column] = _odd(rng, column)


def _other_label(rows: Rows, rng: Rng) -> None:
    row = rows[int(rng.integers(len(rows)))]
    row["label"] = (row["label"] + int(rng.integers(1, 5))) % 5


def _moved(rows: Rows, rng: Rng) -> None:
    row = rows[int(rng.integers(len(rows)))]
    row["offset"] += int(rng.choice([-1536, -512, -1, 1, 512, 1536]))


def _other_order(rows: Rows, rng: Rng) -> None:
    a, b = rng.permutation(len(rows))[:2].tolist()
    rows[a], rows[b] = rows[b], rows[a]


def _other_number_of_rows(rows: Rows, rng: Rng) -> None:
    place = int(rng.integers(len(rows)))
    if rng.random() < 0.5:
        del rows[place]
    else:
        rows.insert(place, dict(rows[place]))


def other_columns(folder: Path, rng: Rng) -> Path:
    """A column of another type, left out, twice, or one more."""
    path = folder / f"{_SPLITS[int(rng.integers(2))]}.parquet"
    table = pq.read_table(path)
    place = int(rng.integers(table.num_columns))
    name = table.column_names[place]
    kind = int(rng.integers(6))
    if kind == 0:
        table = table.remove_column(place)
    elif kind == 1:
        table = table.append_column(name, table[name])
    elif kind == 2:
        table = table.append_column("more", table[name])
    elif kind == 3:
        table = table.rename_columns(
            [f"{n}x" if n == name else n for n in table.schema.names]
        )
    else:
        make, other = _OTHER_TYPES[int(rng.integers(len(_OTHER_TYPES)))]
        values = [make(value) for value in table[name].to_pylist()]
        table = table.set_column(place, name, pa.array(values, other))
    pq.write_table(table, path)
    return path


_OTHER_TYPES: tuple[tuple[Callable[[Any], Any], pa.DataType], ...] = (
    (lambda value: float("nan") if isinstance(value, str) else value, pa.float64()),
    (lambda value: len(str(value)), pa.int64()),
    (lambda value: len(str(value)), pa.uint64()),
    (lambda value: bool(value), pa.bool_()),
    (str, pa.string()),
    (str, pa.large_string()),
    (lambda value: str(value).encode(), pa.binary()),
    (lambda value: [str(value)], pa.list_(pa.string())),
    (lambda value: None, pa.null()),
)


def write_anew(folder: Path, rng: Rng) -> Path:
    """The same rows, compressed in another way, as another program would save them."""
    path = folder / f"{_SPLITS[int(rng.integers(2))]}.parquet"
    pq.write_table(pq.read_table(path), path, compression="gzip", row_group_size=3)
    return path


# ---------------------------------------------------------------------- DALI's indices


def swap_offsets(folder: Path, rng: Rng) -> Path:
    """Two samples' places in a DALI index."""
    path = _one(rng, [p for p in sorted(folder.glob("*.idx")) if len(_lines(p)) > 2])
    lines = [line.split() for line in _lines(path)]
    a, b = (1 + rng.permutation(len(lines) - 1)[:2]).tolist()
    for place in (1, 2):
        lines[a][place], lines[b][place] = lines[b][place], lines[a][place]
    path.write_text("\n".join(map(" ".join, lines)) + "\n")
    return path


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def other_words(folder: Path, rng: Rng) -> Path:
    """A word of a DALI index in the place of another."""
    path = _one(rng, sorted(folder.glob("*.idx")))
    words = path.read_text().split(" ")
    odd = ["-1", "", "x", "9" * 50, "1e9", "\0", words[int(rng.integers(len(words)))]]
    words[int(rng.integers(len(words)))] = odd[int(rng.integers(len(odd)))]
    path.write_text(" ".join(words))
    return path


# ------------------------------------------------------------------------- the manifest

_RAW = {
    "many digits": "9" * 5000,
    "nan": "NaN",
    "infinity": "-Infinity",
    "large": "1e400",
    "deep": "[" * 100_000 + "]" * 100_000,
    "half a pair": '"\\ud800"',
    "control": '"\\u0000\\u001b[31m"',
}
_VALUES: tuple[Any, ...] = (
    *("7", "", "../../etc/passwd", "train-000000.tar", "0" * 64, "ÿ"),
    *(-1, 0, 1, 1.5, 10**30, None, True, [], {}, [[]], {"a": {}}),
    *_RAW,
)


def edit_manifest(folder: Path, rng: Rng) -> Path:
    """Another value, a key less, or one twice, somewhere in it."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    places = list(_places(manifest))
    holder, key = places[int(rng.integers(len(places)))]
    kind = float(rng.random())
    marker = "<here>"
    raw = ""
    if kind < 0.2:
        del holder[key]
    elif kind < 0.3 and isinstance(holder, dict):
        raw = f'{json.dumps(holder[key])}, "{key}": {json.dumps(_odd_json(rng))}'
        holder[key] = marker
    elif kind < 0.4 and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[key]))
    else:
        value = _odd_json(rng)
        raw = _RAW.get(value, "") if isinstance(value, str) else ""
        holder[key] = marker if raw else value
    text = json.dumps(manifest, indent=int(rng.integers(3)))
    path.write_text(text.replace(f'"{marker}"', raw) if raw else text)
    return path


def _odd_json(rng: Rng) -> Any:
    return _VALUES[int(rng.integers(len(_VALUES)))]


def _places(value: Any) -> Any:
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(pairs):
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from _places(inner)


def other_encoding(folder: Path, rng: Rng) -> Path:
    """In UTF-16, with a BOM, with a NUL, or larger than any."""
    path = folder / "manifest.json"
    text = path.read_text()
    kind = int(rng.integers(4))
    if kind == 3:
        os.truncate(path, 1 << 32)  # a hole: it takes no room
        return path
    path.write_bytes(
        [text.encode("utf-16"), text.encode("utf-8-sig"), b"\0" + text.encode()][kind]
    )
    return path


_ANY = {
    "flips": flip_bits,
    "cut": cut_short,
    "splices": splice,
    "overwritten": overwrite,
    "appended": append,
    "emptied": empty,
}
_SUFFIX = {"tar": ".tar", "index": ".parquet", "idx": ".idx", "manifest": "fest.json"}

# By kind of file and what is done to it.
DAMAGES: dict[str, Damage] = {
    **{
        f"{kind}: {name}": _of_bytes(_file(suffix), change)
        for name, change in _ANY.items()
        for kind, suffix in _SUFFIX.items()
    },
    **{f"{kind}: gone": _remove(_file(suffix)) for kind, suffix in _SUFFIX.items()},
    "tar: exchanged": _exchange(".tar"),
    "tar: grade": change_grade,
    "index: exchanged": _exchange(".parquet"),
    "index: labels swapped": _swapped("label"),
    "index: keys swapped": _swapped("key"),
    "index: offsets swapped": _swapped("offset"),
    "index: checksums swapped": _swapped("crc32c"),
    "index: another label": _edit_rows(_other_label),
    "index: moved": _edit_rows(_moved),
    "index: odd value": _edit_rows(_odd_value),
    "index: order": _edit_rows(_other_order),
    "index: number of rows": _edit_rows(_other_number_of_rows),
    "index: columns": other_columns,
    "index: written anew": write_anew,
    "idx: exchanged": _exchange(".idx"),
    "idx: offsets swapped": swap_offsets,
    "idx: words": other_words,
    "manifest: edited": edit_manifest,
    "manifest: edited again": edit_manifest,
    "manifest: encoding": other_encoding,
}
