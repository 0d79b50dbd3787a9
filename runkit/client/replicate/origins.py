"""Where packages of the local environment were installed from, and whether that is still what was installed."""

from __future__ import annotations

import csv
import io
import os
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from runkit.client.manifest import max_root_bytes
from runkit.client.scan import Distribution, ImportRoot
from runkit.client.tree_copy import versioned_by_git
from runkit.errors import RootError, SyncRefused
from runkit.model import listing
from runkit.model.digest import file_digest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def local_path(direct_url: Mapping[str, Any]) -> str:
    """The folder or file that a `file:` address of a direct_url.json names."""
    path = unquote(urlsplit(direct_url["url"]).path)
    inside = direct_url.get("subdirectory") if "dir_info" in direct_url else None
    return os.path.join(path, inside) if inside else path


def gone(one: Distribution, place: str) -> SyncRefused:
    """The error for what was installed from a place that is not there any more."""
    # An index may have another package of this name: only the user knows whether it is the same.
    return SyncRefused(
        f"{one.name} {one.version}: it was installed from {place}, which is not there any more: ignore it, or say in the env's reqs "
        "where it comes from"
    )


def recorded(one: Distribution) -> dict[str, str]:
    """The installed files of a distribution that its RECORD has a SHA-256 for, as "sha256=…"; empty where it cannot be read."""
    try:
        with open(f"{one.info}/RECORD", encoding="utf-8", newline="") as record:
            return _rows(record)
    except (OSError, ValueError, csv.Error):
        return {}


def stated_version(folder: str) -> str:
    """The version that a project's pyproject.toml states; "" if it states none."""
    try:
        project = tomllib.loads(Path(folder, "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
    except (OSError, ValueError):
        return ""
    version = project.get("version", "")
    return version if isinstance(version, str) else ""


def is_other_file(one: Distribution, path: str) -> bool:
    """Whether a wheel or archive is another one by now than what was installed from it; False where nothing tells."""
    about = (one.direct_url or {}).get("archive_info") or {}
    old = str(about.get("hash", ""))  # as pip wrote it before it wrote `hashes`
    sha256 = about.get("hashes", {}).get("sha256") or (old[len("sha256=") :] if old.startswith("sha256=") else "")
    if sha256:
        return file_digest(path) != sha256
    if not path.endswith(".whl"):
        return False
    try:
        with zipfile.ZipFile(path) as wheel:
            name = next(name for name in wheel.namelist() if name.endswith(".dist-info/RECORD"))
            there = _rows(io.StringIO(wheel.read(name).decode(), newline=""))
    except (OSError, ValueError, StopIteration, csv.Error, zipfile.BadZipFile):
        return True
    here = recorded(one)
    return any(here.get(name, sha) != sha for name, sha in there.items())


def ignored_among(roots: Iterable[ImportRoot]) -> list[str]:
    """Files among the packages of synced folders that git ignores, so that they stay here; code first."""
    found: dict[str, None] = {}
    for root in roots:
        tree = root.tree or root.path
        sent = _sent(tree)
        for path in _below(root) if sent else ():
            if os.path.relpath(path, tree) not in sent:
                found.setdefault(path)
    return sorted(found, key=lambda path: (not path.endswith((".py", ".so")), path))


def ignored_of(one: Distribution, folder: str) -> list[str]:
    """Files of the folder a package was installed from that git ignores: the package has them here, and a build may lack them."""
    sent, found = _sent(folder), []
    of_git = versioned_by_git(Path(folder))
    for path in recorded(one) if sent else ():
        if of_git and "version" in os.path.basename(path):
            continue  # a build makes it anew
        for inside in (path, f"src/{path}"):
            if not path.startswith("..") and os.path.isfile(f"{folder}/{inside}"):
                found += [] if inside in sent else [f"{folder}/{inside}"]
                break
    return found


def _below(root: ImportRoot) -> Iterator[str]:
    for module in root.modules:
        if os.path.isfile(f"{root.path}/{module}.py"):
            yield f"{root.path}/{module}.py"
        if os.path.islink(f"{root.path}/{module}"):
            continue
        for folder, inside, files in os.walk(f"{root.path}/{module}"):
            inside[:] = [name for name in inside if name[:1] != "." and name != "__pycache__"]
            yield from (f"{folder}/{name}" for name in files if name[:1] != "." and not name.endswith(".pyc"))


def _sent(folder: str) -> set[str]:
    """What travels of a folder; empty where that is not known, which others tell."""
    try:
        found = listing.collect(folder, max_root_bytes())
    except RootError:
        return set()
    return {*found.files, *found.links}


def _rows(record: Iterable[str]) -> dict[str, str]:
    return {row[0]: row[1] for row in csv.reader(record) if len(row) > 1 and row[1].startswith("sha256=")}
