"""What is of no more use in a RUNKIT_HOME goes, and nothing else."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import uv

from runkit.client import leftovers
from runkit.server import gc
from runkit.servlet.actor import EnvServlet
from runkit.servlet.install import MARKER
from tests.server.running import plan

LONG_AGO = time.time() - 90 * 86400
SHA = ("a" * 64, "b" * 64)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """One with an env that is kept, one that nobody uses, one that was cut off; wheels, code and interpreters of all ages."""
    for build in ("kept", "unused", "cut-off", "recent", "default-ray1-python3"):
        (tmp_path / "envs" / build / "lib").mkdir(parents=True)
        (tmp_path / "envs" / build / "lib/big").write_bytes(b"x" * 100_000)
        if build != "cut-off":
            (tmp_path / "envs" / build / MARKER).write_text("{}")
    for path in (
        "code/running/runkit",
        "code/boot/runkit",
        "code/old/runkit",
        "python/used/bin",
        "python/left/bin",
        "roots/one/tree",
        "conda/pkgs/old-1.0-0/lib",
        "tools/old-python3/bin",
    ):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "conda/pkgs/old-1.0-0.lock").touch()
    (tmp_path / "envs/kept/bin").mkdir()
    (tmp_path / "envs/kept/bin/python").symlink_to(tmp_path / "python/used/bin/python3")
    for sha in SHA:
        (tmp_path / "wheels" / sha).mkdir(parents=True)
        (tmp_path / "wheels" / sha / "x.whl").write_bytes(b"y" * 5000)
    (tmp_path / "wheels/base").mkdir()
    server = tmp_path / "servers/32300"
    (server / "envs").mkdir(parents=True)
    (server / "envs/one.json").write_text(
        json.dumps({"name": "one", "build": "kept", "lock": f'path = "{SHA[0]}/x.whl"'})
    )
    (server / "boot").write_text(f"PYTHONPATH={tmp_path}/code/boot exec python\n")
    for path in tmp_path.rglob("*"):
        if "recent" not in path.parts:
            os.utime(path, (LONG_AGO, LONG_AGO), follow_symlinks=False)
    return tmp_path


def names(removed: list[gc.Removed]) -> set[str]:
    return {f"{one.kind} {one.name}" for one in removed}


def test_what_goes_and_what_stays(home: Path) -> None:
    running = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={"PYTHONPATH": f"{home}/code/running"}
    )
    expected = {
        "env unused",
        "env cut-off",
        "code old",
        f"wheel {SHA[1]}",
        "Python left",
        "conda package old-1.0-0",
        "tools old-python3",
    }
    with running:
        before = sorted(home.rglob("[!.]*"))
        assert names(gc.collect(home, dry_run=True)) == expected
        assert sorted(home.rglob("[!.]*")) == before
        removed = gc.collect(home)
        assert names(removed) == expected
        assert next(one.size for one in removed if one.name == "unused") >= 100_000
        assert {path.name for path in (home / "envs").iterdir() if not path.name.startswith(".")} == {
            "kept",
            "recent",
            "default-ray1-python3",
        }
        assert {path.name for path in (home / "code").iterdir()} == {"running", "boot"}
        assert (home / "roots/one/tree").is_dir()
        assert (home / "wheels/base").is_dir()
        assert names(gc.collect(home)) == set()
        assert names(gc.collect(home, everything=True)) == {"env recent"}
        running.stdin.close()  # type: ignore[union-attr]


def test_a_build_in_use(home: Path) -> None:
    """By a servlet that has it, a process that was started from it, or one that is just making it."""
    folders = {"runtime": str(home), "sockets": str(home)}
    place = {"home": str(home), "uv": uv.find_uv_bin(), "mark": str(home), "variables": {}, **folders}
    servlet = EnvServlet(place, "one", 1)
    assert list(servlet.build(plan("one", build="new"), "ticket"))[-1][-1] == {"built": "new"}
    assert "env new" not in names(gc.collect(home, everything=True))
    servlet._uses.end("new")
    child = subprocess.Popen([home / "envs/new/bin/python", "-c", "input()"], stdin=subprocess.PIPE)
    with child:
        assert "env new" not in names(gc.collect(home, everything=True))
        child.stdin.close()  # type: ignore[union-attr]
    assert "env new" in names(gc.collect(home, everything=True))
    failing = plan("one", build="failing", setup_cmds=["exit 3"])
    assert "error" in list(servlet.build(failing, "another"))[-1][-1]
    assert servlet._uses.hold("failing")  # it was let go of
    fcntl.lockf(servlet._uses._held["failing"], fcntl.LOCK_SH)  # which is what NFS makes of it


def test_one_that_was_cut_off(home: Path) -> None:
    (home / "envs/.gone.x.1234/lib").mkdir(parents=True)
    gc.collect(home)
    assert not (home / "envs/.gone.x.1234").exists()


def test_what_a_client_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNKIT_RUNTIME_DIR", str(tmp_path / "runtime"))
    for name in ("locks/old.json", "locks/new.json", "pythons/old.tar.gz", "built/new.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
        if "old" in name:
            os.utime(tmp_path / name, (LONG_AGO, LONG_AGO))
    found = leftovers.collect(tmp_path, dry_run=True)
    assert [one["name"] for one in found] == ["old.json", "old.tar.gz"]
    assert leftovers.collect(tmp_path) == found
    assert leftovers.collect(tmp_path) == []
    assert (tmp_path / "locks/new.json").exists()


def test_what_git_leaves_on_a_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository stays as long as a checkout has its objects there, and what somebody is at."""
    monkeypatch.setenv("RUNKIT_RUNTIME_DIR", str(tmp_path / "runtime"))
    git = tmp_path / "git"
    for name, number in (("used", "a" * 12), ("old", "b" * 12), ("locked", "c" * 12)):
        bare, checkout = git / f"repositories/{name}-{number}", git / f"checkouts/{name}-0123-4567"
        bare.mkdir(parents=True)
        info = checkout / ".git/objects/info"
        info.mkdir(parents=True)
        (info / "alternates").write_text(f"{bare}/objects\n")
    for folder in (git / "ask-dead", git / "ask-alive", tmp_path / "runtime/rk-ask-dead"):
        folder.mkdir(parents=True)
    alive = (git / "ask-alive", git / "checkouts/used-0123-4567/.git")
    for path in tmp_path.rglob("*"):
        if path not in alive:
            os.utime(path, (LONG_AGO, LONG_AGO))
    with open(git / f".{'c' * 12}.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        removed = [one["name"] for one in leftovers.collect(tmp_path)]
    assert removed == ["ask-dead", "rk-ask-dead", "old-0123-4567", f"old-{'b' * 12}"]
    assert sorted(path.name for path in git.glob("*/*")) == sorted(
        ["used-0123-4567", "locked-0123-4567", f"used-{'a' * 12}", f"locked-{'c' * 12}"]
    )


def test_interpreters_behind_links(home: Path) -> None:
    """uv gives out `cpython-3.12-…`, a link to the folder of the version, and envs are made from that; so may a kept plan say."""
    python = home / "python"
    for name in ("cpython-3.12.4", "cpython-3.11.9", "cpython-3.10.1"):
        (python / name / "bin").mkdir(parents=True)
        os.utime(python / name, (LONG_AGO, LONG_AGO))
    (python / "cpython-3.12").symlink_to("cpython-3.12.4")
    (python / "cpython-3.11").symlink_to(python / "cpython-3.11.9")
    (home / "envs/kept/pyvenv.cfg").write_text(f"home = {python}/cpython-3.12/bin\n")
    kept = home / "servers/32300/envs/other.json"
    kept.write_text(json.dumps({"build": "gone", "python": {"path": f"{python}/cpython-3.11/bin/python3.11"}}))
    found = names(gc.collect(home, everything=True, dry_run=True))
    assert {one for one in found if one.startswith("Python")} == {"Python left", "Python cpython-3.10.1"}
