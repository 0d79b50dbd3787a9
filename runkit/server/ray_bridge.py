"""Servlets for the asking: what the server wants of Ray, answered beside Ray's driver. JSON lines over a UNIX socket.

    {"id", "op": "create", "name", "place", "compute", "generation"} -> {"id", "ok": the actor's name}
    {"id", "op": "ask", "actor", "method", "args"}                   -> {"id", "ok": what the method gave}
    {"id", "op": "stream", "actor", "method", "args"}                -> {"id", "item": …} …, then {"id", "ok": null}
    {"id", "op": "kill", "actor"}, {"id", "op": "actors"}, {"id", "op": "resources"}

or {"id", "error": {"type", "message", "output"}}. A question whose asker goes away is dropped; what it set going goes on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any

import ray
import ray.util

from runkit.errors import ServerError
from runkit.servlet.actor import CONCURRENCY, EnvServlet
from runkit.wire import problems

NAMESPACE = "runkit"
LINE_BYTES = 256 << 20

_RESOURCES = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}

log = logging.getLogger("runkit.server.ray_bridge")


def serve(path: str, ready: Callable[[], None]) -> None:
    """Answer on the UNIX socket `path` for ever; blocks. `ready` is called once it can be connected to."""
    asyncio.run(_serve(path, ready))


async def _serve(path: str, ready: Callable[[], None]) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
    server = await asyncio.start_unix_server(lambda *streams: Asker(*streams).run(), path, limit=LINE_BYTES)
    ready()
    await server.serve_forever()


class Asker:
    """One server's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._reader = reader
        self._writer = writer
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Answer until it goes."""
        try:
            while line := await self._reader.readline():
                task = asyncio.get_running_loop().create_task(self._answer(json.loads(line)))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        except OSError:
            pass
        finally:
            for task in self._tasks:
                task.cancel()
            self._writer.close()

    async def _answer(self, question: dict[str, Any]) -> None:
        number = question["id"]
        try:
            if question["op"] == "stream":
                async for item in _stream(question):
                    self._send({"id": number, "item": item})
                answer: dict[str, Any] = {"ok": None}
            else:
                answer = {"ok": await _OPERATIONS[question["op"]](question)}
        except ray.exceptions.RayTaskError as error:
            answer = {"error": problems.to_json(error.cause if isinstance(error.cause, Exception) else error)}
        except ray.exceptions.RayError as error:
            answer = {"error": problems.to_json(ServerError(f"the servlet has ended: {_first_line(error)}"))}
        except Exception as error:
            log.exception("%s", question["op"])
            answer = {"error": problems.to_json(error)}
        self._send({"id": number, **answer})

    def _send(self, message: dict[str, Any]) -> None:
        self._writer.write(json.dumps(message).encode() + b"\n")


async def _create(question: Mapping[str, Any]) -> str:
    """Make an env's actor; it waits in Ray's queue until its resources are free."""
    options: dict[str, Any] = {"num_cpus": 0}
    custom = {}
    for kind, amount in question["compute"].items():
        if kind in _RESOURCES:
            options[_RESOURCES[kind]] = amount
        elif amount:
            custom[kind] = amount
    # A name is free again only some time after its actor was killed, so each one is new.
    actor_name = f"env:{question['name']}:{time.time_ns():x}"
    actor = ray.remote(EnvServlet).options(
        name=actor_name,
        namespace=NAMESPACE,
        lifetime="detached",
        max_concurrency=CONCURRENCY,
        resources=custom or None,
        **options,
    )
    _actors[actor_name] = actor.remote(question["place"], question["name"], question["generation"])
    return actor_name


_actors: dict[str, Any] = {}


async def _actor(name: str) -> Any:
    if name not in _actors:
        try:
            _actors[name] = await asyncio.to_thread(ray.get_actor, name, NAMESPACE)
        except ValueError as error:
            raise ServerError(f"there is no servlet {name}") from error
    return _actors[name]


async def _ask(question: Mapping[str, Any]) -> Any:
    actor = await _actor(question["actor"])
    return await getattr(actor, question["method"]).remote(*question["args"])


async def _stream(question: Mapping[str, Any]) -> AsyncIterator[Any]:
    actor = await _actor(question["actor"])
    stream = getattr(actor, question["method"]).options(num_returns="streaming").remote(*question["args"])
    async for item in stream:
        yield await item


async def _kill(question: Mapping[str, Any]) -> None:
    with suppress(ServerError):
        ray.kill(await _actor(question["actor"]), no_restart=True)
    _actors.pop(question["actor"], None)


async def _list(_: Mapping[str, Any]) -> list[str]:
    found = await asyncio.to_thread(ray.util.list_named_actors, True)
    return sorted(one["name"] for one in found if one["namespace"] == NAMESPACE and one["name"].startswith("env:"))


async def _amounts(_: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "total": await asyncio.to_thread(ray.cluster_resources),
        "free": await asyncio.to_thread(ray.available_resources),
    }


_OPERATIONS = {"create": _create, "ask": _ask, "kill": _kill, "actors": _list, "resources": _amounts}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
