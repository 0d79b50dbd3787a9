"""The WebSocket of one client: many byte streams, each to the UNIX socket of a worker. Nothing of them is looked into.

Text messages are JSON: hello, welcome, open, opened, close, closed. A binary message is a route's number (u16, little-endian) and bytes of
its stream, cut and merged as it comes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import WSMsgType, web

from runkit.errors import RunkitError

log = logging.getLogger("runkit.server.relay")

HIGH = 4 << 20
"""Bytes that may wait for a slow client before its workers' sockets are not read any more."""

LOW = 1 << 20
FULL = 64 << 20
"""Bytes that may wait for one worker before the client's connection is not read any more. A client of ours has fewer on their way (see
WINDOW_BYTES in wire.lane): a stop here would hold up all its streams."""

_ROUTE = struct.Struct("<H")
HEARTBEAT = 20.0

Worker = Callable[[str], Awaitable[dict[str, Any]]]
Death = Callable[[str, int], Awaitable["dict[str, Any] | None"]]


class Client:
    """A connected client, as status shows it."""

    def __init__(self, address: str):
        self.id = ""
        self.address = address
        self.session = ""
        self.since = time.time()
        self.calls = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "address": self.address,
            "session": self.session,
            "since": round(self.since, 3),
            "calls": self.calls,
        }


class Route(asyncio.Protocol):
    """One stream between the client and a worker; this is the worker's end of it."""

    def __init__(self, relay: Relay, number: int, env: str):
        self._relay = relay
        self._head = _ROUTE.pack(number)
        self.number = number
        self.env = env
        self.generation = 0
        self.early: list[bytes | memoryview] = []
        self.transport: asyncio.Transport | None = None
        self.live = False
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's own transport class
        assert self.transport is not None
        self.transport.set_write_buffer_limits(HIGH)
        self.transport.pause_reading()  # the client hears that it is open before it hears what comes through it

    def begin(self) -> None:
        """Let bytes through; first those that the client sent ahead."""
        if self.transport is not None:
            for data in self.early:
                self.transport.write(data)
            self.early.clear()
            self.live = True
            if not self._relay.paused:
                self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self._relay.send(self._head, data)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if not self.ended:
            self.ended = True
            self._relay.lost(self)

    def feed(self, data: bytes | memoryview) -> None:
        """Pass on what the client sent."""
        if not self.live:
            self.early.append(data)
        elif self.transport is not None:
            self.transport.write(data)

    @property
    def waiting(self) -> int:
        """Bytes that the worker has not taken yet."""
        if not self.live:
            return sum(map(len, self.early))
        return self.transport.get_write_buffer_size() if self.transport is not None else 0

    def close(self) -> None:
        self.ended = True
        if self.transport is not None:
            self.transport.close()


