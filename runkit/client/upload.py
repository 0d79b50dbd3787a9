"""Sending a root: which bodies go to the server's `/v1/roots`, and the repeats when files change meanwhile."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runkit.client.manifest import FileChangedDuringSync, Manifest, Progress, open_bytes, scan
from runkit.client.roots import Root
from runkit.errors import RootError, ServerError

_ATTEMPTS = 4
_CHUNK = 256 << 10


@dataclass(frozen=True)
class Sent:
    """What an upload came to.

    Attributes:
        manifest: what the mirror holds now.
        changed: files written or links made over there.
        deleted: files and links removed over there.
        sent_bytes: length of the stream.
    """

    manifest: Manifest
    changed: int
    deleted: int
    sent_bytes: int


def _header(manifest: Manifest) -> dict[str, Any]:
    return {
        "digest": manifest.digest,
        "origin": str(manifest.root.path),
        "files": manifest.files,
        "links": manifest.links,
    }


def plan_body(manifest: Manifest) -> bytes:
    """The body of `POST /v1/roots/{id}/plan`: the manifest as JSON (ASCII; odd bytes of names as lone surrogates)."""
    return json.dumps(_header(manifest), separators=(",", ":")).encode()


def stream(manifest: Manifest, need: list[str]) -> tuple[Iterator[bytes], int]:
    """The body of `POST /v1/roots/{id}/apply` in pieces, and its length in bytes.

    Args:
        manifest: what the mirror shall hold.
        need: the paths whose content the server asked for.

    Raises:
        FileChangedDuringSync: (the iterator) a file is not any more what the manifest says. The connection must be
            dropped then; the server discards what it got.
    """
    head = json.dumps({**_header(manifest), "need": need}, separators=(",", ":")).encode()
    length = 8 + len(head) + sum(manifest.files[path][2] for path in need)
    return _pieces(manifest, need, head), length


def _pieces(manifest: Manifest, need: list[str], head: bytes) -> Iterator[bytes]:
    parts, size = [struct.pack(">Q", len(head)), head], 8 + len(head)
    for path in need:
        for block in open_bytes(manifest, path):
            parts.append(block)
            size += len(block)
            if size >= _CHUNK:  # many small files go in one write
                yield b"".join(parts)
                parts, size = [], 0
    if parts:
        yield b"".join(parts)


def upload(
    root: Root,
    plan: Callable[[bytes], list[str]],
    apply: Callable[[Iterator[bytes], int], Mapping[str, Any]],
    manifest: Manifest | None = None,
    progress: Progress | None = None,
) -> Sent:
    """Bring the mirror of a root up to date.

    Args:
        root: the root.
        plan: posts a body to `/v1/roots/{id}/plan`; gives the answer's `need`.
        apply: posts pieces and their length to `/v1/roots/{id}/apply`; gives the answer.
        manifest: from an earlier `scan` of this root, else it is scanned.
        progress: called with what is being done, bytes done and bytes in all.

    Raises:
        RootError: the root cannot be sent, or its files keep changing.
    """
    hold: set[str] = set()
    for _ in range(_ATTEMPTS):
        if manifest is None:
            manifest = scan(root, progress, hold)
        need = plan(plan_body(manifest))
        pieces, length = stream(manifest, need)
        watched = _Watched(pieces, length, progress)
        try:
            answer = apply(iter(watched), length)
        except Exception:
            if watched.changed is None:
                raise
            # Whatever the HTTP layer made of it. What is still being written (a log) is held in memory from now on.
            hold.add(watched.changed.path)
            manifest = None
            continue
        if not answer.get("need"):
            return Sent(manifest, answer["changed"], answer["deleted"], length)
        # Another session of this client changed the mirror between plan and apply.
    if hold:
        names = ", ".join(map(repr, sorted(hold)))
        raise RootError(f"files of {root.path} change all the time: {names}. Name them in a .gitignore")
    raise ServerError(f"the mirror of {root.path} is being changed by another session all the time; try again")


class _Watched:
    """The pieces, with a memory of whether reading them failed."""

    def __init__(self, pieces: Iterator[bytes], total: int, progress: Progress | None):
        self.pieces = pieces
        self.total = total
        self.progress = progress
        self.changed: FileChangedDuringSync | None = None

    def __iter__(self) -> Iterator[bytes]:
        done = 0
        try:
            for piece in self.pieces:
                yield piece
                done += len(piece)
                if self.progress is not None:
                    self.progress("sending", done, self.total)
        except FileChangedDuringSync as error:
            self.changed = error
            raise
