"""What lies in a RUNKIT_HOME and is of no more use: found, and removed.

    envs/<build>       that no kept plan of any server of this home names, that no servlet uses (see servlet.uses), and that no process
                       of this host was started from; and builds that were cut off
    code/<digest>      that no server runs or would start at boot, and no process was started from
    wheels/<sha256>    that no kept plan names
    python/<name>      that no env's interpreter lies in
    conda/pkgs/<name>  conda packages as they were unpacked: the envs that have them keep them
    tools/<name>       what installed conda packages, and does not at the moment

Only what has not been used for some time goes. Mirrors of folders stay: programs leave their results in them. What goes is renamed
first, so that one cut off in the middle leaves nothing that looks whole; the next one removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runkit.server.settings import read_json
from runkit.servlet.install import MARKER
from runkit.servlet.uses import use_file
from runkit.wire import places

KEEP_SECONDS = 7 * 86400.0
"""What was used within so long a time stays, as somebody may ask for it again."""

KEEP_WHEELS_SECONDS = 30 * 86400.0
"""The same for wheels: one may have taken an hour to build."""

UNDER_WAY_SECONDS = 3600.0
"""What is younger may belong to something that is just being made, and stays in any case."""

_SHA256 = re.compile(rb"[0-9a-f]{64}")
_GONE = ".gone."
_FIRST = "default-ray"


@dataclass(frozen=True)
class Removed:
    """One thing that was removed, or would be.

    Attributes:
        kind: "env", "code", "wheel", "Python", "conda package" or "tools".
        name: of its folder.
        size: bytes on disk; files that others share by hard links are counted, though their space stays taken.
    """

    kind: str
    name: str
    size: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def collect(home: Path, *, everything: bool = False, dry_run: bool = False) -> list[Removed]:
    """Remove what is of no more use.

    Args:
        home: a RUNKIT_HOME.
        everything: also what was used lately.
        dry_run: only say what would be removed.
    """
    keep = 0.0 if everything else KEEP_SECONDS
    wheels = UNDER_WAY_SECONDS if everything else KEEP_WHEELS_SECONDS
    kept = _Kept.of(home)
    removed: list[Removed] = []
    for path in (*home.glob(f"*/{_GONE}*"), *home.glob(f"conda/pkgs/{_GONE}*")):  # of one that was cut off
        if not dry_run:
            shutil.rmtree(path, ignore_errors=True)

    def take(kind: str, path: Path) -> None:
        removed.append(Removed(kind, path.name, disk_size(path)))
        if not dry_run:
            _remove(path)

    for path in _folders(home / "envs"):
        with _unused(path, kept, keep) as free:
            if free:
                take("env", path)
    for path in _folders(home / "code"):
        if path.name not in kept.code and _age(path, path / ".used", path / ".compiled") > max(keep, UNDER_WAY_SECONDS):
            take("code", path)
    for path in _folders(home / "wheels"):
        is_one = _SHA256.fullmatch(path.name.encode()) is not None
        if is_one and path.name not in kept.wheels and _age(path) > wheels:
            take("wheel", path)
    interpreters = _behind_links(home / "python", _interpreters(home) | kept.pythons)
    for path in _folders(home / "python"):
        if path.name not in interpreters and _age(path) > max(keep, UNDER_WAY_SECONDS):
            take("Python", path)
    for path in _folders(home / "conda" / "pkgs"):
        with _alone(path.with_name(f"{path.name}.lock")) as free:  # py-rattler's own
            if free and _age(path) > wheels:
                take("conda package", path)
    for path in _folders(home / "tools"):
        with _alone(path.with_name(f".{path.name}.lock")) as free:
            if free and path.name not in kept.tools and _age(path, path / ".done") > wheels:
                take("tools", path)
    return removed


def disk_size(path: Path) -> int:
    """Bytes that a folder takes on disk."""
    total, seen, stack = 0, set(), [str(path)]
    while stack:
        with contextlib.suppress(OSError), os.scandir(stack.pop()) as entries:
            for entry in entries:
                info = entry.stat(follow_symlinks=False)
                if info.st_ino not in seen:
                    seen.add(info.st_ino)
                    total += info.st_blocks * 512
                if entry.is_dir(follow_symlinks=False):
                    stack.append(entry.path)
    return total


def touch_code(code: Path) -> None:
    """Note that a server runs this code, for other hosts that have the same home."""
    with contextlib.suppress(OSError):
        if code.parent.name == "code":
            (code / ".used").touch()


@dataclass(frozen=True)
class _Kept:
    """What somebody still needs.

    Attributes:
        builds: named by a kept plan or by a process of this host.
        wheels: the SHA-256 that kept plans name.
        code: digests that a server runs or will start with, or that a process was started from.
        pythons: entries of `python` that a process was started from, or that a kept plan names.
        tools: folders in `tools` that a process was started from.
    """

    builds: frozenset[str]
    wheels: frozenset[str]
    code: frozenset[str]
    pythons: frozenset[str]
    tools: frozenset[str]

    @classmethod
    def of(cls, home: Path) -> _Kept:
        builds: set[str] = set()
        wheels: set[str] = set()
        pythons: set[str] = set()
        seen = [str(Path(__file__).resolve()).encode(), *_processes()]
        for plan in home.glob("servers/*/envs/*.json"):
            content = read_json(plan)
            builds.add(str(content.get("build")))
            interpreter = (content.get("python") or {}).get("path") or ""
            pythons |= _below(home / "python", os.fsencode(interpreter))
            with contextlib.suppress(OSError):
                wheels.update(found.decode() for found in _SHA256.findall(plan.read_bytes()))
        for file in (*home.glob("servers/*/boot"), *places.runtime_root().glob("*/server.json")):
            with contextlib.suppress(OSError):
                seen.append(file.read_bytes())
        text = b"\n".join(seen)
        return cls(
            frozenset(builds | _below(home / "envs", text)),
            frozenset(wheels),
            frozenset(_below(home / "code", text)),
            frozenset(pythons | _below(home / "python", text)),
            frozenset(_below(home / "tools", text)),
        )


def _below(folder: Path, text: bytes) -> set[str]:
    """Names of entries of a folder whose paths are in the text."""
    found = set()
    for written in {str(folder), os.path.realpath(folder)}:
        pattern = re.escape(os.fsencode(written)) + rb"/([^/\0\s:'\"]+)"
        found |= {os.fsdecode(name) for name in re.findall(pattern, text)}
    return found


def _processes() -> Iterator[bytes]:
    """How this user's processes on this host were started, and from where."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield (folder / "cmdline").read_bytes() + b"\0" + (folder / "environ").read_bytes()
            yield os.fsencode(os.readlink(folder / "exe")) + b"\0" + os.fsencode(os.readlink(folder / "cwd"))


