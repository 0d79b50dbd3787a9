"""What an env is made of, exactly: packages, and the files they come in (PEP 751)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from runkit.client.conda_lock import CondaLock
from runkit.client.host_platform import Platform
from runkit.model.digest import digest
from runkit.model.git_package import GitPackage
from runkit.model.urls import without_credentials

PROJECT_NOTE = "project"
"""Beside a wheel that holds the metadata of an editable install alone: names the folder of its project."""


@dataclass(frozen=True)
class Artifact:
    """A wheel or a source distribution.

    Attributes:
        filename: its name, which tells what it is.
        sha256: of its bytes; empty where the index gave none.
        url: where it can be fetched from, or None.
        path: where it lies on this machine, or None.
        size: bytes, or None where unknown.
        tree: the digest of the source tree it is built from; "" for a file that comes as it is. Until it is built it has no
            `filename`, and `path` is the tree.
        source: where that tree can be had again, as a requirement line; "" for a folder of this machine.
        subdirectory: the folder of an archive that holds the package; "" where that is all of it.
        made_of: the source distribution that a wheel was built from, where it did not come as a wheel.
    """

    filename: str
    sha256: str
    url: str | None = None
    path: str | None = None
    size: int | None = None
    tree: str = ""
    source: str = ""
    subdirectory: str = ""
    made_of: Artifact | None = None

    @property
    def is_wheel(self) -> bool:
        return self.filename.endswith(".whl")

    def to_json(self) -> dict[str, Any]:
        """A value that `from_json` reads, without credentials and without paths of this machine."""
        url = without_credentials(self.url) if self.url else None
        return {**asdict(self), "url": url, "path": None, "made_of": self.made_of and self.made_of.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Artifact:
        """Read what `to_json` wrote."""
        made_of = value.get("made_of")
        return cls(**{**value, "made_of": cls.from_json(made_of) if made_of else None})


@dataclass(frozen=True)
class Locked:
    """One package of a lock: what is to be installed, as a wheel or from source."""

    name: str
    version: str
    artifact: Artifact


@dataclass(frozen=True)
class Lock:
    """What an env is made of, exactly.

    Attributes:
        python: the Python version it was resolved for.
        platform: uv's name of the platform it was resolved for.
        packages: those of pip's world, sorted by name.
        conda: the conda environment that they are added to; None for a venv.
    """

    python: str
    platform: str
    packages: tuple[Locked, ...]
    conda: CondaLock | None = None

    def fits(self, target: Platform) -> bool:
        """Whether it was made for a host and a Python minor version like this."""
        return self.platform == target.uv_platform and self.python.split(".")[:2] == target.python.split(".")[:2]

    @property
    def pairs(self) -> list[list[str]]:
        """Names and versions."""
        return [[package.name, package.version] for package in self.packages]

    @property
    def everything(self) -> list[list[str]]:
        """Names and versions, conda's packages among them."""
        return (self.conda.pairs if self.conda else []) + self.pairs

    @property
    def sources(self) -> list[Locked]:
        """The packages that have no wheel for the host."""
        return [p for p in self.packages if not p.artifact.is_wheel and not p.artifact.tree]

    @property
    def trees(self) -> list[Locked]:
        """The packages that are built from a source tree of this machine."""
        return [package for package in self.packages if package.artifact.tree]

    @property
    def digest(self) -> str:
        """Names the content: every file by its hash, not by where it comes from; every source tree by its own, as it is before
        and after it was built, and whoever built it."""
        packages = [
            [p.name, "tree", p.artifact.tree]
            if p.artifact.tree
            else [p.name, p.version, p.artifact.filename, p.artifact.sha256, *filter(None, [p.artifact.subdirectory])]
            for p in self.packages
        ]
        return digest([self.conda.digest, packages] if self.conda else packages)

    def with_artifacts(self, replaced: Mapping[str, Artifact]) -> Lock:
        """The lock with other files for some packages (by name)."""
        return replace(
            self,
            packages=tuple(
                replace(p, artifact=replaced[p.name], version=version_of(replaced[p.name], p.version))
                if p.name in replaced
                else p
                for p in self.packages
            ),
        )

    def text(self, shipped: frozenset[str] | set[str] = frozenset(), kept: Path | None = None) -> str:
        """The lock as a `pylock.toml` (PEP 751).

        Args:
            shipped: SHA-256 of the files that lie in the host's wheel store; they are named by their path in it.
            kept: this client's wheel store, for a lock that is not installed from at once: files that come from nowhere else are
                named by their path in that, what was built by the source distribution or the commit that it was built from, and the
                lock says which platform it is for.
        """
        minor = ".".join(self.python.split(".")[:2])
        out = ['lock-version = "1.0"', 'created-by = "runkit"', f'requires-python = ">={minor}"']
        if kept is not None:
            machine = self.platform.partition("-")[0]
            for_it = f"sys_platform == 'linux' and platform_machine == '{machine}' and python_version == '{minor}'"
            out.append(f"environments = [{quoted(for_it)}]")
        folder = f"{kept}/" if kept is not None else ""
        for package in self.packages:
            artifact = package.artifact
            if kept is not None and artifact.made_of and artifact.made_of.url:
                artifact = artifact.made_of
            at = (
                f"path = {quoted(f'{folder}{artifact.sha256}/{artifact.filename}')}"
                if artifact.sha256 in shipped or not artifact.url
                else f"url = {quoted(without_credentials(artifact.url))}"
            )
            hashes = f"hashes = {{ sha256 = {quoted(artifact.sha256)} }}"
            size = f", size = {artifact.size}" if artifact.size else ""
            if artifact.tree and not artifact.filename:
                out += ["", "[[packages]]", f"name = {quoted(package.name)}"]
                out.append(f"directory = {{ path = {quoted(artifact.path or '')} }}")
                continue
            entry = f"{{ name = {quoted(artifact.filename)}, {at}{size}, {hashes} }}"
            out += ["", "[[packages]]", f"name = {quoted(package.name)}"]
            if kept is not None and (project := _project(kept, artifact)):
                out.append(f"directory = {{ path = {quoted(project)}, editable = true }}")
                continue
            if package.version:
                out.append(f"version = {quoted(package.version)}")
            if kept is not None and artifact.source:
                out.append(_vcs(artifact.source))
                continue
            if at.startswith("url") and urlsplit(artifact.url or "").hostname == "files.pythonhosted.org":
                # With the index named, uv on the host finds what its cache has; without, it fetches again.
                out.append('index = "https://pypi.org/simple"')
            if artifact.subdirectory:
                out.append(f"archive = {{ {at}{size}, subdirectory = {quoted(artifact.subdirectory)}, {hashes} }}")
            else:
                out.append(f"wheels = [{entry}]" if artifact.is_wheel else f"sdist = {entry}")
        return "\n".join(out) + "\n"

    def to_json(self) -> dict[str, Any]:
        """A value that `from_json` reads, without credentials and without paths of this machine."""
        packages = [{"name": p.name, "version": p.version, "artifact": p.artifact.to_json()} for p in self.packages]
        found = {"python": self.python, "platform": self.platform, "packages": packages}
        return {**found, "conda": self.conda.to_json()} if self.conda else found

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Lock:
        """Read what `to_json` wrote."""
        packages = tuple(Locked(p["name"], p["version"], Artifact.from_json(p["artifact"])) for p in value["packages"])
        conda = CondaLock.from_json(value["conda"]) if value.get("conda") else None
        return cls(value["python"], value["platform"], packages, conda)


def _project(kept: Path, artifact: Artifact) -> str:
    """The folder of the editable install whose metadata a wheel holds; "" for any other wheel, and if the folder is gone."""
    if not artifact.sha256:
        return ""
    try:
        found = (kept / artifact.sha256 / PROJECT_NOTE).read_text(encoding="utf-8")
    except OSError:
        return ""
    return found if os.path.isdir(found) else ""


def _vcs(source: str) -> str:
    package = GitPackage.from_string(source)
    at = "path" if package.git_url.startswith("/") else "url"
    below = f", subdirectory = {quoted(package.subdirectory)}" if package.subdirectory else ""
    commit = quoted(package.revision or "")
    return f'vcs = {{ type = "git", {at} = {quoted(package.git_url)}, commit-id = {commit}{below} }}'


def quoted(text: str) -> str:
    """A TOML string: JSON's escapes are among TOML's."""
    return json.dumps(text, ensure_ascii=False)


def version_of(artifact: Artifact, stated: str) -> str:
    """The version a wheel's name tells; else what is stated."""
    if not artifact.is_wheel:
        return stated
    try:
        return str(parse_wheel_filename(artifact.filename)[1])
    except InvalidWheelFilename:
        return stated
