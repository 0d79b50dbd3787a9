"""Which folders are the root of a project, and which can never be one."""

from __future__ import annotations

import os
from pathlib import Path

MARKERS = (".git", "setup.py", "setup.cfg", "pyproject.toml", "requirements.txt")


def enclosing(folder: str | os.PathLike[str]) -> Path | None:
    """The first folder upwards, beginning with `folder`, that holds a marker; None if there is none that counts."""
    path = Path(os.path.abspath(folder))
    for place in (path, *path.parents):
        if unfit(place):
            return None
        if any(os.path.lexists(place / marker) for marker in MARKERS):
            return place
    return None


def unfit(folder: str | os.PathLike[str]) -> str | None:
    """What a folder is that can never be a root; None for one that can."""
    path = os.path.realpath(folder)
    if path == "/":
        return "the whole file system"
    temporary = {os.environ.get(name) or "/tmp" for name in ("TMPDIR", "TEMP", "TMP")} | {"/tmp", "/var/tmp"}
    if path in map(os.path.realpath, temporary):
        return "the folder for temporary files"
    if path == os.path.realpath(os.path.expanduser("~")):
        return "your home folder"
    if os.path.dirname(path) in ("/home", "/Users") or path == "/root":
        return "a home folder"
    return None
