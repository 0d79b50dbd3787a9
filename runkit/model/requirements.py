"""The content of requirements: files read, nested ones included, so that what remains means the same anywhere.

The format is pip's (https://pip.pypa.io/en/stable/reference/requirements-file-format/). Lines are given on unchanged: what they
mean is uv's to say. Only what points into this machine's file system is replaced by its content.
"""

from __future__ import annotations

import codecs
import hashlib
import platform
import re
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.markers import InvalidMarker, Marker
from packaging.requirements import InvalidRequirement, Requirement

from runkit.errors import UsageError
from runkit.model import storage
from runkit.model.digest import digest, file_digest
from runkit.model.git_package import GitPackage, is_git
from runkit.model.package import DISTRIBUTIONS, Package, anchored, is_path, refuse_unencoded_login, split_path
from runkit.model.urls import expanded, unseen, without_credentials

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_OPTION = re.compile(
    r"(?P<name>--requirement|--constraint|--editable|--find-links|--index-url|--extra-index-url|-r|-c|-e|-f|-i)"
    r"(?:\s*=\s*|\s+|(?<=^-[rcefi]))(?P<value>\S.*)"
)
_LOCAL_URL = re.compile(r"(?P<name>[^\s@/]+?)\s*@\s*(?P<path>(?:file:)?(?!\w+(?:\+\w+)?://)\S.*)", re.DOTALL)
HASH = re.compile(r"\s--hash[=\s]\s*(\w+):([0-9A-Fa-f]+)")
"""A hash that a line allows: its kind and its value."""

_HASHES = {kind for kind in hashlib.algorithms_guaranteed if not kind.startswith("shake")}
FILE = "@file/"
"""A line that starts so names a file of this machine by its content: `@file/<sha256>/<file name>[extras] ; marker`."""

TREE = "@tree/"
"""A line that starts so names a source tree of this machine, to be built: `@tree/<digest>/<distribution>[extras] ; marker`."""
GIT = "@git/"
"""A line that starts so names a commit of a git repository: `@git/<commit>/<distribution>[extras] @ <url>[#subdirectory=…] ; marker`.
With `local:` or `reqs:` before the distribution nothing is installed for it; what it asks for is in further lines."""


@dataclass(frozen=True)
class Requirements:
    """Requirements that stand on their own.

    Attributes:
        lines: what is asked for, as lines of a requirements file.
        constraints: lines that limit versions without asking for anything.
        folders: absolute paths of local folders that are to be importable.
        files: sha256 to absolute path of the wheels and source distributions that `lines` names by content.
        trees: digest to absolute path of the source trees that `lines` names, or of what was built of them.
        gits: for each of `lines` that names a package from git, that package.
        limits: for each of `constraints`, as far as it is known, where the user wrote it.
        origins: for each of `lines`, where the user wrote it.
        notes: what the user should hear about.
    """

    lines: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    origins: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    trees: dict[str, str] = field(default_factory=dict)
    gits: dict[str, GitPackage] = field(default_factory=dict)
    limits: dict[str, str] = field(default_factory=dict)

    def hidden(self) -> str | None:
        """A digest of what decides about the packages and is not in `portable`; None if there is nothing."""
        found = unseen([*self.lines, *self.constraints])
        return digest(found) if found else None

    def portable(self) -> dict[str, list[str]]:
        """Lines and constraints as they may be stored: URLs without user names and passwords."""
        return {
            "lines": [without_credentials(line) for line in self.lines],
            "constraints": [without_credentials(line) for line in self.constraints],
        }


def read(
    packages: Iterable[Package | GitPackage], requirements_files: Iterable[str | Path] = (), python: str | None = None
) -> Requirements:
    """Read what packages and requirements files name.

    Args:
        packages: the entries of an env's `reqs`.
        requirements_files: further files, as those of synced roots; one that does not exist counts as empty.
        python: the env's Python, for the markers of folders; this one's version if not given.

    Raises:
        UsageError: a file cannot be read, a path in it leads nowhere, or it asks for something that is not available yet.
    """
    reader = _Reader(python)
    for package in packages:
        reader.package(package)
    for path in requirements_files:
        if Path(path).is_file():
            reader.file(Path(path))
    return reader.result()


