"""One thing an env needs, named in one line."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from runkit.errors import UsageError
from runkit.model.git_package import GitPackage, is_git
from runkit.model.mistakes import plainly

DISTRIBUTIONS = (".whl", ".tar.gz", ".zip", ".tgz", ".tar.bz2", ".tar.xz")
"""Endings of files that are a wheel or a source distribution."""

_PATH = re.compile(r"(\.{1,2}|~[^/\s]*)?(/|$)|\.{1,2}\[|file://")
_EXTRAS = re.compile(r"(?P<path>.*?)\s*(?:\[(?P<extras>[^\[\]]*)\])?\s*(?P<marker>;.*)?", re.DOTALL)


@dataclass(frozen=True)
class Package:
    """What one entry of `reqs` stands for.

    Attributes:
        kind: "requirement" (a line of a requirements file, given to uv unchanged), "requirements" (a requirements file),
            "folder" (synced, importable, its requirements installed), "file" (a wheel or source distribution of this machine) or
            "conda" (a match spec; the env is a conda environment then).
        target: the requirement line, or the absolute path.
        extras: extras of a folder or file, as in "./dir[gpu]".
        marker: the environment marker of a folder or file, as in "./x.whl ; python_version < '3.12'", without the semicolon.
        base: the folder that relative paths inside a requirement line start from.
    """

    kind: str
    target: str
    extras: tuple[str, ...] = ()
    marker: str = ""
    base: str = "."

    @classmethod
    @plainly
    def from_string(cls, text: str, base: str | Path | None = None) -> Package | GitPackage:
        """Read one entry of `reqs`.

        Args:
            text: "numpy>=1", "pip:numpy", "conda:numpy", "reqs:./" (that folder's requirements.txt), "local:./dir", a path
                ("./x", "~/x", "/x") of a folder, wheel or source distribution, a URL, "x @ https://...", "git+https://...@rev"
                (which gives a `GitPackage`), or any other line that uv takes in a requirements file. A bare name is always a
                requirement, even where a folder of that name exists.
            base: the folder that relative paths start from; the current one when not given.

        Raises:
            UsageError: it is empty, names a file or folder that does not exist, or a kind of package that is not available yet.

        Example:
            >>> Package.from_string("pip:numpy")
            Package('numpy')
        """
        if not isinstance(text, str):
            raise UsageError(f"a package is named by a string, not by {type(text).__name__}: {text!r}")
        folder = Path(base or ".").absolute()
        line = text.strip()
        if not line or "\n" in line:
            raise UsageError(f"{text!r} names no package: give one requirement per entry of reqs")
        scheme, _, rest = line.partition(":")
        if scheme == "conda":
            if not rest.strip():
                raise UsageError(f"{text!r} names no conda package")
            return cls("conda", rest.strip(), base=str(folder))
        if scheme == "reqs":
            return cls("requirements", str(_requirements_file(rest.strip(), folder, text)), base=str(folder))
        if scheme == "local":
            return _at_path(rest.strip(), folder, text, only_folder=True)
        if scheme == "pip":
            line = rest.strip()
            if not line:
                raise UsageError(f"{text!r} names no package")
        if is_git(line):
            return GitPackage.from_string(line, folder)
        if other := re.search(r"(?:^|@\s*)(hg|svn|bzr)\+", line):
            raise UsageError(f"packages from {other[1]} are not available, only those from git")
        if is_path(line):
            return _at_path(line, folder, text)
        return cls("requirement", line, base=str(folder))

    def __str__(self) -> str:
        prefix = {"requirements": "reqs:", "folder": "local:", "conda": "conda:"}.get(self.kind, "")
        extras = f"[{','.join(self.extras)}]" if self.extras else ""
        marker = f" ; {self.marker}" if self.marker else ""
        return f"{prefix}{without_credentials(self.target)}{extras}{marker}"

    def __repr__(self) -> str:
        return f"Package({str(self)!r})"


def is_path(line: str) -> bool:
    """Whether a requirement is written as a path ("./x", "../x", "~/x", "/x", "file:///x", ".")."""
    return bool(_PATH.match(line))


def without_credentials(text: str) -> str:
    """The text with user names and passwords taken out of its URLs (a stored or shown URL never carries them)."""
    return re.sub(r"(\w://)[^/\s@]+@", r"\1", text)


def split_path(line: str) -> tuple[str, tuple[str, ...], str]:
    """A path requirement's path, extras and marker."""
    found = _EXTRAS.fullmatch(line)
    assert found is not None  # every part of the pattern is optional
    extras = tuple(sorted(part.strip() for part in (found["extras"] or "").split(",") if part.strip()))
    path = found["path"].strip()
    if path.startswith("file://"):
        path = unquote(path.removeprefix("file://").removeprefix("localhost"))
    return path, extras, (found["marker"] or "").lstrip("; ").strip()


def anchored(path: str, base: Path) -> Path:
    """The absolute path, "~" expanded, links left as they are."""
    return Path(os.path.normpath(base / Path(path).expanduser()))


def _requirements_file(path: str, base: Path, text: str) -> Path:
    found = anchored(path or ".", base)
    if found.is_dir():
        found = found / "requirements.txt"
    if not found.is_file():
        raise UsageError(f"{text!r}: there is no file {found}")
    return found


def _at_path(line: str, base: Path, text: str, only_folder: bool = False) -> Package:
    path, extras, marker = split_path(line)
    found = anchored(path or ".", base)
    if found.is_dir():
        return Package("folder", str(found), extras, marker, str(base))
    if only_folder or not found.exists():
        raise UsageError(
            f"{text!r}: there is no folder {found}" if only_folder else f"{text!r}: {found} does not exist"
        )
    if not found.name.endswith(DISTRIBUTIONS):
        hint = f"; for a requirements file write 'reqs:{path}'" if found.suffix in (".txt", ".in") else ""
        raise UsageError(f"{text!r}: {found.name} is not a wheel or source distribution{hint}")
    return Package("file", str(found), extras, marker, str(base))
