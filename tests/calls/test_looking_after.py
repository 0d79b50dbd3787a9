"""Envs looked at, removed, and their old folders collected: from Python and from the shell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

import runkit as rk
from tests.calls import jobs
from tests.hosts import Host
from tests.server.running import REPOSITORY


@pytest.fixture(scope="module")
def box(cluster: rk.Cluster, host: Host) -> Iterator[rk.Cluster]:
    """The cluster, saved, with two envs that hold an object each."""
    cluster.save()
    rk.env(name="kept", reqs=["six==1.16.0"], env_vars={"TOKEN_OF_KEPT": "hidden"}, root_reqs=False).to(cluster)
    rk.env(name="goes", reqs=["iniconfig==2.0.0"], root_reqs=False).to(cluster)
    for env in ("kept", "goes"):
        cluster.put(f"of {env}", 1, env=env)
    yield cluster
    cluster.clear()


def runkit(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runkit.cli", *arguments],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "120"},
    )


def test_the_list(box: rk.Cluster) -> None:
    found = {env.name: env for env in box.env_list()}
    assert next(iter(found)) == "default"
    kept = found["kept"]
    assert (kept.state, kept.packages, kept.keys, kept.compute) == ("ready", 1, ("of kept",), {})
    assert kept.python.startswith(f"{sys.version_info[0]}.{sys.version_info[1]}")
    assert kept.pid == rk.function(jobs.pid).to(box, env="kept")()
    assert (kept.size or 0) > 10_000
    assert "'kept': ready" in repr(kept)
    env = rk.env(name="kept", reqs=["six==1.16.0"], env_vars={"TOKEN_OF_KEPT": "hidden"}, root_reqs=False)
    assert env.to(box).status().pid == env.status(box).pid == kept.pid
    with pytest.raises(rk.errors.EnvNotFound, match="no env 'other'"):
        rk.env(name="other").status(box)


def test_from_the_shell(box: rk.Cluster) -> None:
    listed = runkit("env", "list", "box")
    assert listed.returncode == 0, listed.stderr
    assert any(
        line.startswith("kept: ready, Python") and "objects of kept" in line for line in listed.stdout.splitlines()
    )
    assert json.loads(runkit("env", "list", "box", "--json").stdout)["kept"]["keys"] == ["of kept"]
    shown = runkit("env", "show", "box", "kept").stdout
    for words in ("six==1.16.0", "TOKEN_OF_KEPT", "six 1.16.0"):
        assert words in shown
    assert "hidden" not in shown + runkit("env", "show", "box", "kept", "--json").stdout
    box.run("echo a line of kept", env="kept")
    assert "a line of kept" in runkit("env", "logs", "box", "kept", "-n", "5").stdout
    for action in ("show", "rm"):
        wrong = runkit("env", action, "box", "nothing")
        assert (wrong.returncode, "no env 'nothing'" in wrong.stderr) == (1, True)


def test_removed_with_its_process_and_its_keys_alone(box: rk.Cluster) -> None:
    before = {env.name: env for env in box.env_list()}
    removed = runkit("env", "rm", "box", "goes")
    assert (removed.returncode, "of goes" in removed.stdout) == (0, True), removed.stderr
    after = {env.name: env for env in box.env_list()}
    assert set(before) - set(after) == {"goes"}
    assert (after["kept"].pid, after["default"].pid) == (before["kept"].pid, before["default"].pid)
    assert box.run(f"ps -p {before['goes'].pid}", stream_logs=False)[0][0] != 0
    assert box.keys() == ["of kept"]
    with pytest.raises(rk.errors.EnvNotFound):
        box.remove_env("goes")
    # It is made again from its folder, which is there still.
    env = rk.env(name="goes", reqs=["iniconfig==2.0.0"], root_reqs=False)
    assert rk.function(jobs.version_of).to(box, env=env)("iniconfig") == "2.0.0"
    box.put("of goes", 1, env="goes")
    assert box.remove_env(env.to(box)) == ("of goes",)


def test_folders_that_nobody_uses(box: rk.Cluster, host: Host) -> None:
    build = box.status()["envs"]["kept"]["build"]
    # The command makes its folder its own: on this host, other tests have envs of that package alone.
    env = rk.env(name="goes", reqs=["iniconfig==2.1.0"], setup_cmds=[": goes"], root_reqs=False)
    env.to(box)
    gone = box.status()["envs"]["goes"]["build"]
    # The running process gets more packages, and goes on with what it has of its first folder.
    rk.env(
        name="kept", reqs=["six==1.16.0", "iniconfig==2.0.0"], env_vars={"TOKEN_OF_KEPT": "hidden"}, root_reqs=False
    ).to(box)
    assert box.status()["envs"]["kept"]["build"] != build
    assert not json.loads(runkit("env", "gc", "box", "--json", "--dry-run").stdout)[
        "removed"
    ]  # all of it was used lately
    box.remove_env("goes")
    for _ in range(30):  # its servlet, which is ending, holds it until then
        removed = json.loads(runkit("env", "gc", "box", "--all", "--json", "--dry-run").stdout)["removed"]
        names = [one["name"] for one in removed]
        if gone in names:
            break
        time.sleep(0.5)
    assert gone in names
    assert build not in names
    assert (host.home / ".runkit/envs" / gone).exists()
    done = runkit("env", "gc", "box", "--all")
    assert (done.returncode, f"env {gone}:" in done.stdout, "MB are free" in done.stdout) == (0, True, True), (
        done.stderr
    )
    assert not (host.home / ".runkit/envs" / gone).exists()
    assert rk.function(jobs.version_of).to(box, env="kept")("six") == "1.16.0"
    assert rk.function(jobs.version_of).to(box, env=env)("iniconfig") == "2.1.0"
    box.remove_env("goes")
