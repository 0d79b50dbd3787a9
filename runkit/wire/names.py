"""Names people give: what they may look like, and which are runkit's own."""

from __future__ import annotations

import re

from runkit.errors import InvalidName

DEFAULT_ENV = "default"
"""The env that calls without an env run in."""

DEFAULT_PORT = 32300
"""The server's port on the host; the cluster's Ray takes the hundred above it."""

RESERVED = {
    "env": {"runkit", "base", "server"},
    "cluster": {"here", "local", "localhost"},
    "key": set(),
    "secret": set(),
}

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}")
_KEY = re.compile(r"[^\x00-\x1f\x7f]{1,200}")


def check_name(kind: str, name: object) -> str:
    """Give the name back if it is a good one for an "env", a "cluster", a "key" or a "secret".

    Raises:
        InvalidName: it is not a string, is malformed, or is reserved.
    """
    if not isinstance(name, str):
        raise InvalidName(f"the name of {_a(kind)} must be a string, not {type(name).__name__}: {name!r}")
    if kind == "key":
        if not _KEY.fullmatch(name) or name != name.strip():
            raise InvalidName(f"{name!r} cannot be a key: use 1 to 200 printable characters, no spaces at the ends")
        return name
    if not _NAME.fullmatch(name):
        raise InvalidName(
            f"{name!r} cannot be the name of {_a(kind)}: use letters, digits, '_', '-' and '.', "
            "starting with a letter, a digit or '_', at most 100 characters"
        )
    if name.lower() in RESERVED[kind]:
        raise InvalidName(f"{name!r} cannot be the name of {_a(kind)}: runkit uses it itself")
    return name


def _a(kind: str) -> str:
    return ("an " if kind[0] in "aeiou" else "a ") + kind
