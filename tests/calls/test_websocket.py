"""The WebSocket of a connection, against a server that the test plays itself: pings, closes, and what is no message."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import WSMsgType, web

import runkit as rk
from runkit.client.connection import Connection
from runkit.client.envs import HERE
from runkit.client.invoke import Invoker
from runkit.client.session import Target
from runkit.client.websocket import WebSocket
from runkit.wire import codec, frames
from tests.calls.clients import until

Handler = Callable[[web.WebSocketResponse], Awaitable[Any]]
SECONDS = 30
WELCOME = struct.pack("<H", 1) + frames.encode(
    frames.WELCOME, meta={"generation": 1, "python": HERE, "received": 0, "fresh": True}
)


@contextmanager
def served(handler: Handler) -> Iterator[tuple[int, Future[Any]]]:
    """A server whose every WebSocket goes to `handler`; gives its port, and what the handler gave or raised first."""
    outcome: Future[Any] = Future()

    async def accept(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(autoping=False, autoclose=False, max_msg_size=0)
        await ws.prepare(request)
        try:
            result = await handler(ws)
            if not outcome.done():
                outcome.set_result(result)
        except Exception as error:
            if not outcome.done():
                outcome.set_exception(error)
        return ws

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> tuple[web.AppRunner, int]:
        app = web.Application()
        app.router.add_get("/v1/ws", accept)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return runner, runner.addresses[0][1]

    runner, port = asyncio.run_coroutine_threadsafe(start(), loop).result(SECONDS)
    try:
        yield port, outcome
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def client(port: int) -> Iterator[WebSocket]:
    ws = WebSocket(socket.create_connection(("127.0.0.1", port)), "token")
    yield ws
    ws.abort()


@contextmanager
def connected(port: int) -> Iterator[Connection]:
    def stream(path: str | None) -> socket.socket:
        return socket.create_connection(("127.0.0.1", port))

    connection = Connection("played", stream, "token", {}, True, lambda: True)
    yield connection
    connection.close()


def read(ws: WebSocket, into: list[Any]) -> threading.Thread:
    def run() -> None:
        with contextlib.suppress(OSError, rk.errors.RunkitError):
            for _, data in ws.messages():
                into.append(bytes(data))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_pings_are_answered_while_nothing_is_sent() -> None:
    async def ping(ws: web.WebSocketResponse) -> Any:
        await ws.ping(b"are you there")
        return await ws.receive(SECONDS)

    with served(ping) as (port, outcome), client(port) as ws:
        read(ws, [])
        answer = outcome.result(SECONDS)
    assert (answer.type, bytes(answer.data)) == (WSMsgType.PONG, b"are you there")


def test_a_ping_during_a_send_that_waits_for_the_reader() -> None:
    """The server reads on only when the client has read: neither the ping nor its answer stands in the way."""
    noticed = threading.Event()
    large = b"x" * 50_000_000

    async def busy(ws: web.WebSocketResponse) -> list[Any]:
        transport = ws._req.transport  # type: ignore[union-attr]
        transport.pause_reading()
        await ws.ping()
        await ws.send_bytes(b"after the ping")
        await asyncio.to_thread(noticed.wait, SECONDS)
        transport.resume_reading()
        return [await ws.receive(SECONDS) for _ in range(2)]

    with served(busy) as (port, outcome), client(port) as ws:
        sender = threading.Thread(target=ws.binary, args=(large,), daemon=True)
        sender.start()
        got: list[bytes] = []
        read(ws, got)
        assert until(lambda: got == [b"after the ping"], SECONDS)
        noticed.set()
        kinds = {message.type: message.data for message in outcome.result(SECONDS)}
        sender.join(SECONDS)
    assert kinds[WSMsgType.BINARY] == large
    assert WSMsgType.PONG in kinds


def test_messages_of_every_length() -> None:
    async def echo(ws: web.WebSocketResponse) -> None:
        async for message in ws:
            await ws.send_bytes(message.data)

    lengths = [0, 1, 125, 126, 127, 65535, 65536, 300_000] + [3] * 3000
    with served(echo) as (port, _), client(port) as ws:
        got: list[bytes] = []
        read(ws, got)
        for i, length in enumerate(lengths):
            ws.binary(bytes([i % 256]) * length)
        assert until(lambda: len(got) == len(lengths), SECONDS)
    assert got == [bytes([i % 256]) * length for i, length in enumerate(lengths)]


def test_a_close_is_answered() -> None:
    async def close(ws: web.WebSocketResponse) -> bool:
        return await ws.close(code=1000)

    with served(close) as (port, outcome), client(port) as ws:
        reader = read(ws, [])
        outcome.result(SECONDS)
        reader.join(SECONDS)
        assert not reader.is_alive()


def test_a_way_that_fails_unexpectedly_is_an_error() -> None:
    def stream(path: str | None) -> socket.socket:
        raise LookupError("no way")

    connection = Connection("played", stream, "token", {}, True, lambda: True)
    with pytest.raises(rk.errors.ConnectionLost, match="no way"):
        connection.wait_ready(SECONDS)


def test_a_sender_that_notices_the_end_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time to reconnect counts from the end of a connection, however long that one stood."""
    monkeypatch.setattr("runkit.client.connection.RECONNECT_SECONDS", 0.3)
    came: list[web.WebSocketResponse] = []

    async def listen(ws: web.WebSocketResponse) -> None:
        came.append(ws)
        async for _ in ws:
            pass

    def torn(ws: WebSocket) -> None:
        raise BrokenPipeError

    with served(listen) as (port, _), connected(port) as connection:
        connection.wait_ready(SECONDS)
        time.sleep(0.5)
        with pytest.raises(BrokenPipeError):
            connection._send(torn)
        assert until(lambda: len(came) == 2 or not connection.alive, SECONDS)
        assert connection.alive


