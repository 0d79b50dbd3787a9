"""The entries of `sys.path`: which are the interpreter's, which hold installed packages, and which code of the user's own."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple

_INSTALLED = ("site-packages", "dist-packages")
_MANY = 10_000  # entries of one folder that are looked at; a folder of data may hold millions
_DEEP = 3
_SPACES = 300  # folders that are looked through for what is in a namespace package
_NO_PACKAGE = frozenset(("__pycache__", "node_modules", "build", "dist"))
_ENDINGS = (".py", ".so", ".pyd")


class Entry(NamedTuple):
    """An entry of `sys.path`.

    Attributes:
        path: absolute.
        real: with links resolved.
        role: "installed" (site-packages and the like), "egg", or "code".
    """

    path: str
    real: str
    role: Literal["installed", "egg", "code"]


def entries(facts: dict[str, Any]) -> list[Entry]:
    """What `sys.path` holds besides the standard library, each real place once.

    The folder of scripts at its front means that a launcher (`pytest`, `jupyter`, `runkit`) runs: nobody's code is
    imported from there, the working directory counts in its place, as for `python` itself.
    """
    here = facts["cwd"]
    installed = {os.path.realpath(one) for one in facts["site"]}
    version = ".".join(facts["python"].split(".")[:2])
    libraries = [facts["stdlib"], *(f"{facts['base']}/{lib}/python{version}" for lib in ("lib", "lib64"))]
    standard = tuple({os.path.realpath(one) for one in libraries})
    scripts = {os.path.realpath(os.path.dirname(facts["executable"])), os.path.realpath(f"{facts['prefix']}/bin")}
    found: dict[str, Entry] = {}
    for given in facts["path"]:
        if not given and not here:
            continue
        path = os.path.normpath(os.path.join(here, given)) if here or os.path.isabs(given) else ""
        real = os.path.realpath(path)
        if real in scripts and not found and here:
            path, real = here, os.path.realpath(here)
        if not path or real in found or real in scripts or not os.path.exists(real):
            continue
        parts = path.split(os.sep)
        role: Literal["installed", "egg", "code"]
        if real in installed or parts[-1] in _INSTALLED:
            role = "installed"
        elif any(name in parts for name in _INSTALLED):
            if not path.endswith(".egg"):
                continue  # a folder of some package: pywin32 puts one there, setuptools its copies of others
            role = "egg"
        elif real in standard or os.path.dirname(real) in standard or re.fullmatch(r"python\d+\.zip", parts[-1]):
            continue
        else:
            role = "egg" if path.endswith(".egg") else "code"
        found[real] = Entry(path, real, role)
    return list(found.values())


def modules(path: str) -> tuple[str, ...]:
    """The top-level names that can be imported from a folder or zip file, sorted."""
    if not os.path.isdir(path):
        return _zipped(path)
    found = set()
    left = [_SPACES]
    try:
        with os.scandir(path) as listed:
            for entry in islice(listed, _MANY):
                name = entry.name
                if name.endswith(_ENDINGS):
                    name = name.partition(".")[0]
                    if name.isidentifier() and name != "setup":
                        found.add(name)
                elif name.isidentifier() and name not in _NO_PACKAGE and entry.is_dir() and _package(entry.path, left):
                    found.add(name)
    except OSError:
        pass
    return tuple(sorted(found))


def _package(folder: str, left: list[int], deep: int = _DEEP) -> bool:
    """Whether something in it can be imported: it is a package, or a namespace that leads to one.

    `left` holds how many more folders may be looked into for that.
    """
    inner = []
    try:
        with os.scandir(folder) as listed:
            for entry in islice(listed, _MANY):
                name = entry.name
                if name.endswith(_ENDINGS):
                    return True
                if name in ("pyvenv.cfg", "conda-meta"):  # an environment that lies in the project
                    return False
                if name.isidentifier() and name not in _NO_PACKAGE and entry.is_dir(follow_symlinks=False):
                    inner.append(entry.path)
    except OSError:
        return False
    for one in inner if deep else ():
        left[0] -= 1
        if left[0] < 0:
            return False
        if _package(one, left, deep - 1):
            return True
    return False


def _zipped(path: str) -> tuple[str, ...]:
    import zipfile  # noqa: PLC0415  (rare, and not light)

    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return ()
    found = set()
    for name in names:
        head, slash, rest = name.partition("/")
        if not slash and head.endswith(_ENDINGS):
            found.add(head.partition(".")[0])
        elif slash and rest.endswith(_ENDINGS) and head.isidentifier():
            found.add(head)
    return tuple(sorted(found - {"setup"}))


def recorded(record: str) -> Iterator[str]:
    """The top-level names that a RECORD's text lists."""
    for line in record.splitlines():
        head, slash, _ = line.partition(",")[0].strip('"').partition("/")
        yield head if slash else head.partition(".")[0]


def owned_by_runkit(path: str, names: Sequence[str]) -> bool:
    """Whether a folder is runkit's own: it travels by itself, as the very version that runs here."""
    if "runkit" not in names or not os.path.isfile(f"{path}/runkit/client/scan/__init__.py"):
        return False
    if list(names) == ["runkit"]:
        return True
    try:
        with open(f"{path}/pyproject.toml", encoding="utf-8", errors="replace") as file:
            return re.search(r'(?m)^name\s*=\s*"runkit"', file.read()) is not None
    except OSError:
        return False
