"""The WebSocket: streams to workers, and what a client hears when one ends."""

from __future__ import annotations

import json
import os
import signal
import struct
import threading
import time

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from runkit.wire import frames
from tests.server.running import Server, Stream, eventually


def test_without_the_token(server: Server) -> None:
    with pytest.raises(InvalidStatus) as caught, server.websocket("wrong"):
        pass
    assert caught.value.response.status_code == 401


def test_call_through(server: Server) -> None:
    with server.stream() as stream:
        opened = next(message["opened"] for message in stream.control if "opened" in message)
        assert opened["pid"] == server.env()["worker"]["pid"]
        assert stream.call("math", "sqrt", 16) == 4.0


def test_many_routes_on_one_socket(server: Server) -> None:
    with server.websocket() as ws:
        first = Stream(ws, "default", route=1)
        assert first.call("math", "sqrt", 4) == 2.0
        second = Stream(ws, "default", route=65535)
        assert second.call("math", "sqrt", 9) == 3.0
        ws.send(json.dumps({"close": {"route": 1}}))
        assert second.call("math", "sqrt", 25) == 5.0


def test_large_frames_in_both_directions(server: Server) -> None:
    text = "x" * 5_000_000
    with server.stream() as stream:
        assert stream.call("copy", "copy", text) == text


def test_status_names_the_client(server: Server) -> None:
    with server.websocket():
        clients = server.api.json("GET", "/v1/status")["clients"]
        assert [client["id"] for client in clients] == ["test"]
    eventually(lambda: server.api.json("GET", "/v1/status")["clients"] == [])


def test_worker_that_dies(server: Server) -> None:
    before = server.env()["worker"]
    with server.stream() as stream:
        began = time.monotonic()
        closed = stream.call("os", "_exit", 9)
        assert time.monotonic() - began < 5.0  # 0.01 s on an idle machine
        assert closed["reason"] == "died"
        assert (closed["exitcode"], closed["signal"]) == (9, None)
        assert (closed["env"], closed["generation"]) == ("default", before["generation"])
        again = Stream(stream.ws, "default", route=8)  # the env is usable again at once
        assert again.call("math", "sqrt", 4) == 2.0
    assert server.env()["worker"]["generation"] > before["generation"]


def test_worker_that_is_killed_from_outside(server: Server) -> None:
    with server.stream() as stream:
        stream.start("time", "sleep", 100)
        eventually(lambda: server.env()["worker"]["running"] == 1)
        os.kill(server.env()["worker"]["pid"], signal.SIGSEGV)
        while isinstance(closed := stream.frame(), frames.Frame):
            pass
        assert closed["signal"] == "SIGSEGV"
        assert "Current thread" in closed["stderr"] or "Segmentation fault" in closed["stderr"]


def test_replaced(server: Server) -> None:
    with server.stream() as stream:
        before = server.env()["worker"]["generation"]
        answer = server.api.json("POST", "/v1/envs/default/restart", {"why": "a test", "generation": before})
        assert answer["replaced"]
        assert answer["worker"]["generation"] == before + 1
        closed = stream.frame()
        assert closed["reason"] == "replaced"
        late = server.api.json("POST", "/v1/envs/default/restart", {"generation": before})
        assert not late["replaced"]


def test_replaced_for_one_call_only(server: Server) -> None:
    """Somebody else's call is not killed, be it beside the one that is to be ended or after it."""
    with server.stream() as stream, server.stream() as other:
        numbers = [one.start("time", "sleep", 2) for one in (stream, other)]
        generation = eventually(lambda: server.env()["worker"]["running"] == 2 and server.env()["worker"]["generation"])

        def replaced(session: str, number: int) -> bool:
            body = {"generation": generation, "only_call": [session, number]}
            return server.api.json("POST", "/v1/envs/default/restart", body)["replaced"]

        assert not replaced(stream.session, numbers[0])
        eventually(lambda: server.env()["worker"]["running"] == 0)
        number = other.start("time", "sleep", 60)
        eventually(lambda: server.env()["worker"]["running"] == 1)
        assert not replaced(stream.session, numbers[0])
        assert not replaced(other.session, numbers[1])
        assert not replaced(stream.session, number)
        assert server.env()["worker"]["generation"] == generation
        assert replaced(other.session, number)
        while isinstance(closed := other.frame(), frames.Frame):
            pass
        assert closed["reason"] == "replaced"
        assert server.env()["worker"]["generation"] > generation


def test_env_that_does_not_exist(server: Server) -> None:
    with server.websocket() as ws:
        ws.send(json.dumps({"open": {"route": 3, "env": "nobody"}}))
        closed = json.loads(ws.recv(10))["closed"]
        assert closed["reason"] == "unknown"
        assert closed["error"]["type"] == "EnvNotFound"


@pytest.mark.parametrize(
    "message",
    ["nonsense", "[]", '{"open": {}}', '{"open": {"route": 70000, "env": "default"}}', '{"close": {"route": "x"}}'],
)
def test_nonsense_ends_the_connection_not_the_server(server: Server, message: str) -> None:
    with server.websocket() as ws:
        ws.send(message)
        with pytest.raises(ConnectionClosed):
            ws.recv(10)
    assert server.env()["state"] == "ready"


def test_bytes_for_a_route_that_is_not_there_are_dropped(server: Server) -> None:
    with server.websocket() as ws:
        ws.send(b"")
        ws.send(b"\x01")
        ws.send(struct.pack("<H", 5) + b"lost")
        assert Stream(ws, "default", 6).call("math", "sqrt", 1) == 1.0


def test_slow_reader_does_not_fill_the_server(server: Server) -> None:
    """What a client does not take stays in the worker's socket, not in the server's memory; others notice nothing."""
    with server.stream() as slow, server.stream() as quick:
        pid = server.state["server"]["pid"]
        before = _resident(pid)
        for _ in range(12):
            slow.start("operator", "mul", "x" * 1000, 20_000)  # 20 MB each, read by nobody
        for _ in range(20):
            assert quick.call("math", "sqrt", 4) == 2.0
            time.sleep(0.05)
        assert _resident(pid) - before < 100 * 2**20


def _resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_clients_come_and_go(server: Server) -> None:
    failures: list[BaseException] = []

    def visit() -> None:
        try:
            for _ in range(5):
                with server.stream() as stream:
                    assert stream.call("math", "sqrt", 4) == 2.0
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=visit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
