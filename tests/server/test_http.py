"""The server's HTTP: who gets in, what it answers, what a mistake looks like."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import socket
import stat
import subprocess
import sys
import tarfile
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from runkit.client.api import Api
from runkit.errors import ConnectionLost, DiskFull, EnvNotFound, InvalidName, NotAuthorized, ServerError, UsageError
from runkit.server import incoming
from tests.server.running import REPOSITORY, Server, command


def raw(server: Server, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request(method, path, headers=headers or {})
    response = connection.getresponse()
    return response.status, response.read()


class TestWhoGetsIn:
    @pytest.mark.parametrize("path", ["/v1/status", "/", "/docs", "/openapi.json", "/v1/ws", "/no/such/page"])
    def test_nobody_without_the_token(self, server: Server, path: str) -> None:
        for headers in (
            {},
            {"Authorization": "Bearer "},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {server.token}"},
        ):
            status, answer = raw(server, path, headers)
            assert status == 401
            assert json.loads(answer)["error"]["type"] == "NotAuthorized"
            assert server.token.encode() not in answer

    def test_client_gets_the_error(self, server: Server) -> None:
        with pytest.raises(NotAuthorized):
            Api(lambda: socket.create_connection(("127.0.0.1", server.port)), "wrong").json("GET", "/v1/status")

    def test_token_is_private_and_nowhere_else(self, server: Server) -> None:
        assert stat.S_IMODE((server.lasting / "token").stat().st_mode) == 0o600
        assert stat.S_IMODE((server.runtime / "ray-token").stat().st_mode) == 0o600
        tokens = [server.token, (server.runtime / "ray-token").read_text()]
        for folder in (server.lasting, server.runtime, server.runtime.parent):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for path in (server.lasting / "log").glob("*"):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
            assert not any(token in path.read_text(errors="replace") for token in tokens)
        for pid in server.processes():
            line = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            assert not any(token in line for token in tokens)

    def test_listens_on_this_machine_only(self, server: Server) -> None:
        wanted = range(server.port, server.port + 100)
        for table, local in (
            ("tcp", ("0100007F",)),
            ("tcp6", ("0000000000000000FFFF00000100007F", "00000000000000000000000001000000")),
        ):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                address, _, port = fields[1].partition(":")
                if fields[3] == "0A" and int(port, 16) in wanted:
                    assert address in local, f"port {int(port, 16)} can be reached from outside"

    def test_another_local_user(self, server: Server) -> None:
        """Another account can neither read the token, nor use the sockets, nor speak to Ray."""
        if os.getuid() != 0:  # an ordinary user cannot become another one: the modes above are what keeps others out
            assert stat.S_IMODE(server.runtime.stat().st_mode) == 0o700
            return
        code = (
            "import socket, sys\n"
            f"paths = {[str(server.runtime / 'server.sock'), str(server.runtime / 'ray.sock'), server.env()['worker']['socket']]!r}\n"
            "for path in paths:\n"
            "    try: socket.socket(socket.AF_UNIX).connect(path)\n"
            "    except PermissionError: continue\n"
            "    sys.exit(f'{path} lets everybody in')\n"
            f"for path in {[str(server.lasting / 'token'), str(server.runtime / 'ray-token')]!r}:\n"
            "    try: open(path).read()\n"
            "    except PermissionError: continue\n"
            "    sys.exit(f'{path} can be read by everybody')\n"
        )
        done = subprocess.run(
            ["/usr/bin/env", "python3", "-I", "-c", code],
            user=65534,
            group=65534,
            cwd="/",
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    def test_ray_wants_a_token(self, server: Server) -> None:
        code = f"import ray; ray.init(address='[::ffff:127.0.0.1]:{server.port + 1}', logging_level='critical'); print('in')"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        token = (server.runtime / "ray-token").read_text()
        *others, right = (
            subprocess.Popen(
                [sys.executable, "-c", code],
                env={**environment, **more, "HOME": "/nonexistent"},
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            for more in (
                {},
                {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
                {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token},
            )
        )
        # The one with the right token is in; by then the others, which are told nothing, are still trying.
        assert right.communicate(timeout=60)[0] == b"in\n"
        for driver in others:
            driver.kill()
        assert [driver.communicate()[0] for driver in others] == [b"", b""]


class TestAnswers:
    def test_status(self, server: Server) -> None:
        status = server.api.json("GET", "/v1/status")
        assert status["port"] == server.port
        assert status["pid"] == server.state["server"]["pid"]
        assert status["host"]["system"] == "Linux"
        assert status["host"]["glibc"][0] == 2
        assert f"3.{sys.version_info[1]}" in status["host"]["pythons"]
        assert status["ray"]["up"]
        env = status["envs"]["default"]
        assert env["state"] == "ready"
        assert env["worker"]["running"] == 0

    def test_ensure(self, server: Server) -> None:
        ask = {"env": {"name": "default", "request": None}, "roots": [{"id": "r-1", "digest": "d"}]}
        answer = server.api.json("POST", "/v1/ensure", ask)
        assert answer["env"] == "ready"
        assert Path(answer["worker"]["socket"]).is_socket()
        assert answer["roots"] == {"r-1": False}
        assert (
            server.api.json("POST", "/v1/ensure", {"env": {"name": "default", "request": "other"}})["env"] == "changed"
        )
        assert server.api.json("POST", "/v1/ensure", {"env": {"name": "nobody", "request": "x"}})["env"] == "missing"
        assert server.api.json("POST", "/v1/ensure", {"env": None, "roots": []})["env"] is None

    def test_docs_come_from_here(self, server: Server) -> None:
        headers = {"Authorization": f"Bearer {server.token}"}
        status, page = raw(server, "/docs", headers)
        assert status == 200
        assert b"/v1/envs/{name}" in page
        assert b"src=" not in page  # nothing from elsewhere
        assert b"href=http" not in page
        described = json.loads(raw(server, "/openapi.json", headers)[1])
        assert described["openapi"].startswith("3.1")
        assert described["paths"]["/v1/status"]["get"]["summary"]
        for methods in described["paths"].values():
            for operation in methods.values():
                assert operation["summary"], methods

    def test_mistakes(self, server: Server) -> None:
        api = server.api
        with pytest.raises(UsageError, match="Not Found"):
            api.json("GET", "/v1/nothing")
        with pytest.raises(UsageError, match="Method Not Allowed"):
            api.json("DELETE", "/v1/status")
        with pytest.raises(UsageError, match="not JSON"):
            api.json("POST", "/v1/ensure", b"{")
        with pytest.raises(UsageError, match="JSON object"):
            api.json("POST", "/v1/ensure", [1])
        with pytest.raises(EnvNotFound, match="'default'"):
            api.json("GET", "/v1/envs/nobody/spec")
        with pytest.raises(EnvNotFound):
            api.json("GET", "/v1/keys?env=nobody")
        with pytest.raises(EnvNotFound):
            api.json("POST", "/v1/envs/nobody/restart", {})
        with pytest.raises(InvalidName):
            api.json("PUT", "/v1/envs/a%20b", {})
        with pytest.raises(UsageError, match="lacks a field"):
            list(api.events("PUT", "/v1/envs/x", {"name": "x"}))

    def test_traceback_of_the_server_stays_there(self, server: Server) -> None:
        for path in ("/v1/roots/../../etc/plan", "/v1/wheels/missing", "/v1/pythons"):
            status, answer = raw(server, path, {"Authorization": f"Bearer {server.token}"}, "POST")
            assert status >= 400
            assert b"Traceback" not in answer


class TestFiles:
    def test_wheels(self, server: Server) -> None:
        data = os.urandom(100_000)
        sha256 = hashlib.sha256(data).hexdigest()
        api = server.api
        assert api.json("POST", "/v1/wheels/missing", {"sha256": [sha256]})["missing"] == [sha256]
        with pytest.raises(UsageError, match="did not arrive"):
            api.upload("PUT", f"/v1/wheels/{sha256}/a-1-py3-none-any.whl", [data[:-1], b"x"], len(data))
        assert api.json("POST", "/v1/wheels/missing", {"sha256": [sha256]})["missing"] == [sha256]
        path = Path(
            api.upload("PUT", f"/v1/wheels/{sha256}/a-1-py3-none-any.whl", [data[:7], data[7:]], len(data))["path"]
        )
        assert path.read_bytes() == data
        assert api.json("POST", "/v1/wheels/missing", {"sha256": [sha256]})["missing"] == []

    def test_a_full_disk(self, server: Server) -> None:
        folder = server.lasting.parents[1] / "wheels"
        folder.mkdir(exist_ok=True)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", folder], capture_output=True).returncode:
            pytest.skip("needs root: a small disk is mounted")
        data = os.urandom(1_000_000)
        address = f"/v1/wheels/{hashlib.sha256(data).hexdigest()}/a-1-py3-none-any.whl"
        try:
            with pytest.raises(DiskFull, match="on the host"):
                server.api.upload("PUT", address, [data], len(data))
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)

    @pytest.mark.parametrize("name", ["..%2F..%2Fx", ".hidden", "a%2Fb", "%00"])
    def test_names_of_files_are_names(self, server: Server, name: str) -> None:
        with pytest.raises((UsageError, ServerError)):
            server.api.upload("PUT", f"/v1/wheels/{'0' * 64}/{name}", [b"x"], 1)

    def test_what_a_killed_server_left_is_removed(self, tmp_path: Path) -> None:
        """Here the process that ended is one that only receives."""
        code = (
            "import pathlib, sys, tempfile, time\n"
            "from runkit.server import incoming\n"
            "tempfile.mkstemp(prefix=incoming.prefix(), dir=sys.argv[1])\n"
            "(pathlib.Path(tempfile.mkdtemp(prefix=incoming.prefix(), dir=sys.argv[1])) / 'bin').mkdir()\n"
            "print(flush=True); time.sleep(1000)\n"
        )
        kept = tmp_path / ".incoming.another-host.1-1.abc"
        kept.touch()
        receiver = [sys.executable, "-c", code, str(tmp_path)]
        with subprocess.Popen(receiver, cwd=REPOSITORY, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            incoming.sweep(tmp_path)
            assert len(list(tmp_path.iterdir())) == 3
            process.kill()
        incoming.sweep(tmp_path)
        assert list(tmp_path.iterdir()) == [kept]

    def test_python_of_this_host(self, server: Server) -> None:
        minor = f"3.{sys.version_info[1]}"
        found = server.api.json("POST", "/v1/pythons", {"version": minor})
        assert found["version"].startswith(minor)
        assert (
            subprocess.run(
                [found["path"], "-c", "import sys; print(sys.version_info[1])"], capture_output=True
            ).returncode
            == 0
        )
        with pytest.raises(UsageError):
            server.api.json("POST", "/v1/pythons", {"version": "; rm -rf /"})

    def test_interpreter_that_does_not_start(self, server: Server) -> None:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz") as tar:
            member = tarfile.TarInfo("bin/python3.12")
            member.mode, member.size = 0o755, 5
            tar.addfile(member, io.BytesIO(b"\x7fELF!"))
        data = out.getvalue()
        with pytest.raises(ServerError, match="does not start"):
            server.api.upload("PUT", "/v1/pythons/cpython-broken", [data], len(data))
        assert not (server.lasting.parents[1] / "python" / "cpython-broken").exists()

    def test_reachable(self, server: Server) -> None:
        url = f"http://127.0.0.1:{server.port}/v1/status"  # it answers, but wants a token
        with urllib.request.urlopen(f"data:text/plain,{server.port}"):
            answer = server.api.json(
                "POST", "/v1/reachable", {"urls": [url, "http://127.0.0.1:9/", "file:///etc/passwd", "nonsense"]}
            )
        assert answer == {url: False, "http://127.0.0.1:9/": False, "file:///etc/passwd": False, "nonsense": False}


class TestApi:
    """The client's end."""

    def test_kept_connections_survive_a_restart_of_the_other_side(self, the_server: Server) -> None:
        the_server.start()
        connections: list[int] = []

        def connect() -> socket.socket:
            connections.append(1)
            return socket.create_connection(("127.0.0.1", the_server.port))

        api = Api(connect, the_server.token)
        for _ in range(5):
            api.json("GET", "/v1/status")
        assert len(connections) == 1
        api.json("POST", "/v1/shutdown", {"keep_ray": True})
        the_server.start()
        assert api.json("GET", "/v1/status")["port"] == the_server.port

    def test_no_server(self) -> None:
        def refuse() -> socket.socket:
            raise ConnectionRefusedError("nobody there")

        with pytest.raises(ConnectionLost, match="up_if_not"):
            Api(refuse, "t").json("GET", "/v1/status")

    def test_cut_in_the_middle(self) -> None:
        def half() -> socket.socket:
            here, there = socket.socketpair()
            there.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
            there.close()
            return here

        with pytest.raises(ConnectionLost):
            Api(half, "t").json("POST", "/v1/shutdown", {})

    def test_no_sense(self) -> None:
        here, there = socket.socketpair()
        there.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\n\r\nhello")

        with pytest.raises(ServerError, match="502"):
            Api(lambda: here, "t").json("GET", "/v1/status")


def test_command_line_says_what_is_wrong(the_server: Server) -> None:
    done = command("start", "--port", "80")
    assert done.returncode == 1
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert answer["error"]["type"] == "UsageError"
    assert "Traceback" not in done.stderr
