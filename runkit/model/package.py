"""One thing an env needs, named in one line."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from runkit.errors import UsageError
from runkit.model import storage
from runkit.model.git_package import GitPackage, is_git
from runkit.model.mistakes import plainly
from runkit.model.urls import expanded, has_unencoded_login, without_credentials

DISTRIBUTIONS = (".whl", ".tar.gz", ".zip", ".tgz", ".tar.bz2", ".tar.xz")
"""Endings of files that are a wheel or a source distribution."""

_PATH = re.compile(r"(\.{1,2}|~[^/\s]*)?(/|$)|\.{1,2}\[|file:")
_PLACE = re.compile(
    r"(?!-)[^\s@;:\[]*/|(?!-)[^\s@;:\[]+(?:" + "|".join(map(re.escape, DISTRIBUTIONS)) + r")(?=[\s;\[]|$)"
)
_REPOSITORY = re.compile(r"(ssh|git)://\S+|https?://\S+\.git(@\S*)?|https?://(github|gitlab)\.com/[\w.-]+/[\w.-]+/?")
"""URLs of repositories, as one copies them from a browser or gives them to git clone."""

_REQUIREMENTS = re.compile(r"[\w.-]+\.txt")
_EXTRAS = re.compile(r"(?P<path>.*?)\s*(?:\[(?P<extras>[^\[\]]*)\])?\s*(?P<marker>;.*)?", re.DOTALL)


@dataclass(frozen=True)
class Package:
    """What one entry of `reqs` stands for.

    Attributes:
        kind: "requirement" (a line of a requirements file, given to uv unchanged), "requirements" (a requirements file),
            "folder" (synced, importable, its requirements installed), "file" (a wheel or source distribution of this machine),
            "conda" (a match spec; the env is a conda environment then) or "stored" (any of the three before that, in file storage).
        target: the requirement line, the absolute path, conda's match spec, or the address in file storage.
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
            text: "numpy>=1", "pip:numpy", "conda:numpy", "reqs:./" (that folder's requirements.txt), "more.txt", "local:./dir", a path
                ("./x", "~/x", "/x", "dir/x") of a folder, wheel or source distribution, a URL, "x @ https://...",
                "git+https://...@rev" (which gives a `GitPackage`), an address that `to` gave ("s3://..."), or any other line that
                uv takes in a requirements file. A bare name is always a requirement, even where a folder of that name exists.
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
        line, shown = text.strip(), repr(without_credentials(text))
        if not line or "\n" in line:
            raise UsageError(f"{shown} names no package: give one requirement per entry of reqs")
        refuse_unencoded_login(line)
        scheme, _, rest = line.partition(":")
        if scheme in ("conda", "pip", "reqs", "local"):
            line = rest.strip()
        if not line and scheme in ("conda", "pip"):
            raise UsageError(f"{shown} names no package")
        if scheme in ("reqs", "local") and is_git(line):
            raise UsageError(
                f"{shown}: what lies in a git repository is named by rk.GitPackage(url, revision=..., install_method={scheme!r})"
            )
        if scheme == "conda":
            return cls("conda", line, base=str(folder))
        address, extras, marker = _parts(line)
        if storage.is_address(address):
            return cls("stored", storage.check(address), extras, marker, str(folder))
        if scheme == "reqs" or _REQUIREMENTS.fullmatch(line):
            if re.match(r"https?://", line):
                return cls("requirement", f"-r {line}", base=str(folder))
            return cls("requirements", str(_requirements_file(line, folder, shown)), base=str(folder))
        if scheme == "local":
            return _at_path(line, folder, shown, only_folder=True)
        if is_git(line):
            return GitPackage.from_string(line, folder)
        if other := re.search(r"(?:^|@\s*)(hg|svn|bzr)\+", line):
            raise UsageError(f"packages from {other[1]} are not available, only those from git")
        _refuse_other_forms(line, folder, shown)
        if is_path(place := expanded(line)):
            return _at_path(place, folder, shown)
        return cls("requirement", line, base=str(folder))

    @plainly
    def to(self, destination: str, path: str | None = None) -> Package:
        """Put a folder, wheel, source distribution or requirements file into file storage.

        It goes to `<destination>/<name>/<sha256>/<file>`: the same content has the same address, and is sent once. Of a folder,
        what git would list goes there. Whoever installs from there needs a login of their own for that storage.

        Args:
            destination: a URL that fsspec knows: "s3://bucket/prefix", "gs://bucket", "sftp://host/folder", "file:///folder",
                "memory://folder".
            path: the rest of the URL, where `destination` is a bare scheme ("s3").

        Returns:
            The package at its new address, which is also its string form.

        Raises:
            UsageError: there is nothing of it to store, it holds a password, or the storage needs a package that is not installed.
            LoginRefused, FetchFailed: the storage refused it, or cannot be reached.

        Example:
            >>> Package.from_string("./dist/own-1.0-py3-none-any.whl").to("s3://bucket/packages")  # doctest: +SKIP
            Package('s3://bucket/packages/own/0f3c.../own-1.0-py3-none-any.whl')
        """
        if hasattr(destination, "send_env"):
            raise UsageError("a package goes to a cluster in an env: rk.env(reqs=[package]).to(cluster)")
        if not isinstance(destination, str):
            raise UsageError(f"a package is stored at a URL, not at {type(destination).__name__} {destination!r}")
        if self.kind not in ("folder", "file", "requirements"):
            raise UsageError(f"{self}: only folders, wheels, source distributions and requirements files can be stored")
        url = destination if path is None else f"{destination.removesuffix('://')}://{path.lstrip('/')}"
        return Package("stored", storage.put(self.kind, Path(self.target), url), self.extras, self.marker, self.base)

    def __str__(self) -> str:
        prefix = {"requirements": "reqs:", "folder": "local:", "conda": "conda:"}.get(self.kind, "")
        extras = f"[{','.join(self.extras)}]" if self.extras else ""
        marker = f" ; {self.marker}" if self.marker else ""
        return f"{prefix}{without_credentials(self.target)}{extras}{marker}"

    def __repr__(self) -> str:
        return f"Package({str(self)!r})"


@plainly
def package(
    name: str | None = None,
    install_method: str | None = None,
    install_str: str | None = None,
    path: str | Path | None = None,
    system: str | None = None,
) -> Package | GitPackage:
    """Make a package out of its parts, as Runhouse's function of that name does; `Package.from_string` takes them as one string.

    Args:
        name: a label of the caller's own; packages are not kept under names.
        install_method: "pip", "conda", "reqs" or "local".
        install_str: the requirement, with what follows it.
        path: the folder or file, instead of `install_str`.
        system: where the path is: "s3", "gs", "sftp", …; this machine if not given.

    Raises:
        UsageError: see `Package.from_string`; or there is neither `install_str` nor `path`.

    Example:
        >>> package(install_method="pip", install_str="numpy>=1")
        Package('numpy>=1')
    """
    if (path is None) == (install_str is None):
        named = f" (nothing is kept under the name {name!r})" if name else ""
        raise UsageError(f"a package has either a path or an install_str{named}: see rk.Package.from_string")
    target = install_str or os.fspath(path or "")
    if system and system != "file":
        target = f"{system}://{target.lstrip('/')}"
    elif path is not None and not install_method and not is_path(target):
        target = f"./{target}"
    return Package.from_string(f"{install_method}:{target}" if install_method else target)


def is_path(line: str) -> bool:
    """Whether a requirement is written as a path, as uv reads it: "./x", "/x", "~/x", "dir/x", "file:///x", "x.whl", "."."""
    return bool(_PATH.match(line) or _PLACE.match(line))


def refuse_unencoded_login(line: str) -> None:
    """Raise UsageError where a URL's user name or password has a "/", "?" or "#": where it ends could only be guessed."""
    if has_unencoded_login(line):
        raise UsageError(
            f"{without_credentials(line)!r}: in the user name and password of a URL, '/' is written as %2F, '?' as %3F, '#' as "
            "%23 and '@' as %40 (and '@' in its path as %40)"
        )


def split_path(line: str) -> tuple[str, tuple[str, ...], str]:
    """A path requirement's path, extras and marker."""
    path, extras, marker = _parts(line)
    if path.startswith("file:"):
        path = unquote(path.removeprefix("file:").removeprefix("//").removeprefix("localhost"))
    return path, extras, marker


def _parts(line: str) -> tuple[str, tuple[str, ...], str]:
    found = _EXTRAS.fullmatch(line)
    assert found is not None  # every part of the pattern is optional
    extras = tuple(sorted(part.strip() for part in (found["extras"] or "").split(",") if part.strip()))
    return found["path"].strip(), extras, (found["marker"] or "").lstrip("; ").strip()


def _refuse_other_forms(line: str, base: Path, shown: str) -> None:
    """What people write by mistake, and what uv would take for a file of that name."""
    if _REPOSITORY.fullmatch(line):
        raise UsageError(f"{shown}: a git repository is written 'git+https://...@revision' or 'git+ssh://...'")
    prefix = re.match(r"([A-Za-z]\w*):(?!//)", line)
    if prefix and prefix[1] != "file" and not anchored(line, base).exists():
        raise UsageError(f"{shown}: {prefix[1]}: is not known; there are pip:, conda:, reqs:, local: and git+https://")


def anchored(path: str, base: Path) -> Path:
    """The absolute path, "~" expanded, links left as they are."""
    return Path(os.path.normpath(base / Path(path).expanduser()))


def _requirements_file(path: str, base: Path, shown: str) -> Path:
    found = anchored(path or ".", base)
    if found.is_dir():
        found = found / "requirements.txt"
    if not found.is_file():
        raise UsageError(f"{shown}: there is no file {found}")
    return found


def _at_path(line: str, base: Path, shown: str, only_folder: bool = False) -> Package:
    path, extras, marker = split_path(line)
    found = anchored(path or ".", base)
    if found.is_dir():
        return Package("folder", str(found), extras, marker, str(base))
    if only_folder:
        raise UsageError(f"{shown}: there is no folder {found}")
    if not found.exists():
        hint = f"; a repository on GitHub is rk.GitPackage({path!r})" if re.fullmatch(r"[\w-]+/[\w.-]+", path) else ""
        raise UsageError(f"{shown}: {found} does not exist{hint}")
    if not found.name.endswith(DISTRIBUTIONS):
        hint = f"; for a requirements file write 'reqs:{path}'" if found.suffix in (".txt", ".in") else ""
        raise UsageError(f"{shown}: {found.name} is not a wheel or source distribution{hint}")
    return Package("file", str(found), extras, marker, str(base))
