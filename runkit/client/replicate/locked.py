"""An env made of a lock: exactly the files that a `pylock.toml` (PEP 751) names, of `Env.lock` or of another tool."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.markers import InvalidMarker, Marker
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from runkit.client.git_requirements import package_of
from runkit.client.host_platform import Platform
from runkit.client.lock import Artifact, Lock, Locked, version_of
from runkit.client.progress import Report
from runkit.client.resolve import resolve
from runkit.client.trees import tree_digest
from runkit.client.wheels import WheelStore
from runkit.errors import ResolutionFailed, UsageError
from runkit.model.digest import file_digest
from runkit.model.requirements import FILE, GIT, TREE, Requirements
from runkit.model.urls import without_credentials
from runkit.wire import places

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class _Entry:
    """One of the lock's packages, read and checked.

    Attributes:
        line: what asks for it, for the request and for an env that has other packages too.
        local: the digest of the file or source tree that the line names, and where that lies.
        artifacts: its files; none for a source tree or a commit.
    """

    name: str
    version: str
    line: str
    marker: Marker | None
    requires_python: str
    local: tuple[str, str] | None
    artifacts: tuple[Artifact, ...]


class FromLock:
    """Gives the packages of a lock file as they are; stands in for `resolve`.

    Args:
        path: the lock file.
        alone: whether the env has these packages and no others.

    Attributes:
        requirements: what asks for the packages.

    Raises:
        UsageError: it is no lock, of a version that is not known here, or has a file without a SHA-256.
    """

    def __init__(self, path: str | Path, alone: bool = True) -> None:
        self._path = Path(path)
        self._alone = alone
        self.progress: Report = lambda event: None
        self._content = _read(self._path)
        self._entries = [self._entry(package) for package in self._content.get("packages", [])]
        local = [(entry.line, entry.local) for entry in self._entries if entry.local]
        self.requirements = Requirements(
            tuple(entry.line for entry in self._entries),
            files=dict(place for line, place in local if line.startswith(FILE)),
            origins=(str(self._path),) * len(self._entries),
            trees=dict(place for line, place in local if line.startswith(TREE)),
            gits={entry.line: package for entry in self._entries if (package := package_of(entry.line))},
        )

    def __call__(self, requirements: Requirements, target: Platform, **options: Any) -> Lock:
        """The files for a platform; arguments as for `resolve`.

        Raises:
            UsageError: the lock is not for that platform or Python.
            ResolutionFailed: it has no file of a package that fits.
        """
        self._check(target)
        if not self._alone:
            return resolve(requirements, target, **options)
        chosen: dict[str, _Entry] = {}
        for entry in self._entries:
            if entry.marker is not None and not self._applies(entry.marker, target):
                continue
            if entry.name in chosen:
                raise UsageError(f"{self._path} has {entry.name} twice for {_shown(target)}")
            chosen[entry.name] = entry
            _check_python(f"{entry.name} {entry.version}".strip(), entry.requires_python, target)
        packages = [_locked(entry, target) for entry in chosen.values() if entry.artifacts]
        if sources := [entry for entry in chosen.values() if not entry.artifacts]:
            asked = replace(
                requirements,
                lines=tuple(entry.line for entry in sources),
                origins=(str(self._path),) * len(sources),
            )
            packages += resolve(asked, target, **{**options, "options": ("--no-deps",)}).packages
        return Lock(target.python, target.uv_platform, tuple(sorted(packages, key=lambda package: package.name)))

    def _check(self, target: Platform) -> None:
        _check_python(str(self._path), self._content.get("requires-python", ""), target)
        markers = [_marker(text, str(self._path)) for text in self._content.get("environments", [])]
        if markers and not any(self._applies(marker, target) for marker in markers):
            listed = "; ".join(self._content["environments"])
            raise UsageError(f"{self._path} is not for {_shown(target)}: it was made for {listed}")

    def _applies(self, marker: Marker, target: Platform) -> bool:
        environment: dict[str, Any] = dict(target.marker_environment())
        environment["extras"] = set()
        environment["dependency_groups"] = set(self._content.get("default-groups", []))
        return marker.evaluate(environment, context="lock_file")

    def _entry(self, package: Mapping[str, Any]) -> _Entry:
        try:
            name, version = str(canonicalize_name(package["name"])), str(package.get("version", ""))
        except (KeyError, TypeError):
            raise UsageError(f"{self._path} has a package without a name") from None
        marker = package.get("marker")
        local, artifacts = None, tuple(self._artifacts(name, package))
        if "vcs" in package or "directory" in package:
            artifacts = ()
            line, local = self._source(name, package)
        elif placed := next((one for one in artifacts if one.path and not one.url), None):
            line, local = f"{FILE}{placed.sha256}/{placed.filename}", (placed.sha256, str(placed.path))
        elif "archive" in package:
            below = f"&subdirectory={artifacts[0].subdirectory}" if artifacts[0].subdirectory else ""
            line = f"{name} @ {artifacts[0].url}#sha256={artifacts[0].sha256}{below}"
        elif artifacts and version:
            line = f"{name}=={version}"
        else:
            raise UsageError(f"{self._path} names no file of {name}")
        line += f" ; {marker}" if marker else ""
        if line.startswith(f"{name}=="):
            line += "".join(f" --hash=sha256:{one.sha256}" for one in artifacts)
        found = _marker(marker, f"{self._path}, package {name}") if marker else None
        return _Entry(name, version, line, found, package.get("requires-python", ""), local, artifacts)

    def _artifacts(self, name: str, package: Mapping[str, Any]) -> Iterator[Artifact]:
        files = [*package.get("wheels", []), *(package[kind] for kind in ("sdist", "archive") if kind in package)]
        for file in files:
            sha256 = file.get("hashes", {}).get("sha256", "").lower()
            if not sha256:
                raise UsageError(
                    f"{self._path} gives no SHA-256 for a file of {name}, so nobody can tell whether it is that"
                )
            url, path = file.get("url"), file.get("path")
            if url and url.startswith("file:"):
                url, path = None, unquote(urlsplit(url).path)
            filename = file.get("name") or unquote(str(path or urlsplit(url or "").path).rpartition("/")[2])
            place = self._place(filename, sha256, path) if path else None
            below = file.get("subdirectory") or ""
            yield Artifact(filename, sha256, url, place, file.get("size"), subdirectory=below)

    def _place(self, filename: str, sha256: str, path: str) -> str:
        """Where a file lies that the lock names by its path: there, or where this client keeps what it built."""
        found = (self._path.parent / path).absolute()
        if found.is_file() and file_digest(found) == sha256:
            return str(found)
        if kept := WheelStore(places.home() / "wheels").find(Artifact(filename, sha256)):
            return str(kept)
        what = "is another file than it was" if found.is_file() else "is not on this machine"
        raise UsageError(f"{self._path} names {found}, which {what}")

    def _source(self, name: str, package: Mapping[str, Any]) -> tuple[str, tuple[str, str] | None]:
        if found := package.get("directory"):
            folder = (self._path.parent / found.get("path", ".") / found.get("subdirectory", "")).resolve()
            if not folder.is_dir():
                raise UsageError(f"{self._path}: {name} is the folder {folder}, which is not there")
            tree = tree_digest(folder)
            return f"{TREE}{tree}/{name}", (tree, str(folder))
        found = package["vcs"]
        where = found.get("url") or found.get("path")
        if found.get("type") != "git" or not found.get("commit-id") or not where:
            raise UsageError(f"{self._path}: {name} is no commit of a git repository")
        below = f"#subdirectory={found['subdirectory']}" if found.get("subdirectory") else ""
        return f"{GIT}{found['commit-id']}/{name} @ {without_credentials(where)}{below}", None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"the lock {path} cannot be read: {error}") from error
    version = content.get("lock-version")
    if not isinstance(version, str) or version.split(".")[0] != "1":
        said = f"of version {version!r}, which is not known here" if version else "no pylock.toml (PEP 751)"
        raise UsageError(f"{path} is {said}")
    return content


def _locked(entry: _Entry, target: Platform) -> Locked:
    by_name = {artifact.filename: artifact for artifact in entry.artifacts}
    best = target.best([artifact.filename for artifact in entry.artifacts if artifact.is_wheel])
    sources = [artifact for artifact in entry.artifacts if not artifact.is_wheel]
    if not best and not sources:
        raise ResolutionFailed(f"the lock has no file of {entry.name} {entry.version} for {_shown(target)}")
    artifact = by_name[best] if best else sources[0]
    return Locked(entry.name, version_of(artifact, entry.version), artifact)


def _marker(text: str, where: str) -> Marker:
    try:
        return Marker(text)
    except InvalidMarker as error:
        raise UsageError(f"{where}: {text!r} is no environment marker: {error}") from error


def _check_python(what: str, specifier: str, target: Platform) -> None:
    try:
        allowed = SpecifierSet(specifier)
    except InvalidSpecifier as error:
        raise UsageError(f"{what}: {specifier!r} says nothing about a Python") from error
    if not allowed.contains(Version(target.marker_environment()["python_full_version"]), prereleases=True):
        raise UsageError(f"{what} is for Python {specifier}, and the env has Python {target.python}: see env(python=)")


def _shown(target: Platform) -> str:
    return f"Python {target.python} on Linux {target.machine}"
