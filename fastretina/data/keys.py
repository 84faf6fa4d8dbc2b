"""The keys of samples: names that are legal in shards, and unique."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256

_KEY_LENGTH = 90  # with ".json" a USTAR name stays under 100 bytes


def assign_keys(names: Iterable[str]) -> dict[str, str]:
    """Give every name a key: legal in a shard, and another one for every other name.

    Whatever a key can't hold becomes ``-``. Names that fall together by that, or are
    longer than 90 characters, get ``-`` and 8 hexadecimal digits of their SHA-256, all
    of them, so a key depends on the set of names and not on their order.
    """
    plain = {name: re.sub(r"[^A-Za-z0-9_-]", "-", name) for name in names}
    digits = {
        name: 8 * (not key or len(key) > _KEY_LENGTH) for name, key in plain.items()
    }
    while True:
        keys = {name: _key(name, plain[name], digits[name]) for name in plain}
        uses = Counter(keys.values())
        clashing = [name for name, key in keys.items() if uses[key] > 1]
        if not clashing:
            return keys
        for name in clashing:  # a second round: a name spelt like another's key
            digits[name] += 8


def _key(name: str, plain: str, num_digits: int) -> str:
    if not num_digits:
        return plain
    digest = sha256(name.encode(errors="surrogatepass")).hexdigest()[:num_digits]
    return f"{plain[: _KEY_LENGTH - 1 - num_digits]}-{digest}"
