"""More on its way, in both directions at once, than the sockets and buffers between a client and a worker hold."""

from __future__ import annotations

import asyncio
import concurrent.futures
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from runkit.client.call import Call
from runkit.client.connection import Connection
from runkit.client.request import SILENT, Request
from runkit.client.session import Target
from runkit.server.relay import Client, Relay
from runkit.wire import codec
from tests.calls.bare import Bare, bare_worker

SECONDS = 20
ECHO = ["copy", "copy"]


@contextmanager
def relayed(bare: Bare) -> Iterator[Connection]:
    """A client's connection to the worker through a relay."""

    async def worker(env: str) -> dict[str, Any]:
        return bare.info

    async def death(env: str, generation: int) -> None:
        return None

    async def accept(request: web.Request) -> web.WebSocketResponse:
        return await Relay(Client("test"), {}, worker, death).serve(request)

    async def start() -> tuple[web.AppRunner, int]:
        app = web.Application()
        app.router.add_get("/v1/ws", accept)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner, runner.addresses[0][1]

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    runner, port = asyncio.run_coroutine_threadsafe(start(), loop).result(SECONDS)
    connection = Connection(
        "test", lambda path: socket.create_connection(("127.0.0.1", port)), "", {}, False, lambda: False
    )
    try:
        connection.wait_ready(SECONDS)
        yield connection
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(
            SECONDS
        )  # first: it frees who is stuck in a write
        connection.close()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def call(connection: Connection, target: Target, *args: Any) -> Call:
    caller: Any = SimpleNamespace(
        name="test",
        ready_session=connection.ready_session,
        session=connection.session,
        local_folders=lambda home: {},
    )
    request = Request(caller, "bare", "call", codec.dump((args, {})), SILENT, SILENT.meta(), target)
    return Call(request).start()


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    with bare_worker(tmp_path) as bare, relayed(bare) as made:
        yield made


def test_many_arguments_and_results_at_once(connection: Connection) -> None:
    echo, nap = (Target({"ref": ref, "roots": []}) for ref in (ECHO, ["time", "sleep"]))
    assert call(connection, echo, 1).result(SECONDS) == 1
    sleeper = call(connection, nap, SECONDS * 10)
    data = b"x" * 200_000
    calls: list[Call] = []

    def submit() -> None:
        for _ in range(1500):
            calls.append(call(connection, echo, data))

    submitting = threading.Thread(target=submit, daemon=True)
    submitting.start()
    while len(calls) < 100:
        assert submitting.is_alive()
    cancelling = threading.Thread(target=sleeper.cancel, daemon=True)
    cancelling.start()
    cancelling.join(SECONDS)
    assert sleeper.cancelled()
    submitting.join(SECONDS)
    assert not submitting.is_alive()
    assert not concurrent.futures.wait(calls, SECONDS).not_done
    assert all(one.result() == data for one in calls)
