"""Copies of source trees, to build from: build backends leave `build/` and `*.egg-info` behind, and not in the user's folder.

What is copied is what git would list. Backends that read the version from git's tags get a history that borrows the objects of the
user's repository and writes nothing into it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from runkit.client.manifest import Entry, max_root_bytes
from runkit.client.set_up import current
from runkit.model import listing
from runkit.model.passed_on import environment
from runkit.wire import places

_FROM_GIT = re.compile(
    r"""setuptools[-_](scm|vcs|git)|hatch[-_]vcs|flit[-_]scm|vcs[-_]versioning|versioneer|versioningit|dunamai|miniver|"""
    r"""dynamic[-_]versioning|\bpbr\b|git describe|source\s*=\s*["'](scm|vcs)""",
    re.IGNORECASE,
)
"""What the files of a project hold whose version is made of git's tags."""

_LEFT_BEHIND = re.compile(r"(^|/)[^/]*\.egg-info/|^build/(lib|lib\.[^/]*|bdist\.[^/]*|temp\.[^/]*)/")
"""What an earlier build by somebody else left, should nobody have told git to ignore it: setuptools would take it up."""


def counts(path: str) -> bool:
    """Whether a file, by its path in the tree, belongs to the sources."""
    return not _LEFT_BEHIND.search(path)


def permission(entry: Entry) -> int:
    """A file's permission bits as far as git knows them: they do not depend on anybody's umask."""
    return 0o755 if entry[1] & 0o100 else 0o644


def described(tree: Path) -> str:
    """What git's tags and commits say about a tree whose version is made of them; "" for any other."""
    if not versioned_by_git(tree):
        return ""
    return _git(tree, "describe", "--always", "--long", "--tags", "--abbrev=40") or ""


def builds() -> Path:
    """Where copies lie for the time of a build."""
    return places.private(places.home() / "builds")


@contextmanager
def copied(tree: Path, around: Path | None = None) -> Iterator[Path]:
    """A copy of a source tree for as long as the `with` lasts; what is written into it goes with it.

    Args:
        tree: the tree.
        around: a folder above it that is copied with it, because the build may look there ("../README.md").

    Raises:
        RootError: the tree is too large, or cannot be read.
    """
    with TemporaryDirectory(prefix="tree-", dir=builds()) as folder:
        top = Path(folder) / "tree"
        place = _with_history(around or tree, top) if versioned_by_git(tree) else top
        _copy(around or tree, place)
        yield place / tree.relative_to(around) if around else place


def versioned_by_git(tree: Path) -> bool:
    """Whether a project's version is made of git's tags."""
    for name in ("pyproject.toml", "setup.py", "setup.cfg"):
        try:
            if _FROM_GIT.search((tree / name).read_text(encoding="utf-8", errors="replace")):
                return True
        except OSError:
            continue
    return False


def _with_history(tree: Path, top: Path) -> Path:
    """Make `top` a repository like the one around the tree; gives the tree's place in it, or `top` if there is none."""
    found = _git(tree, "rev-parse", "--show-toplevel")
    if not found:
        return top
    inside = Path(os.path.realpath(tree)).relative_to(os.path.realpath(found))
    # Without files first; their state here, with what is not committed, is copied over them.
    bare = _git(tree, "clone", "--quiet", "--shared", "--no-checkout", found, str(top))
    if bare is None or _git(top, "reset", "--quiet") is None:
        shutil.rmtree(top, ignore_errors=True)
        return top
    if inside.parts:
        _git(top, "checkout", "--quiet", "--", ".")
        shutil.rmtree(top / inside, ignore_errors=True)
    return top / inside


def _copy(tree: Path, place: Path) -> None:
    found = listing.collect(tree, max_root_bytes())
    place.mkdir(parents=True, exist_ok=True)
    folders = set()
    for path, (source, info) in found.files.items():
        if not counts(path):
            continue
        target = os.path.join(os.fsencode(place), listing.encode(path))
        folder = os.path.dirname(target)
        if folder not in folders:
            os.makedirs(folder, exist_ok=True)
            folders.add(folder)
        shutil.copyfile(source, target)
        os.chmod(target, permission(("", info.st_mode, 0)))
    for path, link in found.links.items():
        if counts(path):
            target = os.path.join(os.fsencode(place), listing.encode(path))
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.symlink(listing.encode(link), target)


def _git(folder: Path, *arguments: str) -> str | None:
    """What git answers, or None. Neither hooks nor large-file filters run, and nothing is written into the user's repository."""
    variables = {name: value for name, value in environment().items() if not name.startswith("GIT_")}
    variables.update(GIT_OPTIONAL_LOCKS="0", GIT_LFS_SKIP_SMUDGE="1", GIT_TERMINAL_PROMPT="0", LC_ALL="C")
    try:
        done = subprocess.run(
            ["git", "-c", f"core.hooksPath={os.devnull}", *arguments],
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=current().left(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise current().expired() from None
    except OSError:  # no git here
        return None
    return done.stdout.strip() if done.returncode == 0 else None
