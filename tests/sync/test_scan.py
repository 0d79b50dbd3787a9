"""Scanning: what is hashed again and what is not, and that nothing is missed."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from runkit.client import manifest as module
from runkit.client import roots
from runkit.client.manifest import FileChangedDuringSync, open_bytes, scan
from runkit.errors import RootError
from tests.sync.mirrored import write

_opened: list[str] = []
_watching = False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event == "open" and isinstance(arguments[0], bytes):
        _opened.append(os.path.basename(os.fsdecode(arguments[0])))


sys.addaudithook(_watch)


def _read_by(root: roots.Root) -> tuple[module.Manifest, list[str]]:
    """A scan, and the files whose content it read."""
    global _watching
    _opened.clear()
    _watching = True
    try:
        found = scan(root)
    finally:
        _watching = False
    return found, sorted(name for name in _opened if name != ".gitignore")


def _aged(folder: Path) -> roots.Root:
    """The root, after its files have been left alone for long enough."""
    root = roots.root_at(folder)
    scan(root)
    time.sleep(0.15)
    scan(root)
    return root


def _forget() -> None:
    module._known.clear()  # what another process begins with


@pytest.mark.parametrize("new_process", [False, True])
def test_only_edited_files_are_read(tmp_path: Path, new_process: bool) -> None:
    write(tmp_path, {"a.py": "a = 1\n", "b.py": "b = 1\n", "c.py": ""})
    root = _aged(tmp_path)
    before = scan(root)
    if new_process:
        _forget()
    now, read = _read_by(root)
    assert (now, read) == (before, [])
    write(tmp_path, {"a.py": "a = 2\n"})
    now, read = _read_by(root)
    assert read == ["a.py"]
    assert now.digest != before.digest
    assert {path for path in now.files if now.files[path] != before.files[path]} == {"a.py"}
    write(tmp_path, {"a.py": "a = 1\n"})
    assert scan(root).digest == before.digest


def test_edit_that_keeps_size_and_mtime(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "a = 1\n"})
    root = _aged(tmp_path)
    times = (tmp_path / "a.py").stat()
    before = scan(root)
    write(tmp_path, {"a.py": "a = 2\n"})
    os.utime(tmp_path / "a.py", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert scan(root).digest != before.digest


def test_edits_within_one_tick_of_the_clock(tmp_path: Path) -> None:
    """As fast as possible: a hash must not be kept with a stat that the next edit shares."""
    write(tmp_path, {"a.py": "0000"})
    root = roots.root_at(tmp_path)
    with open(tmp_path / "a.py", "r+b", buffering=0) as file:
        for number in range(400):
            file.seek(0)
            file.write(b"%04d" % number)
            found = scan(root)
            assert b"".join(open_bytes(found, "a.py")) == b"%04d" % number


def test_hashes_of_files_that_were_just_written_are_not_kept(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "a = 1\n", "b.py": "b = 1\n"})
    root = _aged(tmp_path)
    os.utime(tmp_path / "b.py", ns=(0, time.time_ns() + 3600 * 10**9))
    assert _read_by(root)[1] == ["b.py"]
    assert _read_by(root)[1] == ["b.py"]


def test_modes_and_names_are_part_of_the_digest(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "", "b.py": "x"})
    root = roots.root_at(tmp_path)
    digests = {scan(root).digest}
    (tmp_path / "a.py").chmod(0o755)
    digests.add(scan(root).digest)
    os.rename(tmp_path / "a.py", tmp_path / "c.py")
    digests.add(scan(root).digest)
    (tmp_path / "link").symlink_to("b.py")
    digests.add(scan(root).digest)
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("c.py")
    digests.add(scan(root).digest)
    assert len(digests) == 5


@pytest.mark.parametrize(
    "rubbish", ["", "{", "[]", '{"version": 1}', '{"version": 1, "files": 3}', '{"version": 1, "files": {"a.py": [1]}}']
)
def test_a_spoilt_cache_is_made_anew(tmp_path: Path, rubbish: str) -> None:
    write(tmp_path, {"a.py": "a = 1\n"})
    root = _aged(tmp_path)
    before = scan(root)
    _forget()
    kept = Path(os.environ["RUNKIT_HOME"]) / "manifests" / f"{root.id}.json"
    assert json.loads(kept.read_text())["files"].keys() == {"a.py"}
    kept.write_text(rubbish)
    assert scan(root) == before


def test_much_is_hashed_in_threads_with_progress(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.bin").write_bytes(bytes([number]) * (3 << 20))
    said: list[tuple[str, int, int]] = []
    found = scan(roots.root_at(tmp_path), lambda *what: said.append(what))
    assert said[-1] == ("hashing", 15 << 20, 15 << 20)
    assert len({sha for sha, _, _ in found.files.values()}) == 5
    assert b"".join(open_bytes(found, "3.bin")) == b"\3" * (3 << 20)


def test_reading_what_changed_says_so(tmp_path: Path) -> None:
    write(tmp_path, {"edited": "12345", "shrunk": "12345", "gone": "12345", "grown": "12345"})
    found = scan(roots.root_at(tmp_path))
    write(tmp_path, {"edited": "54321", "shrunk": "123", "grown": "12345678"})
    (tmp_path / "gone").unlink()
    for name in ("edited", "shrunk", "gone"):
        with pytest.raises(FileChangedDuringSync):
            list(open_bytes(found, name))
    assert (
        b"".join(open_bytes(found, "grown")) == b"12345"
    )  # a log that goes on being written: what was hashed is still there


def test_limit_that_is_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"a.py": ""})
    monkeypatch.setenv("RUNKIT_MAX_ROOT_BYTES", "1G")
    with pytest.raises(RootError, match="number of bytes"):
        scan(roots.root_at(tmp_path))
