"""What a scan keeps: it saves reading, and nothing that changed is missed."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from making import UV, Venv, head, run

from runkit.client.scan import LocalEnvironment, scan
from tests.envs.packages import wheel

_read: list[str] = []
_watching = False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event == "open" and isinstance(arguments[0], str):
        _read.append(arguments[0])


sys.addaudithook(_watch)


def reading(python: Path) -> tuple[LocalEnvironment, list[str]]:
    """A scan, and the .dist-info folders whose files it opened."""
    global _watching
    _read.clear()
    _watching = True
    try:
        found = scan(python)
    finally:
        _watching = False
    return found, sorted({os.path.basename(os.path.dirname(one)) for one in _read if ".dist-info/" in one})


def settled() -> None:
    """Files change within the file system's tick unseen; what is kept is older."""
    time.sleep(0.12)


def versions(found: LocalEnvironment) -> dict[str, str]:
    return {one.name: one.version for one in found.distributions}


@pytest.fixture
def filled(venv: Venv, tmp_path: Path) -> Venv:
    """apple and pie, installed by uv, and a scan kept."""
    files = tmp_path / "files"
    for name, version in (("apple", "1.0"), ("apple", "2.0"), ("pie", "1.0")):
        wheel(files, name, version)
    venv.install("--no-index", "--find-links", files, "apple==1.0", "pie")
    settled()
    scan(venv.python)
    return venv


def test_nothing_is_read_again(filled: Venv) -> None:
    before = scan(filled.python, cache=False)
    found, read = reading(filled.python)
    assert (found, read) == (before, [])
    assert scan(filled.folder) == before


def test_fresh_files_are_not_trusted(filled: Venv) -> None:
    metadata = filled.site / "apple-1.0.dist-info" / "METADATA"
    metadata.write_text(head("apple", "1.1"))
    for version in ("1.2", "1.3", "1.4"):  # all within one tick of the file system's clock, perhaps
        assert versions(scan(filled.python))["apple"] != version
        metadata.write_text(head("apple", version))
        assert versions(scan(filled.python))["apple"] == version


def in_place(name: str, text: str) -> Callable[[Venv], None]:
    def change(venv: Venv) -> None:
        path = venv.site / "apple-1.0.dist-info" / name
        times = path.stat()
        path.write_text(text)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # only the change time tells

    return change


def added(name: str, text: str) -> Callable[[Venv], None]:
    return lambda venv: (venv.site / "apple-1.0.dist-info" / name).write_text(text) and None


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        (in_place("METADATA", head("apple", "1.9")), "version", "1.9"),
        (in_place("INSTALLER", "pdm\n"), "installer", "pdm"),
        (in_place("WHEEL", "Tag: cp311-cp311-linux_x86_64\n"), "tags", ("cp311-cp311-linux_x86_64",)),
        (added("direct_url.json", '{"url": "https://example.org/x", "archive_info": {}}'), "source", "archive"),
    ],
)
def test_changes_in_a_dist_info(change: Callable[[Venv], None], field: str, value: object, filled: Venv) -> None:
    change(filled)
    found, read = reading(filled.python)
    one = found.get("apple")
    assert one is not None
    assert getattr(one, field) == value
    assert read == ["apple-1.0.dist-info"]
    assert scan(filled.python, cache=False) == found


def test_install_upgrade_uninstall(filled: Venv, tmp_path: Path) -> None:
    files = ["--no-index", "--find-links", str(tmp_path / "files")]
    filled.install(*files, "apple==2.0")
    found, read = reading(filled.python)
    assert (versions(found), read) == ({"apple": "2.0", "pie": "1.0"}, ["apple-2.0.dist-info"])
    settled()
    scan(filled.python)
    run(UV, "pip", "uninstall", "-q", "--python", filled.python, "pie")
    found, read = reading(filled.python)
    assert (versions(found), read) == ({"apple": "2.0"}, [])
    shutil.copytree(filled.site / "apple-2.0.dist-info", filled.site / "pie-3.0.dist-info")
    (filled.site / "pie-3.0.dist-info" / "METADATA").write_text(head("pie", "3.0"))
    assert versions(scan(filled.python)) == {"apple": "2.0", "pie": "3.0"}


def test_editable_and_back(filled: Venv, tmp_path: Path) -> None:
    """The same name and version, as a wheel and as an editable install, and a .pth file that is edited."""
    folder = tmp_path / "project"
    for root in ("src", "lib"):
        (folder / root / "apple").mkdir(parents=True)
        (folder / root / "apple" / "__init__.py").write_text("")
    info = filled.site / "apple-1.0.dist-info"
    (info / "direct_url.json").write_text(json.dumps({"url": f"file://{folder}", "dir_info": {"editable": True}}))
    (info / "RECORD").write_text("apple.pth,,\n")
    for root in ("src", "lib"):
        (filled.site / "apple.pth").write_text(f"{folder}/{root}\n")
        found = scan(filled.python)
        assert [one.roots for one in found.distributions if one.editable] == [(f"{folder}/{root}",)]
        assert [one.path for one in found.roots] == [f"{folder}/{root}"]
        settled()
        assert scan(filled.python) == found
    (info / "direct_url.json").unlink()
    (filled.site / "apple.pth").unlink()
    found = scan(filled.python)
    assert [(one.source, one.editable) for one in found.distributions] == [("index", None)] * 2
    assert found.roots == ()


def kept_file() -> Path:
    (file,) = (Path(os.environ["RUNKIT_HOME"]) / "scans").iterdir()
    return file


@pytest.mark.parametrize("damage", [0, 5, 60, -30, -1, None])
def test_a_damaged_file_is_ignored(damage: int | None, filled: Venv) -> None:
    before = scan(filled.python)
    file = kept_file()
    content = bytearray(file.read_bytes())
    if damage is None:
        content = content[: len(content) // 2]
    else:
        content[damage] ^= 1
    file.write_bytes(content)
    assert scan(filled.python) == before
    assert reading(filled.python) == (before, [])


def test_the_file_is_private_and_has_no_secret(filled: Venv) -> None:
    added("direct_url.json", '{"url": "https://me:hunter2@example.org/x", "archive_info": {}}')(filled)
    settled()
    scan(filled.python)
    assert "hunter2" not in kept_file().read_text()
    assert kept_file().stat().st_mode & 0o777 == 0o600


def test_without_a_place_to_keep_it(filled: Venv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    monkeypatch.setenv("RUNKIT_HOME", str(blocked / "home"))
    assert versions(scan(filled.python)) == {"apple": "1.0", "pie": "1.0"}


def test_two_environments_keep_apart(filled: Venv, tmp_path: Path) -> None:
    other = Venv(tmp_path / "other" / "venv")
    other.metadata("apple-7.0.dist-info", head("apple", "7.0"))
    settled()
    for _ in range(2):
        assert versions(scan(other.python)) == {"apple": "7.0"}
        assert versions(scan(filled.python)) == {"apple": "1.0", "pie": "1.0"}
