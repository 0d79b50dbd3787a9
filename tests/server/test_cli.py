"""The `runkit` command, run as people run it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import runkit as rk
from tests.hosts import Host
from tests.server.running import REPOSITORY, Server


def runkit(*arguments: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runkit.cli", *arguments],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        env={**os.environ, "COLUMNS": "120"},
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["status", "--help"], ["logs", "--help"], ["server", "start", "--help"]]
)
def test_help(arguments: list[str]) -> None:
    done = runkit(*arguments)
    assert done.returncode == 0
    assert "usage: runkit" in done.stdout


def test_version() -> None:
    assert runkit("--version").stdout == f"runkit {rk.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["status"], ["server"], ["server", "start", "--port", "many"]])
def test_wrong_command_lines(arguments: list[str]) -> None:
    done = runkit(*arguments)
    assert done.returncode == 2
    assert "usage" in done.stderr


@pytest.mark.parametrize("command", ["status", "logs", "stop", "ssh"])
def test_unknown_cluster(client_state: Path, command: str) -> None:
    done = runkit(command, "nobody")
    assert done.returncode == 1
    assert "nobody" in done.stderr
    assert "Traceback" not in done.stderr


def test_server_on_this_host(the_server: Server) -> None:
    port = str(the_server.port)
    the_server.stop()
    started = runkit("server", "start", "--port", port)
    assert started.returncode == 0, started.stderr
    assert json.loads(started.stdout)["port"] == the_server.port
    status = runkit("server", "status", "--port", port)
    assert json.loads(status.stdout)["envs"]["default"]["state"] == "ready"
    assert runkit("server", "stop", "--port", port).returncode == 0
    gone = runkit("server", "status", "--port", port)
    assert gone.returncode == 3
    assert "no server runs" in gone.stdout


def test_cluster_by_name(host: Host, client_state: Path) -> None:
    cluster = rk.cluster(
        "cli-box", host=host.address, ssh_port=host.port, ssh_creds=host.ssh_creds, server_port=host.server_port
    )
    cluster.save()
    cluster.up_if_not()
    cluster.run_python(["print('a line for the log')"])
    cluster.put("cli-key", 1)
    status = runkit("status", "cli-box")
    assert status.returncode == 0, status.stderr
    for words in ("cli-box: runkit", "objects: cli-key", "Ray 2."):
        assert words in status.stdout
    assert re.search(r"env    default( \(.*\))?: ready", status.stdout), (
        status.stdout
    )  # with the name it was given, if it was
    assert json.loads(runkit("status", "cli-box", "--json").stdout)["port"] == host.server_port
    logs = runkit("logs", "cli-box")
    assert "a line for the log" in logs.stdout
    assert "nothing" in runkit("logs", "cli-box", "nothing").stderr
    assert "cannot be the name of an env" in runkit("logs", "cli-box", "a?b/c").stderr
    cluster.delete("cli-key")
    follow = [sys.executable, "-m", "runkit.cli", "logs", "cli-box", "--follow"]
    with subprocess.Popen(
        follow, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as following:
        assert following.stdout is not None
        assert following.stdout.readline()
        host.run(f"kill -9 {cluster.status()['pid']}")
        said = following.communicate(timeout=60)[1]
    assert following.returncode == 1
    assert said.startswith("runkit: ")
    assert "Traceback" not in said
    cluster.disconnect()
    stopped = runkit("stop", "cli-box")  # also what the killed server left
    assert (stopped.returncode, "has ended" in stopped.stdout) == (0, True), stopped.stderr
    again = runkit("stop", "cli-box")
    assert (again.returncode, "no server runs" in again.stdout) == (0, True), again.stderr


def test_stopping_a_cluster_that_cannot_be_reached(client_state: Path) -> None:
    rk.cluster("far", host="no-such-host.invalid").save()
    done = runkit("stop", "far")
    assert done.returncode == 1
    assert "no-such-host.invalid" in done.stderr
    assert "no server runs" not in done.stdout
