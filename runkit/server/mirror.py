"""Mirrors of users' package roots: `RUNKIT_HOME/roots/<root id>/`.

    tree/           what workers import, and their current folder
    manifest.json   what the last sync brought, with each file's stat as it was written
    pending.json    only while a sync is being put in place, or after one was cut off there
    incoming/       files being received
    lock            held while tree/ changes

A mirror belongs to remote code too: whatever it writes there stays. Only what a sync brought is ever deleted, and what
remote code changed or removed of that is sent again.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runkit.errors import DiskFull, ServerError, UsageError
from runkit.server.mirror_stream import Reader, Wanted, check, encode, receive
from runkit.server.mirror_tree import Kept, Stamp, Tree, stamp_of
from runkit.wire.installers import is_disk_full

__all__ = ["Applied", "Mirror", "Reader"]

_ROOT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_VERSION = 1


@dataclass(frozen=True)
class Applied:
    """What a sync changed.

    Attributes:
        changed: files written, links made, permissions changed.
        deleted: files and links removed.
        need: not empty where nothing was changed, because the tree is not any more what the plan was made from (another
            session's sync came between): the client plans anew.
        aside: new names of folders with files of remote code that stood where the sync has a file or a link.
    """

    changed: int
    deleted: int
    need: tuple[str, ...] = ()
    aside: tuple[str, ...] = ()


class Mirror:
    """All mirrors of one `RUNKIT_HOME`. Its methods block; several threads and processes may use them at once."""

    def __init__(self, home: Path):
        self.folder = home / "roots"
        self._cache: dict[str, tuple[Stamp, Kept]] = {}
        self._cache_lock = threading.Lock()

    def tree(self, root_id: str) -> Path:
        """The folder that mirrors a root; it exists once a sync has been applied."""
        return self._root(root_id) / "tree"

    def has(self, root_id: str, digest: str) -> bool:
        """Whether the mirror holds exactly that content, by the stat of each of its files."""
        kept = self._load(root_id)
        if kept.digest != digest or (self._root(root_id) / "pending.json").exists():
            return False
        tree = os.fsencode(self.tree(root_id)) + b"/"
        try:
            for path, (_, stamp) in kept.files.items():
                if stamp_of(os.lstat(tree + path.encode("utf-8", "surrogateescape"))) != stamp:
                    return False
            return all(os.readlink(tree + encode(path)) == encode(target) for path, target in kept.links.items())
        except OSError:
            return False

    def plan(self, root_id: str, manifest: Mapping[str, Any]) -> list[str]:
        """The paths whose content has to be sent so that the mirror can hold `manifest`.

        Raises:
            UsageError: the manifest is malformed, or names a path outside the tree.
        """
        wanted = check(manifest)
        return Tree(self.tree(root_id), self._load(root_id)).needed(wanted.files)

    def apply(self, root_id: str, reader: Reader) -> Applied:
        """Read a sync's stream and put it in place.

        Args:
            root_id: the root.
            reader: gives 8 bytes (the length of what follows, big-endian), the manifest with the key `need` as JSON,
                and then the content of each path in `need`.

        Raises:
            UsageError: the manifest is malformed, or names a path outside the tree.
            ServerError: the stream ended early, or content does not match its hash. DiskFull: there is no room. The mirror is
                then as it was, or its next sync completes it.
        """
        folder = self._root(root_id)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _incoming(folder) as incoming:
                wanted, received = receive(reader, incoming)
                with _locked(folder / "lock"):
                    return self._commit(root_id, wanted, received, incoming)
        except OSError as error:
            if is_disk_full(error):
                raise DiskFull(
                    f"the disk of {folder} is full: free space there, or move runkit's files with RUNKIT_HOME; "
                    "the mirror is completed by the next sync"
                ) from error
            raise ServerError(f"the mirror {folder} could not be written: {error}") from error

    def _commit(self, root_id: str, wanted: Wanted, received: Mapping[str, bytes], incoming: Path) -> Applied:
        folder = self._root(root_id)
        kept, pending = self._load(root_id), _read_json(folder / "pending.json")
        tree = Tree(self.tree(root_id), kept, pending.get("paths", ()))
        missing = tree.needed({path: entry for path, entry in wanted.files.items() if path not in received})
        if missing:
            return Applied(0, 0, tuple(missing))
        # Python takes a .pyc for the source's if the source's size and the second of its mtime are the same. So no two
        # syncs of a root use the same second, those that were cut off included.
        stamp = max(int(time.time()), kept.stamp + 1, int(pending.get("stamp", 0)) + 1)
        ours = {*pending.get("paths", ()), *wanted.files, *wanted.links} - kept.files.keys() - kept.links.keys()
        _write_json(folder / "pending.json", {"stamp": stamp, "paths": sorted(ours)})
        changed, deleted = tree.change(wanted, received, stamp, incoming)
        files = {path: (entry[0], tree.stamps[path]) for path, entry in wanted.files.items()}
        now = {"version": _VERSION, "digest": wanted.digest, "origin": wanted.origin, "stamp": stamp}
        _write_json(folder / "manifest.json", {**now, "files": files, "links": wanted.links})
        (folder / "pending.json").unlink()
        return Applied(changed, deleted, aside=tuple(tree.aside))

    def _root(self, root_id: str) -> Path:
        if not _ROOT_ID.fullmatch(root_id):
            raise UsageError(f"{root_id!r} is not the id of a root")
        return self.folder / root_id

    def _load(self, root_id: str) -> Kept:
        path = self._root(root_id) / "manifest.json"
        try:
            stamp = stamp_of(path.stat())
        except FileNotFoundError:
            return Kept()
        with self._cache_lock:
            cached = self._cache.get(root_id)
        if cached is not None and cached[0] == stamp:
            return cached[1]
        read = _read_json(path)
        if read.get("version") != _VERSION:
            return Kept()
        files = {name: (sha, (stat[0], stat[1], stat[2], stat[3])) for name, (sha, stat) in read["files"].items()}
        kept = Kept(read["digest"], read["stamp"], files, read["links"])
        with self._cache_lock:
            self._cache[root_id] = (stamp, kept)
        return kept


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock between threads and processes (flock: it ends with the process, whatever ends that)."""
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


@contextmanager
def _incoming(folder: Path) -> Iterator[Path]:
    """A folder of its own for one sync's files; those of syncs that died are removed."""
    parent = folder / "incoming"
    parent.mkdir(mode=0o700, exist_ok=True)
    with _locked(folder / "lock"):  # so that a folder without a held lock is a dead one's
        for old in list(parent.iterdir()):
            _remove_if_dead(old)
        place = parent / os.urandom(16).hex()
        place.mkdir(mode=0o700)
        number = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(number, fcntl.LOCK_EX)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(number)


def _remove_if_dead(place: Path) -> None:
    try:
        number = os.open(place / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        shutil.rmtree(place, ignore_errors=True)
        return
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(place, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(number)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    beside = path.with_name(f"{path.name}.new")
    beside.write_text(json.dumps(value, separators=(",", ":")))
    os.replace(beside, path)
