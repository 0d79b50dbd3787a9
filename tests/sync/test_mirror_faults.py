"""What a mirror does with hostile manifests, cut-off uploads, sudden deaths and full disks."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runkit.errors import ServerError, UsageError
from runkit.server.mirror import Mirror
from tests.sync.mirrored import Pair, body, snapshot, write

_SHA = hashlib.sha256(b"x").hexdigest()


@pytest.mark.parametrize(
    "path", ["../evil", "/etc/evil", "a/../../evil", "", ".", "a//b", "a/", "nul\0", "./a", "\ud800"]
)
def test_paths_that_leave_the_tree(pair: Pair, path: str) -> None:
    write(pair.folder, {"a.py": ""})
    for part in ({"files": {path: [_SHA, 0o644, 1]}, "need": [path]}, {"links": {path: "x"}}):
        with pytest.raises(UsageError, match="refused"):
            pair.mirror.apply(pair.root.id, io.BytesIO(body(pair, **part) + b"x"))
    with pytest.raises(UsageError, match="refused"):
        pair.mirror.plan(pair.root.id, {"digest": "d", "files": {path: [_SHA, 0o644, 1]}, "links": {}})
    assert not (pair.tree.parent.parent.parent / "evil").exists()


@pytest.mark.parametrize(
    "manifest",
    [
        {"links": {"a": "/etc"}, "files": {"a/passwd": [_SHA, 0o644, 1]}, "need": []},
        {"files": {"a": [_SHA, 0o644, 1], "a/b": [_SHA, 0o644, 1]}, "need": []},
        {"links": {"a": "b"}, "files": {"a": [_SHA, 0o644, 1]}, "need": []},
        {"files": {"a": ["short", 0o644, 1]}},
        {"files": {"a": [_SHA, 0o4755, 1]}},
        {"files": {"a": [_SHA, 0o644, -1]}},
        {"files": {"a": 1}},
        {"files": []},
        {"links": {"a": ""}},
        {"need": ["nothing of that name"]},
        {"need": "a.py"},
    ],
)
def test_malformed_manifests(pair: Pair, manifest: dict[str, Any]) -> None:
    write(pair.folder, {"a.py": ""})
    with pytest.raises(UsageError):
        pair.mirror.apply(pair.root.id, io.BytesIO(body(pair, **manifest)))
    assert not pair.tree.exists() or snapshot(pair.tree) == {}


@pytest.mark.parametrize("root_id", ["..", "a/b", "", ".hidden", "a\0", "/x"])
def test_ids_that_are_none(pair: Pair, root_id: str) -> None:
    for use in (
        lambda: pair.mirror.has(root_id, "d"),
        lambda: pair.mirror.tree(root_id),
        lambda: pair.mirror.apply(root_id, io.BytesIO()),
    ):
        with pytest.raises(UsageError):
            use()


def test_uploads_that_end_early_change_nothing(pair: Pair) -> None:
    write(pair.folder, {"a.py": "a = 1\n", "b.py": "b = 1\n"})
    digest = pair.sync().manifest.digest
    before = snapshot(pair.tree)
    write(pair.folder, {"a.py": "a = 2\n", "c.py": "c" * 5000})
    whole = body(pair)
    for cut in (0, 4, 8, 20, len(whole) - 5001, len(whole) - 1):
        with pytest.raises(ServerError, match="ended early"):
            pair.mirror.apply(pair.root.id, io.BytesIO(whole[:cut]))
    with pytest.raises(ServerError, match="other content"):
        pair.mirror.apply(pair.root.id, io.BytesIO(whole[:-1] + b"!"))
    assert snapshot(pair.tree) == before
    assert pair.mirror.has(pair.root.id, digest)
    assert list((pair.tree.parent / "incoming").iterdir()) == []
    pair.sync()
    assert snapshot(pair.tree) == snapshot(pair.folder)


def _apply_and_die(home: Path, root_id: str, body: bytes, after: int) -> None:
    """Apply, and end the process like a power cut before the n-th change of the tree."""
    left = after

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink") and "roots" in str(arguments[0]):
            left -= 1
            if left < 0:
                os._exit(9)

    sys.addaudithook(watch)
    Mirror(home).apply(root_id, io.BytesIO(body))
    os._exit(0)


def test_killed_anywhere_the_next_sync_heals(pair: Pair) -> None:
    """At every point: a sync that dies leaves nothing that the next one does not put right, even when the user's files went on."""
    ended = 9
    after = 0
    while ended == 9:
        shutil.rmtree(pair.folder)
        shutil.rmtree(pair.mirror.folder, ignore_errors=True)
        write(pair.folder, {"a.py": "a = 1\n", "gone/b.py": "b = 1\n", "c": "file", "keep": ""})
        pair.sync()
        write(pair.tree, {"remote.txt": "r"})
        shutil.rmtree(pair.folder / "gone")
        (pair.folder / "c").unlink()
        write(pair.folder, {"a.py": "a = 2\n", "c/d.py": "d\n", "brought.py": "new\n"})
        (pair.folder / "link").symlink_to("a.py")
        child = multiprocessing.get_context("fork").Process(
            target=_apply_and_die, args=(pair.mirror.folder.parent, pair.root.id, body(pair), after)
        )
        child.start()
        child.join()
        ended = child.exitcode
        after += 1
        (pair.folder / "brought.py").unlink()  # not in the manifest any more, but it may be over there already
        (pair.folder / "link").unlink()
        pair.sync()
        assert snapshot(pair.tree) == {**snapshot(pair.folder), "remote.txt": snapshot(pair.tree)["remote.txt"]}, after
        assert {path.name for path in pair.tree.parent.iterdir()} == {"tree", "manifest.json", "incoming", "lock"}
        assert list((pair.tree.parent / "incoming").iterdir()) == []
    assert ended == 0
    assert after > 12


def test_disk_full(pair: Pair, tmp_path: Path) -> None:
    """On a real small file system, in a mount namespace of its own."""
    script = tmp_path / "full.py"
    script.write_text(
        "import os, sys, shutil; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from tests.sync.mirrored import Pair, snapshot\n"
        "from runkit.errors import DiskFull\n"
        "pair = Pair(Path(sys.argv[2]), Path(sys.argv[3]))\n"
        "digest = pair.sync().manifest.digest\n"
        "before = snapshot(pair.tree)\n"
        "(pair.folder / 'big.bin').write_bytes(os.urandom(3 << 20))\n"
        "(pair.folder / 'a.py').write_text('a = 2')\n"
        "try: pair.sync(); sys.exit('no error')\n"
        "except DiskFull as error: assert 'is full' in str(error), error\n"
        "assert snapshot(pair.tree) == before and pair.mirror.has(pair.root.id, digest)\n"
        "(pair.folder / 'big.bin').write_bytes(b'small')\n"
        "pair.sync()\n"
        "assert snapshot(pair.tree) == snapshot(pair.folder)\n"
    )
    write(pair.folder, {"a.py": "a = 1"})
    small = tmp_path / "small"
    small.mkdir()
    mount = 'mount -t tmpfs -o size=2m tmpfs "$3" && exec "$0" "$4" "$1" "$2" "$3"'
    rights = ["-m"] if os.geteuid() == 0 else ["-Urm"]
    repository = Path(__file__).parents[2]
    command = ["unshare", *rights, "sh", "-c", mount, sys.executable, repository, pair.folder, small, script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
