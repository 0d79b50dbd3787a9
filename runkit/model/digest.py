"""Stable digests: the same content has the same name, on any machine and on any day."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

_files: dict[tuple[str, str, int, int, int], str] = {}


def digest(value: Any) -> str:
    """The SHA-256, in hex, of a value made of dicts, lists, strings, numbers and None (order of keys does not count)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: str | Path, kind: str = "sha256") -> str:
    """The SHA-256, or another hash of hashlib's, in hex, of a file's bytes; remembered while its size, time and inode stay."""
    info = os.stat(path)
    key = (kind, os.fspath(path), info.st_size, info.st_mtime_ns, info.st_ino)
    if key not in _files:
        hasher = hashlib.new(kind, usedforsecurity=kind != "md5")
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                hasher.update(chunk)
        _files[key] = hasher.hexdigest()
    return _files[key]
