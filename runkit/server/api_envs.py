"""Envs and keys over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiohttp import web

from runkit.errors import EnvError, UsageError
from runkit.server import gc
from runkit.server.head import Head
from runkit.server.http import body
from runkit.server.in_time import in_time
from runkit.server.keys import HEAD
from runkit.server.secrets import taken
from runkit.wire import problems
from runkit.wire.names import DEFAULT_ENV, check_name

routes = web.RouteTableDef()

LOG_PIECE = 4 << 20
"""The most of a log (bytes) that goes out in one answer."""

GONE_SECONDS = 0.5
"""How long it may take until a client's going is noticed."""

_BUILD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")
_NEEDED = ("name", "request", "build", "python", "lock", "packages", "env_vars", "setup_cmds")


@routes.post("/v1/ensure")
async def ensure(request: web.Request) -> web.Response:
    """Whether an env and the mirrors of some roots are what the client wants them to be: the one question of an unchanged `.to()`."""
    head = request.app[HEAD]
    asked = await body(request)
    answer: dict[str, Any] = {"env": None, "roots": {}, "worker": None}
    if env := asked.get("env"):
        name = answer["name"] = head.envs.real_name(env.get("name") or DEFAULT_ENV)
        secrets = dict(env.get("secrets") or {})
        answer["env"] = head.envs.ask_state(name, env.get("request"), env.get("base"), secrets)
        if answer["env"] == "ready":
            try:
                answer["worker"] = await head.envs.worker(name)
            except (
                EnvError
            ):  # its folder may have gone: whoever sends it again has it built again, or hears why that fails
                answer["env"] = "changed"
    roots = asked.get("roots") or []
    if roots:
        answer["roots"] = await asyncio.to_thread(_present, head, roots)
    return web.json_response(answer)


def _present(head: Head, roots: list[dict[str, str]]) -> dict[str, bool]:
    return {root["id"]: head.mirror.has(root["id"], root["digest"]) for root in roots}


@routes.get("/v1/envs")
async def list_envs(request: web.Request) -> web.Response:
    """All envs, or the one that `?env=` names; with `?sizes=1` what each takes on disk, in bytes."""
    head = request.app[HEAD]
    envs = (await head.status())["envs"]
    if (asked := request.query.get("env")) is not None:
        name = head.envs.get(asked).name
        envs = {name: envs[name]}
    if request.query.get("sizes"):
        folders = [head.settings.home / "envs" / str(env["build"]) for env in envs.values()]
        sizes = await asyncio.to_thread(lambda: [gc.disk_size(folder) for folder in folders])
        envs = {name: {**env, "size": size} for (name, env), size in zip(envs.items(), sizes, strict=True)}
    return web.json_response({"envs": envs})


@routes.post("/v1/gc")
async def collect(request: web.Request) -> web.Response:
    """Remove what is of no more use; {"everything": also what was used lately, "dry_run": only say}. {"removed": …, "size": bytes}."""
    asked = await body(request)
    removed = await asyncio.to_thread(
        gc.collect,
        request.app[HEAD].settings.home,
        everything=bool(asked.get("everything")),
        dry_run=bool(asked.get("dry_run")),
    )
    return web.json_response({"removed": [one.as_json() for one in removed], "size": sum(one.size for one in removed)})


@routes.get("/v1/envs/{name}/spec")
async def spec(request: web.Request) -> web.Response:
    """What the env was asked to be, as the client that sent it said."""
    return web.json_response(request.app[HEAD].envs.get(request.match_info["name"]).plan.get("spec") or {})


