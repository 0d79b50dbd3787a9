"""Envs and keys over HTTP."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from aiohttp import web

from runkit.errors import UsageError
from runkit.server.head import Head
from runkit.server.http import body
from runkit.server.keys import HEAD
from runkit.wire import problems
from runkit.wire.names import DEFAULT_ENV, check_name

routes = web.RouteTableDef()

_NEEDED = ("name", "request", "build", "python", "lock", "packages", "env_vars", "setup_cmds")


@routes.post("/v1/ensure")
async def ensure(request: web.Request) -> web.Response:
    """Whether an env and the mirrors of some roots are what the client wants them to be: the one question of an unchanged `.to()`."""
    head = request.app[HEAD]
    asked = await body(request)
    answer: dict[str, Any] = {"env": None, "roots": {}, "worker": None}
    if env := asked.get("env"):
        name = env.get("name") or DEFAULT_ENV
        answer["env"] = head.envs.ask_state(name, env.get("request"))
        if answer["env"] == "ready":
            answer["worker"] = await head.envs.worker(name)
    roots = asked.get("roots") or []
    if roots:
        answer["roots"] = await asyncio.to_thread(_present, head, roots)
    return web.json_response(answer)


def _present(head: Head, roots: list[dict[str, str]]) -> dict[str, bool]:
    return {root["id"]: head.mirror.has(root["id"], root["digest"]) for root in roots}


@routes.get("/v1/envs")
async def list_envs(request: web.Request) -> web.Response:
    """All envs."""
    return web.json_response({"envs": (await request.app[HEAD].status())["envs"]})


@routes.get("/v1/envs/{name}/spec")
async def spec(request: web.Request) -> web.Response:
    """What the env was asked to be, as the client that sent it said."""
    return web.json_response(request.app[HEAD].envs.get(request.match_info["name"]).plan.get("spec") or {})


@routes.put("/v1/envs/{name}")
async def install(request: web.Request) -> web.StreamResponse:
    """Make the env what the plan says; one JSON object per line as it goes on, {"done": …} or {"error": …} last.

    It is finished even if the client goes meanwhile.
    """
    head = request.app[HEAD]
    plan = await body(request)
    name = check_name("env", request.match_info["name"])
    if plan.get("name", name) != name or any(field not in plan for field in _NEEDED if field != "name"):
        raise UsageError(f"the plan of env {name!r} lacks a field; it needs {', '.join(_NEEDED)}")
    events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    async def work() -> None:
        try:
            async for event in head.envs.install({**plan, "name": name}):
                events.put_nowait(event)
        except Exception as error:  # the client is in the middle of a stream: it has to hear of it there
            events.put_nowait({"error": problems.to_json(error)})
            raise
        finally:
            events.put_nowait(None)

    head.spawn(work())
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
    await response.prepare(request)
    while (event := await events.get()) is not None:
        await response.write(json.dumps(event).encode() + b"\n")
    await response.write_eof()
    return response


@routes.delete("/v1/envs/{name}")
async def delete(request: web.Request) -> web.Response:
    """End an env and forget it."""
    return web.json_response({"lost": await request.app[HEAD].envs.delete(request.match_info["name"])})


@routes.post("/v1/envs/{name}/restart")
async def restart(request: web.Request) -> web.Response:
    """Replace the env's worker; with {"generation": n} only that one, with {"only_if_alone": true} only if it runs one call at most."""
    asked = await body(request)
    head = request.app[HEAD]
    why = str(asked.get("why") or "a client asked for it")
    if asked.get("only_if_alone"):
        worker = await head.envs.worker(request.match_info["name"])
        if await asyncio.to_thread(_running, worker["socket"]) > 1:
            return web.json_response({"lost": [], "replaced": False})
    return web.json_response(await head.envs.restart(request.match_info["name"], why, asked.get("generation")))


@routes.post("/v1/envs/{name}/replace")
async def replace(request: web.Request) -> web.Response:
    """Replace the env's worker if it is still the one of {"generation"}; with {"only_if_alone"} only while at most one call runs in it."""
    asked = await body(request)
    head = request.app[HEAD]
    name = request.match_info["name"]
    before = head.envs.get(name).worker
    if before is None or asked.get("generation") not in (None, before["generation"]):
        return web.json_response({"replaced": False, "lost": []})
    if asked.get("only_if_alone"):
        state = await head.envs.look(name)
        if (state["worker"] or {}).get("running", 0) > 1:
            return web.json_response({"replaced": False, "lost": []})
    done = await head.envs.restart(name, str(asked.get("why") or "a client asked for it"), before["generation"])
    return web.json_response({"replaced": (done["worker"] or {}).get("generation") != before["generation"], **done})


@routes.get("/v1/envs/{name}/log")
async def log(request: web.Request) -> web.Response:
    """The last lines of what the env's worker printed; `?lines=` says how many (200)."""
    head = request.app[HEAD]
    name = head.envs.get(request.match_info["name"]).name
    lines = max(1, min(100_000, int(request.query.get("lines", 200))))
    return web.Response(text=await asyncio.to_thread(_tail, head.settings.log / f"{name}.log", lines))


def _running(socket: str) -> int:
    """How many calls a worker runs, from the small file that it keeps beside its socket even while it cannot answer."""
    try:
        return int.from_bytes(Path(socket + ".running").read_bytes()[:8], "little")
    except OSError:
        return 0


def _tail(path: Any, lines: int) -> str:
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - (4 << 20)))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ""


@routes.get("/v1/keys")
async def keys(request: web.Request) -> web.Response:
    """{key: env} of the cluster, or of `?env=`."""
    head = request.app[HEAD]
    env = request.query.get("env")
    if env is not None:
        head.envs.get(env)
    return web.json_response({"keys": head.directory.keys(env)})