def test_what_is_no_message_ends_the_connection() -> None:
    """Calls end with an error, and later ones are refused; nobody waits for ever."""

    async def babble(ws: web.WebSocketResponse) -> None:
        async for message in ws:
            if message.type == WSMsgType.TEXT and "open" in json.loads(message.data):
                await ws.send_str("{")

    with served(babble) as (port, _), connected(port) as connection:
        connection.wait_ready(SECONDS)
        with pytest.raises(rk.errors.ConnectionLost, match="cannot be used any more.*JSONDecodeError"):
            connection.session("default")
        assert not connection.alive
        with pytest.raises(rk.errors.ConnectionLost, match="closed"):
            connection.session("default")


def test_nobody_gets_a_session_before_it_is_greeted() -> None:
    opened, greet = threading.Event(), threading.Event()

    async def slow(ws: web.WebSocketResponse) -> None:
        async for message in ws:
            if message.type == WSMsgType.TEXT and "open" in json.loads(message.data):
                opened.set()
                await asyncio.to_thread(greet.wait, SECONDS)
                await ws.send_bytes(WELCOME)

    with served(slow) as (port, _), connected(port) as connection:
        connection.wait_ready(SECONDS)
        got: list[str] = []
        threads = [threading.Thread(target=lambda: got.append(connection.session("default").python)) for _ in range(2)]
        threads[0].start()
        assert opened.wait(SECONDS)
        threads[1].start()
        threads[1].join(0.2)
        assert got == []
        greet.set()
        for thread in threads:
            thread.join(SECONDS)
        assert got == [HERE, HERE]
        assert connection.ready_session("default") is not None


def test_a_call_that_begins_on_an_ended_session_is_refused() -> None:
    """Its sink hears nothing, so it can be sent on another session; one that began before hears of the end, once."""

    async def quiet(ws: web.WebSocketResponse) -> None:
        async for message in ws:
            if message.type == WSMsgType.TEXT and "open" in json.loads(message.data):
                await ws.send_bytes(WELCOME)

    with served(quiet) as (port, _), connected(port) as connection:
        connection.wait_ready(SECONDS)
        session = connection.session("default")
        heard: list[Any] = []
        numbers: list[int] = []
        assert session.begin(heard.append, lambda _, number: numbers.append(number)) == numbers[0]
        session.ended({"reason": "unknown"})
        assert [type(one) for one in heard] == [rk.errors.WorkerDied]
        assert session.begin(heard.append, lambda _, number: numbers.append(number)) is None
        assert len(heard) == 1


async def test_the_event_loop_goes_on_while_the_worker_is_asked_for() -> None:
    """The worker answers only after another task has run."""
    greet = threading.Event()

    async def slow(ws: web.WebSocketResponse) -> None:
        async for message in ws:
            if message.type == WSMsgType.TEXT and "open" in json.loads(message.data):
                await asyncio.to_thread(greet.wait, SECONDS)
                await ws.send_bytes(WELCOME)
            elif message.type == WSMsgType.BINARY:
                for frame in frames.Decoder().feed(message.data[2:]):
                    if frame.kind == frames.CALL:
                        result = frames.encode(frames.RESULT, frame.call, parts=codec.dump(3), seq=1)
                        await ws.send_bytes(struct.pack("<H", 1) + result)

    async def meanwhile() -> None:
        greet.set()

    with served(slow) as (port, _), connected(port) as connection:
        await asyncio.to_thread(connection.wait_ready, SECONDS)
        caller: Any = SimpleNamespace(name="played", session=connection.session, ready_session=connection.ready_session)
        add = Invoker(caller, "default", "add", Target({"ref": ["m", "add"]}), "async")
        assert (await asyncio.gather(add(1, 2), meanwhile()))[0] == 3