class Relay:
    """Serves one client's WebSocket.

    Args:
        welcome: what the client is told after its hello.
        worker: gives an env's worker.
        death: says how a worker ended.
    """

    def __init__(self, client: Client, welcome: dict[str, Any], worker: Worker, death: Death):
        self.client = client
        self._welcome = welcome
        self._worker = worker
        self._death = death
        self._routes: dict[int, Route] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._socket = web.WebSocketResponse(max_msg_size=0, compress=False, heartbeat=HEARTBEAT, timeout=2.0)
        self._transport: asyncio.Transport | None = None
        self.paused = False

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Run until the client goes; its streams are closed then, what it called goes on."""
        await self._socket.prepare(request)
        self._transport = request.transport
        try:
            async for message in self._socket:
                if message.type == WSMsgType.BINARY:
                    data: bytes = message.data
                    route = self._routes.get(data[0] | data[1] << 8) if len(data) > 2 else None
                    if route is not None:
                        route.feed(data[2:] if len(data) < 4096 else memoryview(data)[2:])
                        if route.waiting > FULL:
                            await self._until_drained(route)
                elif message.type == WSMsgType.TEXT:
                    await self._control(json.loads(message.data))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("client %s sent something that is no message: %r", self.client.id, error)
            await self._socket.close(code=1002, message=b"not a runkit message")
        finally:
            for route in list(self._routes.values()):
                route.close()
            for task in self._tasks:
                task.cancel()
        return self._socket

    # -- control

    async def _control(self, message: dict[str, Any]) -> None:
        if not isinstance(message, dict):
            raise TypeError("a message is a JSON object")
        if "hello" in message:
            hello = message["hello"]
            self.client.id = str(hello.get("client", ""))[:100]
            self.client.session = str(hello.get("session", ""))[:100]
            await self._tell({"welcome": self._welcome})
        elif "open" in message:
            wanted = message["open"]
            number = int(wanted["route"])
            if not 0 <= number < 1 << 16 or number in self._routes:
                raise ValueError(f"route {number} is not free")
            route = self._routes[number] = Route(self, number, str(wanted["env"]))
            self.client.calls += 1
            self._spawn(self._open(route, wanted.get("generation")))
        elif "close" in message:
            closed = self._routes.pop(int(message["close"]["route"]), None)
            if closed is not None:
                closed.close()

    async def _open(self, route: Route, known: int | None) -> None:
        """Connect a route; where its worker has just died, to the next one.

        A client that was cut off names the generation it `known`: if that worker has gone meanwhile, it has to hear of it.
        """
        loop = asyncio.get_running_loop()
        why: dict[str, Any] = {"reason": "unknown"}
        for attempt in range(20):
            try:
                worker = await self._worker(route.env)
                if known is not None and known != worker["generation"]:
                    route.generation = known
                    await self._report(route)
                    return
                route.generation = worker["generation"]
                await loop.create_unix_connection(lambda: route, worker["socket"])
            except RunkitError as error:
                why = {"reason": "unknown", "error": {"type": type(error).__name__, "message": str(error)}}
                break
            except OSError as error:  # it ended between the question and now
                why = {"reason": "unknown", "error": {"type": "EnvError", "message": str(error)}}
                await asyncio.sleep(0.02 * (attempt + 1))
                continue
            if route.ended:  # the client closed it meanwhile
                route.close()
            else:
                opened = {name: worker[name] for name in ("generation", "pid", "socket")}
                await self._tell({"opened": {"route": route.number, **opened}})
                route.begin()
            return
        self._routes.pop(route.number, None)
        await self._tell({"closed": {"route": route.number, "env": route.env, "generation": route.generation, **why}})

    def lost(self, route: Route) -> None:
        """The worker's end of a route has closed: find out how the worker ended, and tell the client."""
        self._spawn(self._report(route))

    async def _report(self, route: Route) -> None:
        death = await self._death(route.env, route.generation)
        if self._routes.get(route.number) is route:
            del self._routes[route.number]
            told = (
                {name: death[name] for name in ("reason", "why", "exitcode", "signal", "stderr", "oom", "pid")}
                if death
                else {"reason": "died"}
            )
            await self._tell(
                {"closed": {"route": route.number, "env": route.env, "generation": route.generation, **told}}
            )

    async def _tell(self, message: dict[str, Any]) -> None:
        if not self._socket.closed:
            try:
                await self._socket.send_str(json.dumps(message))
            except (ConnectionError, RuntimeError):  # it went meanwhile
                pass

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- streams

    def send(self, head: bytes, data: bytes) -> None:
        """Send a route's bytes to the client as one message, in one write: a WebSocket frame of a server is not masked (RFC 6455)."""
        transport = self._transport
        if transport is None or self._socket.closed:
            return
        length = len(data) + 2
        if length < 126:
            frame = b"\x82" + bytes((length,)) + head + data
            transport.write(frame)
        elif length < 65536:
            transport.write(b"\x82\x7e" + length.to_bytes(2, "big") + head + data)
        else:
            transport.writelines((b"\x82\x7f" + length.to_bytes(8, "big") + head, data))
        if not self.paused and transport.get_write_buffer_size() > HIGH:
            self.paused = True
            self._spawn(self._resume())

    async def _resume(self) -> None:
        """Leave the workers' sockets alone until the client has taken most of what waits for it."""
        for route in self._routes.values():
            if route.transport is not None:
                route.transport.pause_reading()
        while (
            self._transport is not None
            and not self._transport.is_closing()
            and self._transport.get_write_buffer_size() > LOW
        ):
            await asyncio.sleep(0.001)
        self.paused = False
        for route in self._routes.values():
            if route.live and route.transport is not None and not route.transport.is_closing():
                route.transport.resume_reading()

    async def _until_drained(self, route: Route) -> None:
        while not route.ended and route.waiting > FULL // 2:
            await asyncio.sleep(0.002)
