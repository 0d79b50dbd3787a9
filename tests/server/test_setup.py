"""From a host without anything to a server that runs: bootstrap and setup_cluster.sh, over real SSH."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from runkit.client import base_wheels, bootstrap, serving
from runkit.client.api import Api
from runkit.client.bootstrap import ServerInfo
from runkit.errors import HostUnreachable, PortInUse, SetupFailed, UnsupportedHost, VersionMismatch
from runkit.launch import code, probe
from runkit.transport import Transport, make_transport
from runkit.transport.local import Local
from tests.hosts import Host
from tests.server.running import REPOSITORY, eventually

SCRIPT = REPOSITORY / "runkit/launch/setup_cluster.sh"


@pytest.fixture(scope="module")
def way(host: Host) -> Iterator[Transport]:
    with make_transport(host.address, host.port, host.ssh_creds, notify=lambda text: None) as transport:
        yield transport


@pytest.fixture(scope="module")
def bare_way(bare_host: Host) -> Iterator[Transport]:
    with make_transport(bare_host.address, bare_host.port, bare_host.ssh_creds, notify=lambda text: None) as transport:
        yield transport


def up(way: Transport, host: Host) -> tuple[ServerInfo, list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    return bootstrap.bootstrap(way, port=host.server_port, progress=lambda event: events.append(dict(event))), events


def api(way: Transport, info: ServerInfo) -> Api:
    return Api(lambda: way.connect(("127.0.0.1", info.port)), info.token)


def phases(events: list[dict[str, Any]]) -> str:
    return "; ".join(dict.fromkeys(str(event["phase"]) for event in events if "phase" in event))


class TestHost:
    """A host with Python and nothing else of use, and no way out."""

    def test_from_nothing(self, way: Transport, host: Host) -> None:
        serving.stop(way, host.server_port)
        way.run("rm -rf ~/.runkit")
        info, events = up(way, host)
        assert info.code == code.read().digest
        status = api(way, info).json("GET", "/v1/status")
        assert status["envs"]["default"]["state"] == "ready"
        assert status["code"] == info.code
        assert "ship runkit" in phases(events)
        assert "start the server" in phases(events)
        assert any("ray==" in event.get("log", "") for event in events)  # the installer's own lines
        assert way.run("stat -c %a ~/.runkit ~/.runkit/servers/*/token").text.split() == ["700", "600"]

    def test_again_is_one_question(self, way: Transport, host: Host) -> None:
        first, _ = up(way, host)
        began = time.monotonic()
        again, events = up(way, host)
        assert time.monotonic() - began < 2.0
        assert (again.pid, again.token, events) == (first.pid, first.token, [])
        assert first.token not in repr(first)

    def test_found_without_changing_anything(self, way: Transport, host: Host) -> None:
        info, _ = up(way, host)
        found = serving.find_server(way, host.server_port)
        assert found is not None
        assert found.pid == info.pid
        assert serving.find_server(way, host.server_port + 100) is None

    def test_restart_keeps_the_workers(self, way: Transport, host: Host) -> None:
        info, _ = up(way, host)
        before = api(way, info).json("GET", "/v1/status")["envs"]["default"]["worker"]["pid"]
        assert serving.restart(way, info.port) == {"kept": ["default"], "lost": []}
        info, _ = up(way, host)
        assert api(way, info).json("GET", "/v1/status")["envs"]["default"]["worker"]["pid"] == before

    def test_stop_leaves_no_process(self, way: Transport, host: Host) -> None:
        up(way, host)
        assert serving.stop(way, host.server_port)
        mine = "ray|runkit" if host.isolated else f"/{host.server_port}/|--port {host.server_port}"  # or the machine's
        eventually(lambda: not re.findall(mine, way.run("ps -eo stat,args | grep -v '^Z' | grep -v 'ps -eo'").text))
        assert not serving.stop(way, host.server_port)

    def test_second_run_of_the_script(self, way: Transport, host: Host) -> None:
        info, _ = up(way, host)
        done = way.run(f"sh {info.path}/runkit/launch/setup_cluster.sh --port {info.port}")
        assert done.returncode == 0, done.text
        *said, last = done.text.splitlines()
        ready = json.loads(last)["ready"]
        assert (ready["port"], ready["pid"], ready["code"]) == (info.port, info.pid, info.code)
        assert way.run(f"cat {ready['token']}").text == info.token
        assert not any("install" in line for line in said)

    def test_cut_off_in_the_middle(self, way: Transport, host: Host) -> None:
        """What an interrupted set-up left is completed by the next."""
        serving.stop(way, host.server_port)
        way.run("rm -rf ~/.runkit/base ~/.runkit/envs ~/.runkit/code")
        failure: list[BaseException] = []

        def run() -> None:
            try:
                up(way, host)
            except BaseException as error:
                failure.append(error)

        running = threading.Thread(target=run)
        running.start()
        eventually(lambda: way.run("ls -d ~/.runkit/base/*/lib 2>/dev/null; true").text)
        way.run("pid=$(cat ~/.runkit/.setup.lock/pid); kill -9 $pid $(ps -o pid= --ppid $pid)")
        running.join(60)
        assert failure
        assert "setup_cluster.sh" in str(failure[0])
        info, _ = up(way, host)
        assert api(way, info).json("GET", "/v1/status")["envs"]["default"]["state"] == "ready"

    def test_port_in_use(self, way: Transport, host: Host) -> None:
        up(way, host)
        other = host.server_port - 1  # its Ray would get the server's port
        with pytest.raises(PortInUse, match=f"port {host.server_port}"):
            bootstrap.bootstrap(way, port=other)

    def test_other_version_in_use(self, way: Transport, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who is there is said; whoever wants the newer one all the same restarts it; one that is idle is replaced by itself."""
        info, _ = up(way, host)
        here = api(way, info)
        code_of_a_newer_one = _newer_client(monkeypatch)
        here.json("POST", "/v1/envs/default/restart", {})
        with _connected(way, info):
            with pytest.raises(VersionMismatch, match=r"somebody.*restart_server\(\)"):
                up(way, host)
            assert serving.restart(way, host.server_port) == {"kept": [], "lost": ["default"]}
        fresh = serving.find_server(way, host.server_port)
        assert fresh is not None
        assert fresh.code == code_of_a_newer_one
        monkeypatch.undo()
        fresh, events = up(way, host)
        assert fresh.code == info.code
        assert "nobody uses it" in phases(events)