def _interpreters(home: Path) -> set[str]:
    """The entries of `python` that the interpreters of envs and of the server lie in."""
    found: set[str] = set()
    for folder in (home / "envs", home / "base"):
        for path in _folders(folder):
            with contextlib.suppress(OSError):
                found |= _below(home / "python", (path / "pyvenv.cfg").read_bytes())
            with contextlib.suppress(OSError):
                found |= _below(home / "python", os.fsencode(os.readlink(path / "bin" / "python")))
    return found


def _behind_links(folder: Path, names: set[str]) -> set[str]:
    """These entries of a folder and those that they are links to, as uv's `cpython-3.12-…` is one to the version's folder."""
    return names | {os.path.basename(os.path.realpath(folder / name)) for name in names}


@contextlib.contextmanager
def _unused(path: Path, kept: _Kept, keep: float) -> Iterator[bool]:
    """Whether a build may be removed; while this holds, nobody can begin to use it."""
    finished = (path / MARKER).exists()
    # A build that was cut off counts for nothing; the lock tells one that is just being made.
    age = _age(path / MARKER, use_file(path)) if finished else _age(path)
    if path.name in kept.builds or path.name.startswith(_FIRST) or age < (keep if finished else UNDER_WAY_SECONDS):
        yield False
        return
    with _alone(path.with_name(f".{path.name}.lock"), use_file(path)) as free:
        yield free


@contextlib.contextmanager
def _alone(*locks: Path) -> Iterator[bool]:
    """Whether nobody holds these locks; they are held meanwhile."""
    with contextlib.ExitStack() as stack:
        try:
            for lock in locks:
                new = not lock.exists()
                file = stack.enter_context(open(lock, "a"))
                if new:  # to look at it is not to use it
                    os.utime(lock, (0, 0))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def _folders(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(
            path
            for path in folder.iterdir()
            if not path.name.startswith(".") and path.is_dir() and not path.is_symlink()
        )
    return []


def _age(*paths: Path) -> float:
    """Seconds since the last date of these that are there."""
    dates: list[float] = []
    for path in paths:
        with contextlib.suppress(OSError):
            dates.append(path.stat().st_mtime)
    return time.time() - max(dates, default=0.0)


def _remove(path: Path) -> None:
    gone = path.with_name(f"{_GONE}{path.name}.{secrets.token_hex(4)}")
    with contextlib.suppress(OSError):
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
