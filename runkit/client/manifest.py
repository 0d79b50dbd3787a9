"""What a root holds right now: the hash of each file, and one digest over all of it.

Hashes are kept in `RUNKIT_HOME/manifests/<root id>.json` with the stat of the file they were made of, so an unchanged
root costs a listing and a stat walk. As in git's index, a hash is kept only of a file that was left alone for a moment
before it was read: a later change within one tick of the file system's clock would not show in its stat.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from runkit.client.roots import Root
from runkit.errors import RootError
from runkit.model import listing
from runkit.wire import places

Entry = tuple[str, int, int]  # sha256 in hex, permission bits, bytes
Stamp = tuple[int, int, int, int, str]  # bytes, mtime_ns, ctime_ns, inode, sha256
Progress = Callable[[str, int, int], None]  # what is being done, bytes done, bytes in all

_KEPT_VERSION = 1
_BLOCK = 1 << 20
_MANY_BYTES = 8 << 20  # from here on hashing goes to threads
_TICK_NS = 100_000_000  # file times come from the kernel's tick, 10 ms at most; generously
_COARSE_TICK_NS = 2_100_000_000  # file systems that keep whole seconds, or FAT's two
_STEADY = 3  # attempts to read a file that is being written


@dataclass(frozen=True)
class Manifest:
    """The content of a root at one moment.

    Attributes:
        root: whose content it is.
        digest: names the content: paths, hashes, permission bits and link targets.
        files: path -> (sha256, permission bits, bytes).
        links: path -> target.
        total_bytes: of all files.
        held: content of files that were changing while they were read: what is sent is what was hashed.
    """

    root: Root
    digest: str
    files: Mapping[str, Entry]
    links: Mapping[str, str]
    total_bytes: int
    held: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    sources: Mapping[str, bytes] = field(default_factory=dict, repr=False, compare=False)

    def __repr__(self) -> str:
        return f"Manifest({self.root.id!r}, {len(self.files)} files, {self.total_bytes:,} bytes, {self.digest[:12]})"


class _Known:
    """The hashes known of one root; used under its lock."""

    def __init__(self, path: Path):
        self.lock = threading.Lock()
        self.path = path
        self.hashes: dict[str, Stamp] = {}
        self.last: Manifest | None = None
        try:
            kept = json.loads(path.read_bytes())
            if kept["version"] == _KEPT_VERSION:
                self.hashes = {path: tuple(stamp) for path, stamp in kept["files"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.hashes = {}  # a cache: whatever is wrong with it, it is made anew

    def save(self) -> None:
        beside = self.path.with_name(f"{self.path.name}.{os.urandom(8).hex()}")
        try:
            beside.write_text(json.dumps({"version": _KEPT_VERSION, "files": self.hashes}, separators=(",", ":")))
            os.replace(beside, self.path)
        except OSError:  # a full or read-only disk costs time, not correctness
            beside.unlink(missing_ok=True)


_known: dict[Path, _Known] = {}
_known_lock = threading.Lock()


def max_root_bytes() -> int:
    """The largest root that is sent, in bytes: `RUNKIT_MAX_ROOT_BYTES`, 1 GiB unless set."""
    text = os.environ.get("RUNKIT_MAX_ROOT_BYTES")
    try:
        return int(text) if text else 1 << 30
    except ValueError:
        raise RootError(f"RUNKIT_MAX_ROOT_BYTES is {text!r}: it must be a number of bytes") from None


def scan(root: Root, progress: Progress | None = None, hold: Iterable[str] = ()) -> Manifest:
    """Read what the root holds now.

    Args:
        root: the root.
        progress: called with what is being done, bytes done and bytes in all, when much has to be hashed.
        hold: paths of files whose content is kept in memory, so that what is sent later is what was hashed.

    Raises:
        RootError: nothing to send, more than the limit, or a file that cannot be read.
    """
    found = listing.collect(root.path, max_root_bytes())
    if not found.files and not found.links:
        raise RootError(
            f"the package root {str(root.path)!r} is empty: it has no file that git would list (see its .gitignore). "
            "Give working_dir= the folder to send"
        )
    known = _known_of(root)
    with known.lock:
        return _scan(root, found, known, progress, set(hold))


def _known_of(root: Root) -> _Known:
    path = places.private(places.home() / "manifests") / f"{root.id}.json"
    with _known_lock:
        if path not in _known:
            _known[path] = _Known(path)
        return _known[path]


def _scan(root: Root, found: listing.Listing, known: _Known, progress: Progress | None, hold: set[str]) -> Manifest:
    hashes, top = known.hashes, os.fsencode(root.path)
    kept: dict[str, Stamp] = {}
    files: dict[str, Entry] = {}
    todo: list[str] = []
    for path, (_, info) in sorted(found.files.items()):
        mode = info.st_mode & 0o777 | 0o400
        old = hashes.get(path)
        if old is not None and old[:4] == stamp_of(info) and path not in hold:
            kept[path] = old
            files[path] = (old[4], mode, info.st_size)
        else:
            todo.append(path)
            files[path] = ("", mode, info.st_size)
    held: dict[str, bytes] = {}
    for path, read in _hash_all([(path, found.files[path][0]) for path in todo], found, progress, hold):
        if read is None:
            del files[path]
            continue
        files[path] = (read.sha, files[path][1], read.size)
        if read.stamp is not None:
            kept[path] = (*read.stamp, read.sha)
        if read.content is not None:
            held[path] = read.content
    if kept != hashes:
        known.hashes = kept
        known.save()
    links = dict(sorted(found.links.items()))
    last = known.last
    if last is not None and (last.root, last.files, last.links, last.held) == (root, files, links, {}) and not held:
        return last
    digest = _digest(files, links)
    sources = {path: place for path, (place, _) in found.files.items() if place != top + b"/" + listing.encode(path)}
    total = sum(size for _, _, size in files.values())
    known.last = Manifest(root, digest, files, links, total, held, sources)
    return known.last


def without(manifest: Manifest, left_out: Callable[[str], bool]) -> Manifest:
    """What a root holds but for some of its paths."""
    files = {path: entry for path, entry in manifest.files.items() if not left_out(path)}
    links = {path: target for path, target in manifest.links.items() if not left_out(path)}
    if len(files) == len(manifest.files) and len(links) == len(manifest.links):
        return manifest
    total = sum(size for _, _, size in files.values())
    return replace(manifest, digest=_digest(files, links), files=files, links=links, total_bytes=total)


def _digest(files: Mapping[str, Entry], links: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps([files, links], separators=(",", ":")).encode()).hexdigest()


@dataclass
class _Read:
    sha: str
    size: int
    stamp: tuple[int, int, int, int] | None  # None where the hash may not be kept with it
    content: bytes | None


def _hash_all(
    todo: list[tuple[str, bytes]], found: listing.Listing, progress: Progress | None, hold: set[str]
) -> Iterator[tuple[str, _Read | None]]:
    total = sum(found.files[path][1].st_size for path, _ in todo)
    if total < _MANY_BYTES:
        for path, place in todo:
            yield path, _hash(place, path in hold)
        return
    done = 0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="runkit-hash") as pool:
        for (path, _), read in zip(todo, pool.map(lambda item: _hash(item[1], item[0] in hold), todo), strict=True):
            done += found.files[path][1].st_size
            if progress is not None:
                progress("hashing", done, total)
            yield path, read


def _hash(place: bytes, hold: bool) -> _Read | None:
    """Hash a file, or None if it is gone."""
    for attempt in range(_STEADY):
        began = time.time_ns()
        try:
            number = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise listing.unreadable(place, error) from error
        try:
            before = os.fstat(number)
            if not stat.S_ISREG(before.st_mode):
                return None
            hasher, size, content = hashlib.sha256(), 0, list[bytes]()
            # A file that grows while it is read is cut where it ended when it was opened.
            while size < before.st_size and (block := os.read(number, min(_BLOCK, before.st_size - size))):
                hasher.update(block)
                size += len(block)
                if hold:
                    content.append(block)
            after = os.fstat(number)
        except OSError as error:
            raise listing.unreadable(place, error) from error
        finally:
            os.close(number)
        unchanged = stamp_of(before) == stamp_of(after) and size == before.st_size
        if unchanged or attempt == _STEADY - 1 or hold:
            break
    changed_at = max(before.st_mtime_ns, before.st_ctime_ns)
    tick = _TICK_NS if before.st_mtime_ns % 1_000_000_000 else _COARSE_TICK_NS
    steady = unchanged and changed_at < began - tick
    return _Read(hasher.hexdigest(), size, stamp_of(before) if steady else None, b"".join(content) if hold else None)


def stamp_of(info: os.stat_result) -> tuple[int, int, int, int]:
    """What tells one state of a file from another: bytes, mtime and ctime in nanoseconds, inode."""
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino


def open_bytes(manifest: Manifest, path: str) -> Iterator[bytes]:
    """The content of one file as it is in the manifest, in blocks of 1 MiB at most.

    Raises:
        FileChangedDuringSync: before the last block is given, if the content is another one by now.
    """
    sha, _, size = manifest.files[path]
    content = manifest.held.get(path)
    if content is not None:
        yield content
        return
    place = manifest.sources.get(path) or os.fsencode(manifest.root.path) + b"/" + listing.encode(path)
    try:
        number = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise FileChangedDuringSync(path) from error
    try:
        if os.fstat(number).st_size < size:
            raise FileChangedDuringSync(path)
        hasher, left = hashlib.sha256(), size
        while left:
            block = os.read(number, min(_BLOCK, left))
            left -= len(block)
            hasher.update(block)
            if not block or (not left and hasher.hexdigest() != sha):
                raise FileChangedDuringSync(path)
            yield block
    except OSError as error:
        raise FileChangedDuringSync(path) from error
    finally:
        os.close(number)


class FileChangedDuringSync(Exception):
    """A file is not any more what was hashed; the scan is repeated. It does not reach the user."""

    def __init__(self, path: str):
        super().__init__(f"{path} changed while it was sent")
        self.path = path