class TestBareHost:
    """A host with sshd and a POSIX shell: no Python, curl, uv, gzip-less tar and no way out."""

    def test_from_nothing(self, bare_way: Transport, bare_host: Host) -> None:
        serving.stop(bare_way, bare_host.server_port)
        bare_way.run("rm -rf ~/.runkit")
        info, events = up(bare_way, bare_host)
        said = phases(events)
        assert "ship uv" in said
        assert "ship Python" in said
        assert "ship the server's requirements" in said
        status = api(bare_way, info).json("GET", "/v1/status")
        assert status["envs"]["default"]["state"] == "ready"
        assert serving.stop(bare_way, bare_host.server_port)


def _newer_client(monkeypatch: pytest.MonkeyPatch) -> str:
    """This client's package with one more file, as a newer release would have."""
    original = code._files

    def files() -> Iterator[tuple[str, Path]]:
        yield from original()
        yield "runkit/newer.py", Path(__file__)

    monkeypatch.setattr(code, "_files", files)
    return code.read().digest


class _connected:
    """A client called "somebody", connected through the transport."""

    def __init__(self, way: Transport, info: ServerInfo):
        self._way, self._info = way, info

    def __enter__(self) -> None:
        from websockets.sync.client import connect

        headers = {"Authorization": f"Bearer {self._info.token}"}
        sock = self._way.connect(("127.0.0.1", self._info.port))
        self._ws = connect("ws://127.0.0.1/v1/ws", sock=sock, additional_headers=headers, proxy=None).__enter__()
        self._ws.send(json.dumps({"hello": {"client": "somebody", "code": "", "version": "", "session": "s"}}))
        self._ws.recv()

    def __exit__(self, *_: object) -> None:
        self._ws.close()


