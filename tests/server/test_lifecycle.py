"""Start, stop, restart, and what happens when a part of it dies."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from runkit.errors import RunkitError
from runkit.server import lifecycle
from runkit.servlet.processes import ProcessId
from tests.server.running import Server, command, eventually, free_ports, plan


def put(server: Server, key: str, env: str = "default") -> None:
    """Have an env's worker own a key, as its object store does."""
    with server.stream(env) as stream:
        stream.call("builtins", "exec", f"from runkit.worker import here\nhere.Here().put({key!r}, 42)", {})


def test_start_again_changes_nothing(server: Server) -> None:
    first = server.env()["worker"]
    again = server.start()
    assert not again["fresh"]
    assert again["pid"] == server.state["server"]["pid"]
    assert server.env()["worker"]["pid"] == first["pid"]


def test_two_starts_at_once_make_one_server(the_server: Server) -> None:
    the_server.stop()
    with ThreadPoolExecutor() as threads:
        both = list(threads.map(lambda _: command("start", "--port", str(the_server.port)), range(2)))
    first, second = (the_server.started(done) for done in both)
    assert {first["fresh"], second["fresh"]} == {True, False}
    assert first["pid"] == second["pid"] == the_server.state["server"]["pid"]


def test_nothing_is_left_after_stop(server: Server) -> None:
    with server.stream() as stream:
        stream.call("os", "system", "sleep 1000 & setsid sleep 1000 &")
    pids = server.processes()
    assert len(pids) > 5
    server.stop()
    assert server.processes() == []
    assert not [
        pid for pid in pids if Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text()
    ]
    assert not (server.runtime / "server.sock").exists()
    assert json.loads(command("status", "--port", str(server.port)).stdout) == {"running": False}
    assert json.loads(command("stop", "--port", str(server.port)).stdout) == {"stopped": False}


def test_restart_of_the_server_alone_keeps_envs_and_objects(server: Server) -> None:
    put(server, "kept")
    before = server.env()
    old = ProcessId.from_json(server.state["server"])
    assert old is not None
    server.api.json("POST", "/v1/shutdown", {"keep_ray": True})
    assert old.wait(10)
    with ThreadPoolExecutor() as threads:
        started = threads.submit(server.start)

        def ask() -> dict[str, Any] | None:
            with suppress(OSError, RunkitError):  # it does not listen yet
                return server.api.json("POST", "/v1/envs/default/call/kept/bit_length", {})
            return None

        assert eventually(ask) == {"result": 6}  # as soon as it listens; a key is never missing for a moment
        assert started.result()["fresh"]
    after = server.env()
    assert after["worker"]["pid"] == before["worker"]["pid"]
    eventually(lambda: server.env()["keys"] == ["kept"])  # the worker comes back by itself and says what it has
    assert server.api.json("GET", "/v1/keys")["keys"] == {"kept": "default"}


def test_server_that_was_killed_is_taken_over(server: Server) -> None:
    put(server, "kept2")
    before = server.env()["worker"]["pid"]
    os.kill(server.state["server"]["pid"], signal.SIGKILL)
    assert server.start()["fresh"]
    assert server.env()["worker"]["pid"] == before
    eventually(lambda: "kept2" in server.env()["keys"])


def test_keys_go_with_their_worker(server: Server) -> None:
    put(server, "lost")
    eventually(lambda: "lost" in server.env()["keys"])
    answer = server.api.json("POST", "/v1/envs/default/restart", {})
    assert "lost" in answer["lost"]
    assert server.api.json("GET", "/v1/keys")["keys"] == {}


@pytest.mark.parametrize("part", ["gcs_server", "raylet", "rayhead", "servlet"])
def test_part_of_ray_dies(server: Server, part: str) -> None:
    before = server.env()["worker"]
    for pid in _parts(server)[part]:
        os.kill(pid, signal.SIGKILL)

    def back() -> bool:
        env = server.env()
        return bool(env["worker"]) and env["worker"]["pid"] != before["pid"] and env["state"] == "ready"

    eventually(back, 60)
    assert eventually(lambda: ProcessId(before["pid"], 0).alive() is False)
    if part != "servlet":
        assert "Ray ended" in eventually(lambda: server.api.json("GET", "/v1/status")["ray"]["trouble"])
    with server.stream() as stream:
        assert stream.call("math", "sqrt", 4) == 2.0


def _parts(server: Server) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {"gcs_server": [], "raylet": [], "rayhead": [], "servlet": []}
    for pid in server.processes():
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        for part, sign in (
            ("gcs_server", "gcs/gcs_server "),
            ("raylet", "raylet/raylet "),
            ("rayhead", "runkit.server.rayhead"),
            ("servlet", "ray::EnvServlet"),
        ):
            if sign in line:
                found[part].append(pid)
    assert all(len(pids) == 1 for pids in found.values()), found
    return found


