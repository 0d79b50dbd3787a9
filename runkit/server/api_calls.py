"""Calls with JSON arguments and results, for curl and other languages. The JSON goes to the worker as it is."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from runkit.errors import CallTimeout, ServerError, UsageError
from runkit.server.head import Head
from runkit.server.http import body
from runkit.server.keys import HEAD
from runkit.wire import frames, problems

routes = web.RouteTableDef()

LONGEST = 24 * 3600.0
_AHEAD = 1 << 30


@routes.post("/v1/envs/{env}/call/{key}")
@routes.post("/v1/envs/{env}/call/{key}/{method}")
async def call(request: web.Request) -> web.Response:
    """Call a stored object, or a method of it: {"args": [...], "kwargs": {...}, "timeout": seconds} -> {"result": …}."""
    head = request.app[HEAD]
    asked = await body(request)
    args, kwargs = asked.get("args", []), asked.get("kwargs", {})
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise UsageError('"args" must be a list and "kwargs" an object')
    env, key, method = request.match_info["env"], request.match_info["key"], request.match_info.get("method")
    await head.directory.settled.wait()
    if head.directory.owner(key) != env:
        raise KeyError(f"env {env!r} has no object {key!r}")
    timeout = float(asked.get("timeout") or LONGEST)
    target = {"key": key, "method": method}
    try:
        return await asyncio.wait_for(
            _call(head, env, target, json.dumps({"args": args, "kwargs": kwargs}).encode()), timeout
        )
    except (TimeoutError, asyncio.TimeoutError):
        raise CallTimeout(f"{key}.{method or '__call__'} in env {env!r} did not end within {timeout:g} s") from None


async def _call(head: Head, env: str, target: dict[str, Any], arguments: bytes) -> web.Response:
    worker = await head.worker(env)
    try:
        reader, writer = await asyncio.open_unix_connection(worker["socket"])
    except OSError as error:
        raise ServerError(f"the worker of env {env!r} has just ended: {error}") from error
    try:
        hello = {
            "session": f"http-{secrets.token_hex(8)}",
            "lane": "main",
            "inline": True,
            "received": 0,
            "client": "http",
        }
        writer.write(frames.encode(frames.HELLO, meta=hello))
        writer.write(
            frames.encode(frames.CALL, 1, {"target": target, "log": 0}, [arguments], seq=1, flags=frames.FLAG_JSON)
        )
        items: list[Any] | None = None
        async for frame in _frames(reader):
            if frame.kind == frames.STARTED and frame.meta.get("gen"):
                items = []
                writer.write(frames.encode(frames.NEXT, 1, {"n": _AHEAD}, seq=2))
            elif frame.kind == frames.ITEM:
                assert items is not None  # a generator has started
                items.append(json.loads(bytes(frame.parts[0])))
            elif frame.kind == frames.RESULT:
                value = json.loads(bytes(frame.parts[0])) if frame.parts else None
                return web.json_response({"result": value if items is None else items})
            elif frame.kind == frames.ERROR:
                return web.json_response({"error": _failure(frame.meta.get("failure") or {})}, status=500)
        death = await head.envs.death(env, worker["generation"])
        how = f" ({death['signal'] or death['exitcode']})" if death else ""
        return web.json_response(
            {"error": problems.to_json(ServerError(f"the worker of env {env!r} ended during the call{how}"))},
            status=502,
        )
    except asyncio.CancelledError:
        writer.write(frames.encode(frames.CANCEL, 1, {"why": "timeout"}, seq=3))
        raise
    finally:
        writer.write(frames.encode(frames.BYE, seq=4))
        writer.close()


def _failure(failure: dict[str, Any]) -> dict[str, Any]:
    """A remote exception for readers of JSON."""
    first = (failure.get("chain") or [{}])[0]
    return {
        "type": first.get("type", "RemoteError"),
        "message": first.get("text", ""),
        "output": first.get("formatted", ""),
    }


async def _frames(reader: asyncio.StreamReader) -> AsyncIterator[frames.Frame]:
    decoder = frames.Decoder()
    while data := await reader.read(1 << 18):
        for frame in decoder.feed(data):
            yield frame
