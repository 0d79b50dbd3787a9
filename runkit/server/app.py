"""The HTTP application: which address goes to which handler."""

from __future__ import annotations

from aiohttp import web

from runkit import __version__
from runkit.server import api_calls, api_docs, api_envs, api_files
from runkit.server.head import Head
from runkit.server.http import body, errors_as_json, token_check
from runkit.server.keys import HEAD, TOKEN
from runkit.server.relay import Client, Relay

BODY_BYTES = 256 << 20
"""The largest body that is read as a whole (an env's plan, a root's manifest, a call's JSON); files are streamed."""


def make_app(head: Head, token: str) -> web.Application:
    """The application of one server; nothing of it can be reached without the token."""
    app = web.Application(middlewares=[errors_as_json, token_check(token)], client_max_size=BODY_BYTES)
    app[HEAD] = head
    app[TOKEN] = token
    app.router.add_get("/v1/status", status)
    app.router.add_post("/v1/shutdown", shutdown)
    app.router.add_get("/v1/ws", websocket)
    for module in (api_envs, api_files, api_calls, api_docs):
        app.add_routes(module.routes)
    return app


async def status(request: web.Request) -> web.Response:
    """What runs here."""
    return web.json_response(await request.app[HEAD].status())


async def shutdown(request: web.Request) -> web.Response:
    """End the server; with {"keep_ray": true} only this process, so that a new one takes over what runs."""
    head = request.app[HEAD]
    head.keep_ray = bool((await body(request)).get("keep_ray"))
    lost = [] if head.keep_ray else list(head.directory.keys())
    head.ending.set()
    return web.json_response({"ending": True, "lost": lost})


async def websocket(request: web.Request) -> web.WebSocketResponse:
    """A client's streams to the workers."""
    head = request.app[HEAD]
    peer = request.transport.get_extra_info("peername") if request.transport else None
    client = Client(f"{peer[0]}:{peer[1]}" if peer else "")
    head.clients.add(client)
    try:
        welcome = {"code": head.settings.code_digest, "version": __version__}
        return await Relay(client, welcome, head.worker, head.envs.death).serve(request)
    finally:
        head.clients.discard(client)
