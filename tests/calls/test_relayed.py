"""A client, a relay and a worker, without cluster: what happens when they are crowded, late or gone at a bad moment."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
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
from runkit.client.finisher import finisher
from runkit.client.request import Options, Request
from runkit.client.session import Target
from runkit.client.waiting import Waiting
from runkit.errors import CallTimeout, ConnectionLost
from runkit.server.relay import Client, Relay
from runkit.wire import codec
from tests.calls import jobs_output
from tests.calls.bare import Bare, bare_worker
from tests.calls.clients import until

SECONDS = 20
ECHO = ["copy", "copy"]
NAP = ["time", "sleep"]


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


def prepared(connection: Connection, ref: list[str], *args: Any, replace: Any = None, **options: Any) -> Call:
    """A call that has not been sent; each has a target of its own.

    Args:
        replace: what asks the server to replace the worker.
    """
    caller: Any = SimpleNamespace(
        name="test",
        ready_session=connection.ready_session,
        session=connection.session,
        local_folders=lambda home: {},
        replace_worker=replace,
    )
    made = Options(**{"stream_logs": False, **options})
    target = Target({"ref": ref, "roots": []})
    return Call(Request(caller, "bare", "call", codec.dump((args, {})), made, made.meta(), target))


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Bare]:
    with bare_worker(tmp_path) as made:
        yield made


@pytest.fixture
def connection(bare: Bare) -> Iterator[Connection]:
    with relayed(bare) as made:
        assert prepared(made, ECHO, 1).start().result(SECONDS) == 1
        yield made


def test_many_arguments_and_results_at_once(connection: Connection) -> None:
    sleeper = prepared(connection, NAP, SECONDS * 10).start()
    data = b"x" * 200_000
    calls: list[Call] = []

    def submit() -> None:
        for _ in range(1500):
            calls.append(prepared(connection, ECHO, data).start())

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


def test_a_timeout_before_the_call_has_gone_out(bare: Bare, connection: Connection) -> None:
    session = connection.session("bare")
    call = prepared(connection, NAP, SECONDS * 10, timeout=0.01)
    starting = threading.Thread(target=call.start)
    with session._define_lock:  # between the beginning of the deadline and the call's frame
        starting.start()
        with pytest.raises(CallTimeout):
            call.result(SECONDS)
    starting.join()
    assert prepared(connection, ECHO, 1).start().result(SECONDS) == 1
    assert until(lambda: bare.info["running"] == 0)


def test_a_process_that_ends_while_nobody_says_that_it_was_replaced(bare: Bare, connection: Connection) -> None:
    session = connection.session("bare")

    def replace(*args: Any) -> None:
        os.kill(bare.info["pid"], signal.SIGKILL)
        assert until(lambda: session.failure is not None)
        heard = threading.Event()
        finisher.post(lambda _: heard.set(), None)
        assert heard.wait(SECONDS)
        raise ConnectionLost("while the answer was waited for")

    call = prepared(connection, NAP, SECONDS * 10, replace=replace).start()
    with pytest.raises(ConnectionLost, match="while the answer"):
        call.cancel(force=True)
    with pytest.raises(concurrent.futures.CancelledError):
        call.result(SECONDS)


def test_a_process_that_is_still_being_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker has asked for it, and the server has not answered yet: that it was replaced would be a guess."""
    monkeypatch.setattr("runkit.client.waiting.GRACE", 0.5)
    path = str(tmp_path / "control.sock")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(path)
        silent.listen()
        with bare_worker(tmp_path, path, stopper__PATIENCE=0.1) as bare, relayed(bare) as connection:
            assert prepared(connection, ECHO, 1).start().result(SECONDS) == 1
            ref = [jobs_output.stubborn_talker.__module__, "stubborn_talker"]
            waiting = Waiting(prepared(connection, ref, SECONDS * 10, stream_logs=True)._request)
            waiting.send()
            assert until(lambda: waiting.frames.qsize() > 0)  # what it prints
            assert waiting.stop("cancel") == "its code does not react, and the env's process is being replaced"
