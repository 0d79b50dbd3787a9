"""What arrives of a root: the manifest, checked, and the content of files, received beside the mirror."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from runkit.errors import ServerError, UsageError

_SHA = re.compile(r"[0-9a-f]{64}")
_MAX_MANIFEST = 256 << 20
_BLOCK = 1 << 20


class Reader(Protocol):
    """A blocking source of bytes, such as the body of a request."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class Wanted:
    """A manifest as a client sent it, checked."""

    digest: str
    origin: str
    files: Mapping[str, tuple[str, int, int]]  # path -> sha256, permission bits, bytes
    links: Mapping[str, str]


def encode(path: str) -> bytes:
    """A path's bytes: UTF-8 with surrogateescape (PEP 383), whatever this process's locale."""
    return path.encode("utf-8", "surrogateescape")


def check(manifest: Mapping[str, Any]) -> Wanted:
    """The manifest, if it is well formed and every path lies inside the tree.

    Raises:
        UsageError: it is not.
    """
    try:
        files = {path: (str(sha), int(mode), int(size)) for path, (sha, mode, size) in manifest["files"].items()}
        links = {path: str(target) for path, target in manifest["links"].items()}
        wanted = Wanted(str(manifest["digest"]), str(manifest.get("origin", "")), files, links)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"a malformed manifest of a root: {error!r}") from error
    checked: set[str] = set()
    for path in (*files, *links):
        if not path or "\0" in path or not {"", ".", ".."}.isdisjoint(path.split("/")):
            raise UsageError(f"refused: {path!r} is not a path inside a root")
        try:
            encode(path)
        except UnicodeEncodeError as error:
            raise UsageError(f"refused: {path!r} is not a name of a file") from error
        parent = path.rpartition("/")[0]
        while parent and parent not in checked:
            if parent in files or parent in links:
                raise UsageError(f"refused: {path!r} is below {parent!r}, which is no folder")
            checked.add(parent)
            parent = parent.rpartition("/")[0]
        if path in files and path in links:
            raise UsageError(f"refused: {path!r} is both a file and a link")
    for path, (sha, mode, size) in files.items():
        if not _SHA.fullmatch(sha) or not 0 <= mode <= 0o777 or size < 0:
            raise UsageError(f"refused: {path!r} has no proper hash, mode or size")
    if any(not target or "\0" in target for target in links.values()):
        raise UsageError("refused: a link without a target")
    return wanted


def receive(reader: Reader, incoming: Path) -> tuple[Wanted, dict[str, bytes]]:
    """The stream's manifest, and where each file's content was put.

    Raises:
        UsageError: a malformed manifest.
        ServerError: the stream ended early, or content does not match its hash.
        OSError: it could not be written.
    """
    source = _Buffered(reader)
    (length,) = struct.unpack(">Q", b"".join(source.blocks(8)))
    if length > _MAX_MANIFEST:
        raise UsageError(f"a manifest of {length} bytes is too large")
    try:
        header = json.loads(b"".join(source.blocks(length)))
        need = header["need"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"a malformed manifest of a root: {error!r}") from error
    wanted = check(header)
    if not isinstance(need, list) or len(set(need)) != len(need) or not wanted.files.keys() >= set(need):
        raise UsageError("the list of the files that are sent does not fit the manifest")
    received: dict[str, bytes] = {}
    for path in need:
        sha, mode, size = wanted.files[path]
        place = os.fsencode(incoming / str(len(received)))
        hasher = hashlib.sha256()
        number = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(number, "wb") as file:
            for block in source.blocks(size):
                hasher.update(block)
                file.write(block)
            os.fchmod(number, mode)
        if hasher.hexdigest() != sha:
            raise ServerError(f"{path!r} arrived with other content than announced: it changed while it was sent")
        received[path] = place
    return wanted, received


class _Buffered:
    """A reader that asks its source for much at a time: a question may cost a change of threads."""

    def __init__(self, source: Reader):
        self._source = source
        self._buffer = memoryview(b"")

    def blocks(self, size: int) -> Iterator[memoryview]:
        """The next `size` bytes, in pieces."""
        while size:
            if not self._buffer:
                self._buffer = memoryview(self._source.read(_BLOCK))
                if not self._buffer:
                    raise ServerError("the upload of a root ended early; nothing was changed")
            block, self._buffer = self._buffer[:size], self._buffer[size:]
            size -= len(block)
            yield block
