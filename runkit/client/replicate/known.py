"""What spares a resolution: whether the local environment agrees with itself, and the files that its versions are known to come in."""

from __future__ import annotations

import functools
import json
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from runkit.client.host_platform import Platform
from runkit.client.lock import Artifact, Locked
from runkit.client.resolve import CACHE_SECONDS
from runkit.model.digest import digest, file_digest

_OF_AN_EXTRA = re.compile(r""";.*\bextra\s*==\s*["']""")


def consistent(versions: Mapping[str, str], requires: Mapping[str, Sequence[str]], target: Platform) -> bool:
    """Whether packages in these versions have all that they need on the target, in versions that suit them.

    Args:
        versions: by normalised name.
        requires: their Requires-Dist lines, by normalised name.
        target: the platform that markers are evaluated for.
    """
    environment = target.marker_environment()
    todo: list[tuple[str, tuple[str, ...]]] = [(name, ()) for name in versions]
    seen = set(todo)
    while todo:
        name, extras = todo.pop()
        for line in requires.get(name, ()):
            if not extras and _OF_AN_EXTRA.search(line) and " or " not in line:
                continue
            if (needed := _parsed(line)) is None:
                return False
            marker = needed.marker
            if marker is not None and not any(marker.evaluate({**environment, "extra": one}) for one in ("", *extras)):
                continue
            other = str(canonicalize_name(needed.name))
            try:
                if other not in versions or not needed.specifier.contains(Version(versions[other]), prereleases=True):
                    return False
            except InvalidVersion:
                return False
            entry = (other, tuple(sorted(needed.extras)))
            if needed.extras and entry not in seen:
                seen.add(entry)
                todo.append(entry)
    return True


@functools.lru_cache(maxsize=20_000)
def _parsed(line: str) -> Requirement | None:
    try:
        return Requirement(line)
    except InvalidRequirement:
        return None


def _is_there(artifact: Artifact) -> bool:
    """Whether a file of this machine is still what it was."""
    try:
        return artifact.path is not None and file_digest(artifact.path) == artifact.sha256
    except OSError:
        return False


class Pins:
    """The files that versions of packages come in on one platform, as resolutions of the last day said.

    Args:
        folder: keeps them; None: nothing is known and nothing kept.
        target: the platform.
        settings: what else decides which file it is: indexes, options.
    """

    def __init__(self, folder: Path | None, target: Platform, settings: Iterable[str]) -> None:
        where = digest([target.uv_platform, target.python_tag, *settings])
        self._path = folder / f"pins-{where}.json" if folder is not None else None
        self._known: dict[str, tuple[float, dict[str, object]]] = {}
        try:
            kept = json.loads(self._path.read_bytes()) if self._path is not None else {}
            oldest = time.time() - CACHE_SECONDS
            self._known = {line: (when, file) for line, (when, file) in kept.items() if when > oldest}
        except (OSError, ValueError, TypeError, AttributeError):
            pass  # whatever is wrong with it, it is made anew

    def find(self, line: str) -> Locked | None:
        """What a line `name==version` comes to, if that is known and still to be had."""
        if line not in self._known:
            return None
        try:
            artifact = Artifact(**self._known[line][1])  # type: ignore[arg-type]  # what asdict() made of one
        except TypeError:
            return None
        if not artifact.url and not _is_there(artifact):
            return None
        name, _, version = line.partition("==")
        return Locked(name, version, artifact)

    def keep(self, packages: Iterable[Locked]) -> None:
        """Note what a resolution found."""
        if self._path is None:
            return
        now = time.time()
        for package in packages:
            artifact = package.artifact
            if artifact.sha256 and not artifact.tree and (artifact.url or artifact.path):
                self._known[f"{package.name}=={package.version}"] = (now, asdict(artifact))
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = self._path.with_suffix(f".{os.urandom(8).hex()}.partial")
        partial.write_text(json.dumps(self._known))
        partial.replace(self._path)
