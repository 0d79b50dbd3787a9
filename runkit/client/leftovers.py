"""What a client keeps in its RUNKIT_HOME to be quicker the next time, and has not needed for long."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from runkit.client.resolve import CACHE_SECONDS
from runkit.wire import places

KEEP_SECONDS = 30 * 86400.0
"""What is older goes."""

KILLED_SECONDS = 86400.0
"""The same for what only a session that was killed leaves."""

UNDER_WAY_SECONDS = 3600.0
"""What is younger may be in use by another session."""


def collect(home: Path, everything: bool = False, dry_run: bool = False) -> list[dict[str, Any]]:
    """Remove what is old; {kind, name, size in bytes} of each.

    Args:
        home: the client's RUNKIT_HOME.
        everything: whatever is not just being made, as it can be made again.
        dry_run: only say what would be removed.
    """
    removed = []
    for kind, folder, pattern, keep in (
        ("resolution", home, "locks/*", CACHE_SECONDS),
        ("packed Python", home, "pythons/*.tar.gz", KEEP_SECONDS),
        ("note of a build", home, "built/*.json", KEEP_SECONDS),
        ("left by git", home, "git/ask-*", KILLED_SECONDS),
        ("left by git", places.runtime_root(), "rk-ask-*", KILLED_SECONDS),
        ("git checkout", home, "git/checkouts/*", KEEP_SECONDS),
        ("git repository", home, "git/repositories/*", KEEP_SECONDS),
    ):
        for path in sorted(folder.glob(pattern)):
            if _age(path) > (UNDER_WAY_SECONDS if everything else keep):
                with _unused(home, path) as free:
                    if free:
                        removed.append({"kind": kind, "name": path.name, "size": _size(path)})
                        if not dry_run:
                            _remove(path)
    return removed


def _age(path: Path) -> float:
    """Seconds since it was used: of a checkout, and of a repository, since git or runkit was at it."""
    dates = []
    for one in (path, path / ".git", path / "FETCH_HEAD"):
        with suppress(OSError):
            dates.append(one.stat().st_mtime)
    return time.time() - max(dates, default=time.time())


@contextmanager
def _unused(home: Path, path: Path) -> Iterator[bool]:
    """Whether nobody is at it; while this holds, nobody can begin to make a checkout of that repository."""
    if path.parent.parent != home / "git":
        yield True
        return
    repository = path.name
    if path.parent.name == "checkouts":
        # One that was cut off may have none.
        repository = Path(_text(path / ".git/objects/info/alternates").strip()).parent.name or repository
    elif any(path.name in _text(borrower) for borrower in home.glob("git/checkouts/*/.git/objects/info/alternates")):
        yield False  # a checkout has its objects there
        return
    with open(home / "git" / f".{repository.rpartition('-')[2].split('.')[0]}.lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text()
    return ""


def _size(path: Path) -> int:
    files = [path] if not path.is_dir() else [Path(top, name) for top, _, names in os.walk(path) for name in names]
    total = 0
    for file in files:
        with suppress(OSError):
            total += file.lstat().st_size
    return total


def _remove(path: Path) -> None:
    if path.is_dir():  # renamed first, so that one that is cut off leaves nothing that looks whole
        gone = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        with suppress(OSError):
            path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