@routes.put("/v1/envs/{name}")
async def install(request: web.Request) -> web.StreamResponse:
    """Make the env what the plan says; one JSON object per line as it goes on, {"done": …}, {"error": …} or {"changed": …} last.

    If the client goes meanwhile, what is being built is ended, and the env is as it was. {"changed": name}: the plan's `follows` is
    not the digest of the env's spec any more, and nothing was done.
    """
    head = request.app[HEAD]
    plan, secrets = taken(await body(request))
    name = check_name("env", request.match_info["name"])
    if plan.get("name", name) != name or any(field not in plan for field in _NEEDED if field != "name"):
        raise UsageError(f"the plan of env {name!r} lacks a field; it needs {', '.join(_NEEDED)}")
    if not isinstance(plan["build"], str) or not _BUILD.fullmatch(plan["build"]):
        raise UsageError(f"{plan['build']!r} cannot name a build")
    deadline = plan.pop("install_timeout", None)
    events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
    given_up = asyncio.Event()

    async def work() -> None:
        try:
            events_of = head.envs.install({**plan, "name": name}, secrets, given_up)
            async for event in in_time(events_of, name, deadline, given_up):
                events.put_nowait(event)
        except Exception as error:  # the client is in the middle of a stream: it has to hear of it there
            events.put_nowait({"error": problems.to_json(error)})
            raise
        finally:
            events.put_nowait(None)

    head.spawn(work())
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
    try:
        await response.prepare(request)
        while request.transport is not None:  # the client is there
            with suppress(TimeoutError, asyncio.TimeoutError):
                if (event := await asyncio.wait_for(events.get(), GONE_SECONDS)) is None:
                    break
                await response.write(json.dumps(event).encode() + b"\n")
        await response.write_eof()
    finally:
        given_up.set()
    return response


@routes.delete("/v1/envs/{name}")
async def delete(request: web.Request) -> web.Response:
    """End an env and forget it."""
    return web.json_response({"lost": await request.app[HEAD].envs.delete(request.match_info["name"])})


@routes.post("/v1/envs/{name}/restart")
@routes.post("/v1/envs/{name}/replace")
async def restart(request: web.Request) -> web.Response:
    """Replace the env's worker; {replaced, lost, worker}.

    With {"generation": n} only that one; with {"only_call": [session, number]} only while that call runs in it and no other.
    """
    asked = await body(request)
    head = request.app[HEAD]
    name = request.match_info["name"]
    before = (await head.envs.look(name))["worker"] or {}
    why = str(asked.get("why") or "a client asked for it")
    done = await head.envs.restart(name, why, asked.get("generation"), asked.get("only_call"))
    replaced = (done["worker"] or {}).get("generation") != before.get("generation")
    return web.json_response({"replaced": replaced, **done})


@routes.get("/v1/envs/{name}/log")
async def log(request: web.Request) -> web.Response:
    """What the env's code printed: the last `?lines=` (200), or all since `?from=` of `?file=`; {text, end, file}."""
    head = request.app[HEAD]
    name = head.envs.get(request.match_info["name"]).name
    path = head.settings.log / f"{name}.log"
    start = request.query.get("from")
    lines = max(1, min(100_000, int(request.query.get("lines", 200))))
    return web.json_response(
        await asyncio.to_thread(
            _read_log, path, None if start is None else int(start), request.query.get("file"), lines
        )
    )


def _read_log(path: Path, start: int | None, file: str | None, lines: int) -> dict[str, Any]:
    """A piece of a log. The worker turns its log over now and then; `file` tells one from the other."""
    try:
        with open(path, "rb") as log:
            number, size = str(os.fstat(log.fileno()).st_ino), log.seek(0, os.SEEK_END)
            if start is not None:
                log.seek(start if number == file else 0)
                text = log.read(LOG_PIECE).decode("utf-8", "replace")
                return {"text": text, "end": log.tell(), "file": number}
            log.seek(max(0, size - LOG_PIECE))
            kept = log.read().decode("utf-8", "replace").splitlines(keepends=True)[-lines:]
            return {"text": "".join(kept), "end": log.tell(), "file": number}
    except OSError:
        return {"text": "", "end": 0, "file": ""}


@routes.get("/v1/keys")
async def keys(request: web.Request) -> web.Response:
    """{key: env} of the cluster, or of `?env=`."""
    head = request.app[HEAD]
    await head.directory.settled.wait()
    env = request.query.get("env")
    name = None if env is None else head.envs.get(env).name
    return web.json_response({"keys": head.directory.keys(name)})
