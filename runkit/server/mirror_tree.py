"""The files of one mirror: which are not what they should be, and putting the wanted ones in place."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runkit.server.mirror_stream import Wanted, encode

Stamp = tuple[int, int, int, int]  # bytes, mtime_ns, ctime_ns, inode
_BLOCK = 1 << 20


def stamp_of(info: os.stat_result) -> Stamp:
    """What tells one state of a file from another."""
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino


@dataclass(frozen=True)
class Kept:
    """What the last finished sync brought; `stamp` is the second that its files carry as their mtime."""

    digest: str = ""
    stamp: int = 0
    files: dict[str, tuple[str, Stamp]] = field(default_factory=dict)  # path -> sha256, stat
    links: dict[str, str] = field(default_factory=dict)


class Tree:
    """One mirror's files. It never writes or deletes through a link."""

    def __init__(self, folder: Path, kept: Kept, pending: Iterable[str] = ()):
        self.base = os.fsencode(folder)
        self.kept = kept
        self.ours = {*kept.files, *kept.links, *pending}  # what syncs brought, the one that was cut off included
        self.stamps: dict[str, Stamp] = {}  # of the files found or put in place
        self.sources: dict[bytes, set[bytes]] = {}  # folder -> modules whose cached bytecode is stale
        self.left: set[bytes] = set()  # folders that something was removed from
        self.sure: set[bytes] = set()  # real folders
        self.aside: list[str] = []  # what remote code's folders in the way were renamed to

    def needed(self, files: Mapping[str, tuple[str, int, int]]) -> list[str]:
        """The paths that do not hold the wanted content, by their stat, or where that says nothing by their content."""
        need = []
        for path, (sha, _, size) in files.items():
            old_sha, old_stamp = self.kept.files.get(path, ("", None))
            try:
                stamp: Stamp | None = stamp_of(os.lstat(self._at(path)))
            except OSError:
                stamp = None
            if stamp is not None and not self._parents_are_real(path):
                stamp = None
            elif stamp is not None and (old_sha != sha or stamp != old_stamp):
                stamp = self._same_content(path, sha) if stamp[0] == size else None
            if stamp is None:
                need.append(path)
            else:
                self.stamps[path] = stamp
        return need

    def change(self, wanted: Wanted, received: Mapping[str, bytes], stamp: int, incoming: Path) -> tuple[int, int]:
        """Make the tree what is wanted: new content first, then what has to go.

        Args:
            wanted: the manifest.
            received: where new content lies; every other file has been found right by `needed`.
            stamp: the second that written files get as their mtime.
            incoming: a folder on the same file system.

        Returns:
            How many files and links changed, and how many were deleted.
        """
        os.makedirs(self.base, mode=0o700, exist_ok=True)
        changed = 0
        for path, source in received.items():
            os.utime(source, ns=(stamp * 10**9, stamp * 10**9))
            self._put(source, path)
            info = os.lstat(self._at(path))
            # The mtime that was set, not the one found: whatever wrote to the file in between is noticed next time.
            self.stamps[path] = (wanted.files[path][2], stamp * 10**9, info.st_ctime_ns, info.st_ino)
            changed += 1
        for path, (_, mode, _) in wanted.files.items():
            if path not in received and stat.S_IMODE(os.lstat(self._at(path)).st_mode) != mode:
                os.chmod(self._at(path), mode)
                self.stamps[path] = (*self.stamps[path][:2], os.lstat(self._at(path)).st_ctime_ns, self.stamps[path][3])
                changed += 1
        for path, target in wanted.links.items():
            if not self._is_link(path, target):
                source = os.fsencode(incoming / f"link-{changed}")
                os.symlink(encode(target), source)
                self._put(source, path)
                changed += 1
        deleted = 0
        for path in self.ours:
            if path not in wanted.files and path not in wanted.links:
                self._remove(path)
                deleted += path in self.kept.files or path in self.kept.links
        self._drop_bytecode()
        for folder in sorted(self.left, key=len, reverse=True):
            self._prune(folder)
        return changed, deleted

    def _at(self, path: str) -> bytes:
        return self.base + b"/" + encode(path)

    def _same_content(self, path: str, sha: str) -> Stamp | None:
        """The file's stat if it holds that content: it was left by a sync that was cut off, or only touched."""
        try:
            number = os.open(self._at(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        with open(number, "rb", buffering=0) as file:
            before = os.fstat(number)
            if not stat.S_ISREG(before.st_mode):
                return None
            hasher = hashlib.sha256()
            while block := file.read(_BLOCK):
                hasher.update(block)
            same = hasher.hexdigest() == sha and stamp_of(os.fstat(number)) == stamp_of(before)
        return stamp_of(before) if same else None

    def _parents_are_real(self, path: str) -> bool:
        at = os.path.dirname(self._at(path))
        missing = []
        while at != self.base and at not in self.sure:
            missing.append(at)
            at = os.path.dirname(at)
        for folder in reversed(missing):
            try:
                if not stat.S_ISDIR(os.lstat(folder).st_mode):
                    return False
            except OSError:
                return False
            self.sure.add(folder)
        return True

    def _is_link(self, path: str, target: str) -> bool:
        try:
            return self._parents_are_real(path) and os.readlink(self._at(path)) == encode(target)
        except OSError:
            return False

    def _put(self, source: bytes, path: str) -> None:
        target = self._at(path)
        at = self.base
        for part in encode(path).split(b"/")[:-1]:
            at += b"/" + part
            if at not in self.sure:
                self._make_folder(at)
        try:
            os.replace(source, target)
        except IsADirectoryError:
            self._clear_folder(path)
            os.replace(source, target)
        self._stale(target)

    def _make_folder(self, at: bytes) -> None:
        try:
            is_folder = stat.S_ISDIR(os.lstat(at).st_mode)
        except FileNotFoundError:
            os.mkdir(at)
        else:
            if not is_folder:  # a file or a link where the sync has a folder now
                os.unlink(at)
                os.mkdir(at)
        self.sure.add(at)

    def _clear_folder(self, path: str) -> None:
        """Make way for a file where a folder is. What remote code wrote into it is moved aside."""
        target = self._at(path)
        for inner in [inner for inner in self.ours if inner.startswith(path + "/")]:
            self._remove(inner)
        self._drop_bytecode()
        for folder in sorted((place for place in self.left if place.startswith(target + b"/")), key=len, reverse=True):
            self._prune(folder, stop=target)
        self.sure = {place for place in self.sure if place != target and not place.startswith(target + b"/")}
        try:
            os.rmdir(target)
        except OSError:
            number = 1
            while os.path.lexists(aside := target + b"~remote%d" % number):
                number += 1
            os.rename(target, aside)
            self.aside.append(aside[len(self.base) + 1 :].decode("utf-8", "surrogateescape"))

    def _remove(self, path: str) -> None:
        target = self._at(path)
        if not self._parents_are_real(path):
            return
        try:
            os.unlink(target)
        except (FileNotFoundError, IsADirectoryError, PermissionError):
            if os.path.isdir(target) or not os.path.lexists(target):
                return  # gone already, or remote code has put a folder there
            raise
        self._stale(target)
        self.left.add(os.path.dirname(target))

    def _stale(self, target: bytes) -> None:
        folder, name = os.path.split(target)
        if name.endswith(b".py"):
            self.sources.setdefault(folder, set()).add(name[:-3])

    def _drop_bytecode(self) -> None:
        for folder, modules in self.sources.items():
            cache = folder + b"/__pycache__"
            try:
                names = os.listdir(cache) if stat.S_ISDIR(os.lstat(cache).st_mode) else []
            except OSError:
                names = []
            for name in names:
                if name.endswith(b".pyc") and name[: name.find(b".")] in {module.split(b".")[0] for module in modules}:
                    _unlink(cache + b"/" + name)
            for module in modules:  # where the source is gone, this one would be imported in its place
                if not os.path.lexists(folder + b"/" + module + b".py"):
                    pyc = folder + b"/" + module + b".pyc"
                    if pyc[len(self.base) + 1 :].decode("utf-8", "surrogateescape") not in self.stamps:
                        _unlink(pyc)
        self.sources = {}

    def _prune(self, folder: bytes, stop: bytes = b"") -> None:
        """Remove a folder that has become empty, and its parents that thereby do."""
        while folder != self.base and folder != stop:
            try:
                if not stat.S_ISDIR(os.lstat(folder).st_mode):
                    return
                if os.path.isdir(folder + b"/__pycache__") and os.listdir(folder) == [b"__pycache__"]:
                    os.rmdir(folder + b"/__pycache__")
                os.rmdir(folder)
            except OSError:
                return
            self.sure.discard(folder)
            folder = os.path.dirname(folder)


def _unlink(path: bytes) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
