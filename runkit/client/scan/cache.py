"""What earlier scans read, kept below RUNKIT_HOME, one file for each environment.

A record is believed for as long as its folder and every file that it was read from keep their size, times and inode. A change
within the file system's tick of the read could leave those as they are, so only what was left alone for longer is kept.
"""

from __future__ import annotations

import json
import os
import re
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from runkit.errors import UsageError
from runkit.wire import places

_TICK_NS = 100_000_000  # as in the manifest of synced files
_COARSE_TICK_NS = 2_100_000_000

Files = Callable[[str], Sequence[str]]
Read = Callable[[str, Sequence[str]], Any]


class Cache:
    """The records of one environment.

    Args:
        prefix: the environment's folder.
        kept: whether to look at and write what is kept; otherwise everything is read.
        kind: what the values are; those of another runkit may be others.
    """

    def __init__(self, prefix: str, kept: bool, kind: str) -> None:
        self._prefix = prefix
        self._kind = kind
        self._file = _file(prefix) if kept else None
        self._began = time.time_ns()
        self._old = self._load()
        self._new: dict[str, list[Any]] = {}
        self._changed = False

    def value(self, path: str, files: Files, read: Read) -> Any:
        """What `read(path, files(path))` gives, of JSON's types, now or when it was last read.

        Raises:
            OSError: the path is gone, or may not be read.
        """
        known = self._old.get(path)
        if known is not None:
            try:
                if _stamp(path, known[1])[0] == known[0]:
                    self._new[path] = known
                    return known[2]
            except OSError:
                pass  # one of its files is gone
        present = files(path)
        if self._file is None:
            return read(path, present)
        stamp, newest = _stamp(path, present)
        value = read(path, present)
        self._changed = True
        tick = _TICK_NS if newest % 1_000_000_000 else _COARSE_TICK_NS
        if newest < self._began - tick:
            self._new[path] = [stamp, list(present), value]
        return value

    def save(self) -> None:
        """Write what is new. A disk that is full or read-only costs only the time of the next scan."""
        if self._file is None or not (self._changed or len(self._new) != len(self._old)):
            return
        body = json.dumps([self._prefix, self._kind, self._new], separators=(",", ":")).encode()
        beside = f"{self._file}.{os.urandom(6).hex()}"
        try:
            os.makedirs(os.path.dirname(self._file), mode=0o700, exist_ok=True)
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(_seal(body) + body)
            os.replace(beside, self._file)
        except OSError:
            try:
                os.unlink(beside)
            except OSError:
                pass

    def _load(self) -> dict[str, list[Any]]:
        if self._file is None:
            return {}
        try:
            with open(self._file, "rb") as file:
                seal, body = file.readline(), file.read()
            if seal != _seal(body):
                return {}
            prefix, kind, records = json.loads(body)
        except (OSError, ValueError):
            return {}
        return records if (prefix, kind) == (self._prefix, self._kind) else {}


def _file(prefix: str) -> str | None:
    try:
        home = places.home()
    except (OSError, UsageError):
        return None
    name = re.sub(r"[^A-Za-z0-9._]+", "-", os.path.basename(prefix))[:40].strip("-._") or "root"
    return f"{home}/scans/{name}-{zlib.crc32(os.fsencode(prefix)):08x}.json"


def _seal(body: bytes) -> bytes:
    """Tells a whole file from a damaged one."""
    return b"%08x %d\n" % (zlib.crc32(body), len(body))


def _stamp(path: str, files: Sequence[str]) -> tuple[int, int]:
    """A number that tells one state from others (the hash of a tuple of numbers is the same in every process), and the newest time."""
    info = os.stat(path)
    newest = max(info.st_mtime_ns, info.st_ctime_ns)
    parts = [info.st_mtime_ns, info.st_ctime_ns, info.st_ino]
    for name in files:
        info = os.stat(f"{path}/{name}")
        parts += info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino
        newest = max(newest, info.st_mtime_ns, info.st_ctime_ns)
    return hash(tuple(parts)), newest