class TestRefused:
    """Hosts that cannot be, by what they answer; nothing is changed there."""

    GOOD: ClassVar = {
        "home": "/h",
        "system": "Linux",
        "machine": "x86_64",
        "glibc": "glibc 2.36",
        "has_tar": "1",
        "free_kib": "9000000",
        "end": "",
    }

    def answer(self, **changes: str | None) -> probe.Host:
        lines = [f"{name}={value}" for name, value in {**self.GOOD, **changes}.items() if value is not None]
        return probe.read(lines, "me@there")

    def test_good(self) -> None:
        host = self.answer()
        host.check("me@there")
        assert host.glibc == (2, 36)
        assert self.answer(glibc="ldd (Debian GLIBC 2.31-13+deb11u11) 2.31").glibc == (2, 31)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"system": "Darwin", "machine": "arm64"}, "Darwin on arm64"),
            ({"system": "Linux", "machine": "riscv64"}, "riscv64"),
            ({"glibc": "musl libc (x86_64)"}, "musl"),
            ({"glibc": "glibc 2.12"}, "glibc 2.12"),
            ({"has_tar": None}, "tar"),
        ],
    )
    def test_platform(self, changes: dict[str, str | None], words: str) -> None:
        with pytest.raises(UnsupportedHost, match=words):
            self.answer(**changes).check("me@there")

    def test_room(self) -> None:
        with pytest.raises(SetupFailed, match="97 MiB free"):
            self.answer(free_kib="100000").check("me@there")
        with pytest.raises(SetupFailed, match="/h cannot be written"):
            self.answer(not_writable="/h").check("me@there")

    def test_no_shell(self) -> None:
        with pytest.raises(UnsupportedHost):
            probe.read(["This account is not available."], "me@there")

    def test_an_old_uv(self) -> None:
        assert not self.answer().has_uv
        assert not self.answer(uv="uv 0.7.22 (a date)").has_uv
        assert self.answer(uv="uv 0.10.1").has_uv
        lines = [f"{name}={value}" for name, value in self.GOOD.items()]
        assert probe.read(["uv=uv 0.9.1 (a date)", "uv=uv 0.5.0", *lines], "me@there").has_uv

    def test_too_slow(self) -> None:
        class Slow(Local):
            def _execute(self, script: str, feed: Any, on_output: Any, timeout: float | None) -> int:
                return super()._execute(f"sleep 60; {script}", feed, on_output, 0.1)

        with pytest.raises(HostUnreachable, match=r"this machine did not answer in time"):
            serving.find_server(Slow(), 32300)

    def test_server_that_has_ended(self) -> None:
        state = '{"server": {"pid": 7, "started": 55}, "code": "x"}'
        fields = ["0"] * 30
        fields[0], fields[19] = "S", "55"
        assert self.answer(state=state, stat=f"7 (py) thon) {' '.join(fields)}").runs
        fields[19] = "56"  # somebody else has the number now
        assert not self.answer(state=state, stat=f"7 (python) {' '.join(fields)}").runs
        fields[0], fields[19] = "Z", "55"
        assert not self.answer(state=state, stat=f"7 (python) {' '.join(fields)}").runs


class TestScript:
    def test_is_posix(self) -> None:
        for script in (SCRIPT, SCRIPT.with_name("probe.sh")):
            assert subprocess.run(["sh", "-n", script]).returncode == 0
            text = script.read_text()
            assert not re.search(r"(?m)\[\[|^\s*(function|local)\b|<<<|\$'", text), "not POSIX sh"

    def test_help(self) -> None:
        done = subprocess.run(["sh", SCRIPT, "--help"], capture_output=True, text=True)
        assert done.returncode == 0
        assert "--port N" in done.stdout
        assert subprocess.run(["sh", SCRIPT, "--nonsense"], capture_output=True).returncode == 2

    def test_the_lock_of_a_killed_run_is_taken_over_at_once(self, tmp_path: Path) -> None:
        (tmp_path / ".setup.lock").mkdir()
        gone = subprocess.Popen(["true"])
        gone.wait()
        (tmp_path / ".setup.lock/pid").write_text(f"{gone.pid}\n")
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "RUNKIT_HOME": str(tmp_path)}
        done = subprocess.run(["sh", SCRIPT, "--offline"], env=environment, capture_output=True, text=True)
        assert '"error"' in done.stdout  # there is nothing to set it up from
        assert "wait for another set-up" not in done.stdout

    def test_same_name_of_the_environment_on_both_sides(self) -> None:
        done = subprocess.run(["cksum"], input=base_wheels.REQUIREMENTS.read_bytes(), capture_output=True)
        assert done.stdout.split()[0].decode() == base_wheels.requirements_checksum()

    def test_code_is_a_function_of_its_content(self, tmp_path: Path) -> None:
        assert code.read().archive() == code.read().archive()
        folder = code.place(tmp_path)
        assert folder.parent == tmp_path / "code"
        assert (folder / "runkit/launch/setup_cluster.sh").exists()
        assert (folder / "vendor/cloudpickle/__init__.py").exists()
        assert not list(folder.rglob("__pycache__"))
        # The copy is the same code: a host that is itself a client of others ships what it was shipped.
        environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "runkit.launch.code", str(tmp_path / "second")],
            env=environment,
            cwd="/",
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip() == str(tmp_path / "second" / "code" / folder.name), done.stderr
