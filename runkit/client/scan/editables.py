"""Where the code of an editable install is imported from.

Every build backend has a way of its own: a line with a path in a .pth file, a finder that the .pth file imports, a tree of
links, a link in site-packages. What is wanted is the same in all of them: folders for `sys.path`, and for what no such folder
can give, the file or folder of each import name.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from runkit.client.scan.records import whole

# setuptools; the `editables` library, which hatch and pdm use; scikit-build-core, whose first argument is name -> file; meson-python,
# which has the names alone: the files come from a build folder.
_MAPPING = r"(?m)^MAPPING\b[^=\n]*=\s*(\{.*\})\s*$"
_MAP_MODULE = r"""\bmap_module\(\s*(['"][^'"\n]+['"])\s*,\s*(['"].+['"])\s*\)"""
_INSTALL = r"(?m)^install\((\{.*\}),"
_MESON = r"\bMesonpyMetaFinder\(\s*(?:'[^'\n]*',\s*)?(\{[^{}]*\})"
LINKS = "__editable__."
"""How the folder of links is called that setuptools' strict mode makes."""
_LAYOUTS = ("src", "", "python", "lib", "source")


class Places(NamedTuple):
    """Folders for `sys.path`, in order, and import name -> file or folder for what they cannot give."""

    roots: tuple[str, ...]
    mapping: dict[str, str]


def places(site: str, info: str, project: str) -> Places:
    """Those of one editable install.

    Args:
        site: the folder its .dist-info lies in.
        info: the .dist-info.
        project: its project's folder, with links resolved.
    """
    roots: dict[str, None] = {}
    mapping: dict[str, str] = {}
    installed = [line.partition(",")[0].strip('"') for line in whole(f"{info}/RECORD").splitlines()]
    for name in installed:
        if name.endswith(".pth"):
            paths, modules = lines(f"{site}/{name}")
            for path in (os.path.join(site, one) for one in paths):
                _add_path(path, roots, mapping)
            for module in modules:
                finder = whole(f"{site}/{module}.py")
                found = dict(mapped(finder))
                for imported, place in found.items():
                    _add_module(imported, place, roots, mapping)
                for imported in () if found else _meson(finder):
                    _guess(imported, project, roots)
    for name in {one.partition("/")[0] for one in installed}:  # `flit install --symlink`
        if name and name != ".." and os.path.islink(place := f"{site}/{name}"):
            _add_module(name.partition(".")[0], os.path.realpath(place), roots, mapping)
    if not roots and not mapping:  # a finder nobody here knows, no RECORD, or one that says nothing
        names = whole(f"{info}/top_level.txt").split() or [os.path.basename(info).partition("-")[0]]
        for imported in names:
            _guess(imported, project, roots)
        if not roots:
            roots[f"{project}/src" if os.path.isdir(f"{project}/src") else project] = None
    return Places(tuple(roots), {name: place for name, place in mapping.items() if not _implied(name, place, mapping)})


def lines(path: str) -> tuple[list[str], list[str]]:
    """A .pth file's paths, and the modules that it imports, each as it is written there."""
    paths, modules = [], []
    for line in whole(path).splitlines():
        if line.startswith(("import ", "import\t")):
            modules.append(re.split(r"[\s;,.]", line[7:].strip(), maxsplit=1)[0])
        elif line.strip() and not line.startswith("#"):
            paths.append(line.strip())
    return paths, modules


def mapped(finder: str) -> Iterator[tuple[str, str]]:
    """Import names and their files or folders, as the source text of a known kind of finder has them."""
    for pattern in (_MAPPING, _INSTALL):
        for match in re.finditer(pattern, finder):
            yield from _dictionary(match[1])
    for match in re.finditer(_MAP_MODULE, finder):
        try:
            name, place = ast.literal_eval(match[1]), ast.literal_eval(match[2])
        except (ValueError, SyntaxError):
            continue
        yield name, place


def _dictionary(text: str) -> Iterable[tuple[str, str]]:
    """The first dictionary that a text begins with."""
    end = 0
    while (end := text.find("}", end) + 1) > 0:
        try:
            found = ast.literal_eval(text[:end])
        except (ValueError, SyntaxError):
            continue
        return (
            [pair for pair in found.items() if all(isinstance(one, str) for one in pair)]
            if isinstance(found, dict)
            else []
        )
    return []


def _meson(finder: str) -> list[str]:
    match = re.search(_MESON, finder)
    try:
        return sorted(one for one in ast.literal_eval(match[1]) if isinstance(one, str)) if match else []
    except (ValueError, SyntaxError):
        return []


def _add_path(path: str, roots: dict[str, None], mapping: dict[str, str]) -> None:
    """A folder from a .pth file. setuptools' strict mode names a tree of links there: what counts is what they lead to."""
    if not os.path.basename(path).startswith(LINKS):
        roots.setdefault(os.path.realpath(path))
        return
    try:
        entries = sorted(os.listdir(path))
    except OSError:
        return
    for entry in entries:
        inside = _first_link(f"{path}/{entry}")
        if inside is None:
            roots.setdefault(os.path.realpath(path))  # hard links: they lead nowhere
            continue
        relative = os.path.relpath(inside, path)
        target = os.path.realpath(inside)
        if target.endswith(f"/{relative}"):
            roots.setdefault(target[: -len(relative) - 1])
        else:
            depth = relative.count("/")
            place = target
            for _ in range(depth):
                place = os.path.dirname(place)
            mapping[entry.partition(".")[0]] = place


def _first_link(path: str) -> str | None:
    if os.path.islink(path):
        return path
    for folder, _, files in os.walk(path):
        for name in sorted(files):
            if os.path.islink(f"{folder}/{name}"):
                return f"{folder}/{name}"
    return None


def _add_module(name: str, place: str, roots: dict[str, None], mapping: dict[str, str]) -> None:
    """`pkg.sub` -> /proj/src/pkg/sub gives the root /proj/src; with another name at its end it stays a mapping."""
    place = os.path.realpath(place)
    if os.path.basename(place) == "__init__.py":
        place = os.path.dirname(place)
    tail = "/" + name.replace(".", "/")
    bare = (
        place if os.path.isdir(place) else re.sub(r"\.[^/]*$", "", place)
    )  # pkg.py, pkg.cpython-312-x86_64-linux-gnu.so
    if bare.endswith(tail):
        roots.setdefault(bare[: -len(tail)])
    else:
        mapping[name] = place if os.path.exists(place) else f"{place}.py" if os.path.exists(f"{place}.py") else place


def _guess(name: str, project: str, roots: dict[str, None]) -> None:
    """Look for an import name where projects have it."""
    for layout in _LAYOUTS:
        folder = f"{project}/{layout}".rstrip("/")
        if os.path.isdir(f"{folder}/{name}") or os.path.exists(f"{folder}/{name}.py"):
            roots.setdefault(folder)
            return


def _implied(name: str, place: str, mapping: dict[str, str]) -> bool:
    """Whether it comes with its parent: `pkg.sub` in the folder of `pkg`."""
    parent, _, child = name.rpartition(".")
    return parent in mapping and place == f"{mapping[parent]}/{child}"
