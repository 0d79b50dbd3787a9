"""A root on this side, its mirror on the other, and the code that connects them, with real git and real files."""

from __future__ import annotations

import io
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from runkit.client import roots
from runkit.client.manifest import Manifest, scan
from runkit.client.upload import Sent, stream, upload
from runkit.server.mirror import Applied, Mirror

GIT_SETTINGS = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
GIT_SETTINGS.update(
    {f"GIT_{who}_{what}": "a@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
)


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-c", "protocol.file.allow=always", *arguments], cwd=folder, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return os.fsdecode(done.stdout)


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def snapshot(folder: Path) -> dict[str, str | tuple[bytes, int]]:
    """What lies in a folder: path -> (content, permission bits), or a link's target."""
    found: dict[str, str | tuple[bytes, int]] = {}
    for base, folders, names in os.walk(folder):
        for name in [*names, *folders]:
            path = os.path.join(base, name)
            key = os.path.relpath(path, folder)
            if os.path.islink(path):
                found[key] = os.readlink(path)
            elif os.path.isfile(path):
                with open(path, "rb") as file:
                    found[key] = (file.read(), os.stat(path).st_mode & 0o777)
    return found


def git_lists(folder: Path) -> set[str]:
    names = git(folder, "ls-files", "-co", "--exclude-standard", "-z", "--deduplicate").split("\0")
    return {name for name in names if name and os.path.lexists(folder / name)}


class Pair:
    """A root here and its mirror there."""

    def __init__(self, folder: Path, home: Path):
        self.folder = folder
        self.root = roots.root_at(folder)
        self.mirror = Mirror(home)
        self.applied = Applied(0, 0)
        self.meanwhile: Callable[[], None] = lambda: None  # runs between plan and apply
        self.asked: list[list[str]] = []

    @property
    def tree(self) -> Path:
        return self.mirror.tree(self.root.id)

    def plan(self, manifest: bytes) -> list[str]:
        self.asked.append(self.mirror.plan(self.root.id, json.loads(manifest)))
        return self.asked[-1]

    def apply(self, pieces: Iterator[bytes], length: int) -> dict[str, object]:
        self.meanwhile()
        whole = b"".join(pieces)
        assert len(whole) == length
        self.applied = self.mirror.apply(self.root.id, io.BytesIO(whole))
        return {"changed": self.applied.changed, "deleted": self.applied.deleted, "need": list(self.applied.need)}

    def sync(self, manifest: Manifest | None = None) -> Sent:
        sent = upload(self.root, self.plan, self.apply, manifest)
        assert self.mirror.has(self.root.id, sent.manifest.digest)
        return sent


def body(pair: Pair, **changes: Any) -> bytes:
    """A stream with everything the root holds, and changes of its header."""
    manifest = scan(pair.root)
    pieces, _ = stream(manifest, list(manifest.files))
    whole = b"".join(pieces)
    length = int.from_bytes(whole[:8], "big")
    head = json.dumps({**json.loads(whole[8 : 8 + length]), **changes}).encode()
    return len(head).to_bytes(8, "big") + head + whole[8 + length :]