class _Reader:
    def __init__(self, python: str | None) -> None:
        self._python = python
        self._lines: dict[str, str] = {}  # line -> origin; a dict keeps the order and drops repetitions
        self._constraints: dict[str, str] = {}
        self._folders: dict[str, None] = {}
        self._files: dict[str, str] = {}
        self._gits: dict[str, GitPackage] = {}
        self._notes: dict[str, None] = {}
        self._seen: set[tuple[Path, bool]] = set()

    def result(self) -> Requirements:
        return Requirements(
            tuple(self._lines),
            tuple(self._constraints),
            tuple(self._folders),
            self._files,
            tuple(self._lines.values()),
            tuple(self._notes),
            gits=self._gits,
            limits=self._constraints,
        )

    def package(self, package: Package | GitPackage) -> None:
        origin = f"reqs entry {str(package)!r}"
        if isinstance(package, GitPackage):
            self._git(package, origin)
            return
        if package.kind == "conda":
            return  # no requirement of pip's: the env's conda part takes it up
        kind, target = package.kind, package.target
        if kind == "stored":
            kind, path = storage.fetch(target)
            target = str(path)
        if kind == "requirement":
            self._line(target, Path(package.base), origin, constraint=False)
        elif kind == "requirements":
            self.file(Path(target))
        else:
            self._path(target, package.extras, package.marker, Path(package.base), origin)

    def file(self, path: Path, constraint: bool = False) -> None:
        path = anchored(str(path), Path.cwd())
        if (path, constraint) in self._seen:
            return
        self._seen.add((path, constraint))
        try:
            text = _decoded(path.read_bytes())
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"the requirements file {path} cannot be read: {error}") from error
        for number, line in logical_lines(text):
            self._line(line, path.parent, f"{path}, line {number}", constraint)

    def _line(self, line: str, base: Path, origin: str, constraint: bool) -> None:
        if is_git(asked := re.sub(r"^(-e|--editable)[\s=]+", "", line)):
            try:
                package = GitPackage.from_string(asked, base)
            except UsageError as error:
                raise UsageError(f"{origin}: {error}") from None
            if constraint:
                self._constraints.setdefault(line, origin)
            else:
                self._git(package, origin)
            return
        if other := re.search(r"(?:^|@\s*|\s)(hg|svn|bzr)\+", line):
            raise UsageError(f"{origin}: packages from {other[1]} are not available, only those from git")
        try:
            refuse_unencoded_login(line)
        except UsageError as error:
            raise UsageError(f"{origin}: {error}") from None
        whole = expanded(line)
        option = _OPTION.fullmatch(whole)
        if option and "://" not in option["value"].split("#")[0]:
            self._option(option["name"], _unquoted(option["value"]), base, origin, constraint)
            return
        named = None if option else _LOCAL_URL.fullmatch(whole)
        if named or (not option and is_path(whole)):
            hashes = {(kind.lower(), value.lower()) for kind, value in HASH.findall(whole)}
            if unknown := {kind for kind, _ in hashes} - _HASHES:
                raise UsageError(f"{origin}: {', '.join(unknown)} is no kind of hash that can be checked")
            path, extras, marker = split_path(HASH.sub("", named["path"] if named else whole))
            if named and "[" in named["name"]:
                extras = split_path(named["name"])[1]
            self._path(path, extras, marker, base, origin, hashes, constraint)
        elif constraint and not line.startswith("-"):
            self._constraints.setdefault(line, origin)
        else:
            self._lines.setdefault(line, origin)

    def _option(self, name: str, value: str, base: Path, origin: str, constraint: bool) -> None:
        if name in ("-e", "--editable"):
            path, extras, marker = split_path(value)
            self._path(path, extras, marker, base, origin)
            return
        found = _find(value, base)
        if found is None:
            raise UsageError(f"{origin}: {value} does not exist")
        if name in ("-f", "--find-links", "-i", "--index-url", "--extra-index-url"):
            whole = {"-f": "--find-links", "-i": "--index-url"}.get(name, name)
            self._lines.setdefault(f"{whole} {found}", origin)
        else:
            self.file(found, constraint or name in ("-c", "--constraint"))

    def _path(
        self,
        path: str,
        extras: tuple[str, ...],
        marker: str,
        base: Path,
        origin: str,
        hashes: Collection[tuple[str, str]] = (),
        constraint: bool = False,
    ) -> None:
        found = _find(path or ".", base)
        if found is None:
            raise UsageError(f"{origin}: {path} does not exist")
        if found.is_dir():
            if constraint:
                raise UsageError(f"{origin}: a constraint cannot be a folder")
            if not marker or self._applies(marker, origin):
                self._folder(found, extras, origin)
        elif found.name.endswith(DISTRIBUTIONS):
            self._file(found, extras, marker, origin, hashes, constraint)
        else:
            raise UsageError(f"{origin}: {found} is neither a folder nor a wheel or source distribution")

    def _applies(self, marker: str, origin: str) -> bool:
        """Whether a folder's marker holds; hosts are Linux machines, of this one's kind as far as is known here."""
        version = self._python or platform.python_version()
        values = {
            "python_version": ".".join(version.split(".")[:2]),
            "python_full_version": version,
            "sys_platform": "linux",
            "platform_system": "Linux",
            "os_name": "posix",
        }
        try:
            return Marker(marker).evaluate(values)
        except InvalidMarker as error:
            raise UsageError(f"{origin}: {error}") from error

    def _file(
        self,
        path: Path,
        extras: tuple[str, ...],
        marker: str,
        origin: str,
        hashes: Collection[tuple[str, str]],
        constraint: bool,
    ) -> None:
        try:
            sha256 = file_digest(path)
        except OSError as error:
            raise UsageError(f"{origin}: {path} cannot be read: {error}") from error
        if hashes and not any(file_digest(path, kind) == value for kind, value in hashes):
            raise UsageError(f"{origin}: {path} has the SHA-256 {sha256}, which its --hash does not allow")
        self._files[sha256] = str(path)
        line = f"{FILE}{sha256}/{path.name}" + (f"[{','.join(extras)}]" if extras else "")
        line += f" ; {marker}" if marker else ""
        if constraint:
            self._constraints.setdefault(line, origin)
        else:
            self._lines.setdefault(line, origin)

    def _git(self, package: GitPackage, origin: str) -> None:
        self._gits.setdefault(str(package), package)
        self._lines.setdefault(str(package), origin)

    def _folder(self, path: Path, extras: tuple[str, ...], origin: str) -> None:
        self._folders[str(path)] = None
        listed = path / "requirements.txt"
        # A requirements.txt that says "-e ." means the project's own dependencies, not itself once more.
        fresh = listed.is_file() and (listed, False) not in self._seen
        if fresh:
            self.file(listed)
        if not fresh or extras:
            self._project(path, extras, with_dependencies=not fresh)

    def _project(self, path: Path, extras: tuple[str, ...], with_dependencies: bool) -> None:
        """Take up the dependencies that the folder's pyproject.toml states (PEP 621)."""
        file = path / "pyproject.toml"
        if not file.is_file():
            if extras:
                raise UsageError(f"{path} has no pyproject.toml that could state the extras {', '.join(extras)}")
            self._note_unread(path, {})
            return
        try:
            content = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{file} cannot be read: {error}") from error
        project: dict[str, Any] = content.get("project", {})
        optional: dict[str, list[str]] = {_normal(k): v for k, v in project.get("optional-dependencies", {}).items()}
        dynamic: list[str] = project.get("dynamic", [])
        computed = content.get("tool", {}).get("setuptools", {}).get("dynamic", {})
        for extra in extras:
            if _normal(extra) in optional:
                continue
            if "optional-dependencies" not in dynamic:
                raise UsageError(f"{file} states no extra {extra!r}")
            self._computed(path, computed.get("optional-dependencies", {}).get(extra, {}), f"the extra {extra!r}")
        wanted = list(project.get("dependencies", [])) if with_dependencies else []
        wanted += [line for extra in extras for line in optional.get(_normal(extra), [])]
        own = _normal(project.get("name", ""))
        for line in wanted:
            inner = _requirement(line)
            if inner is None or _normal(inner.name) != own:
                self._line(line, path, str(file), constraint=False)
            # "pkg[all]" that lists further extras of its own: no index is asked for the folder itself.
            elif inner.marker is None or self._applies(str(inner.marker), str(file)):
                self._project(path, tuple(sorted(inner.extras)), with_dependencies=False)
        if with_dependencies and "dependencies" in dynamic:
            self._computed(path, computed.get("dependencies", {}), "the dependencies")
        elif with_dependencies and not project:
            self._note_unread(path, content)

    def _computed(self, path: Path, stated: dict[str, Any], what: str) -> None:
        """Take up what setuptools would read from files; where the build backend computes it, say so."""
        named = stated.get("file", [])
        files = [named] if isinstance(named, str) else named
        if not files:
            self._notes[f"{path}: its pyproject.toml computes {what}; list them in a requirements.txt"] = None
        for name in files:
            self.file(path / name)

    def _note_unread(self, path: Path, content: dict[str, Any]) -> None:
        """Say where a folder states dependencies in another form than PEP 621's."""
        unread = [name for name in ("setup.py", "setup.cfg") if "install_requires" in _text(path / name)]
        of_poetry = content.get("tool", {}).get("poetry", {}).get("dependencies", {})
        if set(of_poetry) - {"python"}:
            unread.append("[tool.poetry.dependencies]")
        if unread:
            self._notes[
                f"{path}: the dependencies that {' and '.join(unread)} names are not installed; list them in a requirements.txt"
            ] = None


def _requirement(line: str) -> Requirement | None:
    try:
        return Requirement(line)
    except InvalidRequirement:  # uv says what is wrong with it
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _decoded(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    return data.decode("utf-8-sig")


def logical_lines(text: str) -> Iterable[tuple[int, str]]:
    """Lines with continuations joined and comments removed, each with its number."""
    joined, start = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        start = start or number
        if line.endswith("\\") and not line.lstrip().startswith("#"):
            joined += line[:-1]
            continue
        whole = re.sub(r"(^|\s+)#.*$", "", joined + line).strip()
        if whole:
            yield start, re.sub(r"\s{2,}", " ", whole)
        joined, start = "", 0
    if joined.strip():
        yield start, joined.strip()


def _find(path: str, base: Path) -> Path | None:
    """A path of a requirements file: from that file's folder, as uv does, else from the current one, as pip does."""
    for folder in (base, Path.cwd()):
        found = anchored(path, folder)
        if found.exists():
            return found
    return None


def _unquoted(value: str) -> str:
    value = value.strip()
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value


def _normal(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()