def test_everything_at_once(server: Server) -> None:
    """A host that lost all of it (as at a reboot, with the files still there) starts as if nothing had been."""
    for pid in server.processes():
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not ProcessId(server.state["server"]["pid"], server.state["server"]["started"]).alive())
    assert server.start()["fresh"]
    assert server.env()["state"] == "ready"


def test_a_build_that_goes_on_after_everything_else_was_killed(server: Server, tmp_path: Path) -> None:
    hanging = plan("orphan", build="orphan-1", setup_cmds=[f"sleep 600 & echo $! > {tmp_path}/pid; echo on; wait"])
    events = server.api.events("PUT", "/v1/envs/orphan", hanging)
    while next(events) != {"log": "on"}:
        pass
    build = ProcessId.of(int((tmp_path / "pid").read_text()))
    assert build is not None
    for pid in server.processes():
        with suppress(ProcessLookupError):
            if os.getpgid(pid) != os.getpgid(build.pid):
                os.kill(pid, signal.SIGKILL)
    assert build.alive()
    server.stop()
    assert not build.alive()


def test_who_would_lose_something(server: Server) -> None:
    """A server is not replaced by one of other code while it builds, or holds what only a client can bring again."""
    assert lifecycle.why_busy(server.api.json("GET", "/v1/status")) == ""
    secret = {"fingerprint": "1", "variables": {"A_TOKEN": "value"}}
    events = server.api.events("PUT", "/v1/envs/slow", plan("slow", build="slow-1", setup_cmds=["echo on; sleep 600"]))
    while next(events) != {"log": "on"}:
        pass
    assert "'slow' is being installed" in lifecycle.why_busy(server.api.json("GET", "/v1/status"))
    events.close()
    list(server.api.events("PUT", "/v1/envs/safe", plan("safe", secrets={"token-of-a": secret})))
    assert "'safe' holds secrets" in lifecycle.why_busy(server.api.json("GET", "/v1/status"))
    server.api.json("DELETE", "/v1/envs/safe")


class TestPorts:
    @pytest.mark.parametrize("offset", [0, 1, 2])
    def test_port_of_somebody_else(self, client_state: Path, offset: int) -> None:
        port = free_ports()
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", port + offset))
            taken.listen()
            done = command("start", "--port", str(port))
        assert done.returncode == 1
        error = json.loads(done.stdout.splitlines()[-1])["error"]
        assert error["type"] == "PortInUse"
        assert f"port {port + offset}" in error["message"]
        assert f"process {os.getpid()}" in error["message"]
        assert Server(port).processes() == []

    def test_no_such_port(self) -> None:
        for port in ("0", "80", "65530"):
            done = command("start", "--port", port)
            assert json.loads(done.stdout.splitlines()[-1])["error"]["type"] == "UsageError"


class TestOthersRay:
    """A Ray that is on this machine already is neither used nor ended."""

    @pytest.fixture
    def foreign(self) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
        port = free_ports() + 50
        with tempfile.TemporaryDirectory(prefix="fr", dir="/tmp") as folder:
            token = Path(folder) / "token"
            token.write_text(secrets.token_hex(32))
            environment = {
                **os.environ,
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN_PATH": str(token),
                "RAY_USAGE_STATS_ENABLED": "0",
            }
            ray = Path(sys.executable).with_name("ray")
            options = [
                "--head",
                "--block",
                f"--port={port}",
                f"--temp-dir={folder}/r",
                "--include-dashboard=false",
                "--num-cpus=1",
            ]
            options += [
                f"--min-worker-port={port + 10}",
                f"--max-worker-port={port + 30}",
                "--object-store-memory=80000000",
            ]
            with subprocess.Popen(
                [ray, "start", *options],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ) as process:
                eventually(lambda: _listens(port), 60)
                yield port, process
                process.terminate()
                process.wait(60)

    def test_it_survives(self, the_server: Server, foreign: tuple[int, subprocess.Popen[bytes]]) -> None:
        port, process = foreign
        the_server.stop()
        environment = {"RAY_ADDRESS": f"127.0.0.1:{port}"}  # somebody who works with it all day
        done = command("start", "--port", str(the_server.port), env=environment)
        assert done.returncode == 0, done.stdout + the_server.logs()
        status = the_server.api.json("GET", "/v1/status")
        assert str(the_server.port + 1) in status["ray"]["address"]
        with the_server.stream() as stream:
            assert stream.call("os", "getenv", "RAY_ADDRESS") == status["ray"]["address"]
        the_server.stop()
        time.sleep(0.5)
        assert process.poll() is None
        assert _listens(port)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
