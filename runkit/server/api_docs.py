"""The server's own description: `/openapi.json`, and `/docs` made of it. Nothing of it is fetched from elsewhere."""

from __future__ import annotations

import html
import re
from typing import Any

from aiohttp import web

from runkit import __version__

routes = web.RouteTableDef()


@routes.get("/openapi.json")
async def openapi(request: web.Request) -> web.Response:
    """This description (OpenAPI 3.1)."""
    return web.json_response(describe(request.app))


@routes.get("/docs")
async def docs(request: web.Request) -> web.Response:
    """A page for people."""
    rows = []
    for path, methods in describe(request.app)["paths"].items():
        for method, operation in methods.items():
            rows.append(
                f"<tr><td>{method.upper()}</td><td><code>{html.escape(path)}</code></td><td>{html.escape(operation['summary'])}</td></tr>"
            )
    page = (
        "<!doctype html><meta charset=utf-8><title>runkit server</title>"
        "<style>body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}td{padding:.2em .8em .2em 0;vertical-align:top}"
        "pre{background:#f3f3f3;padding:1em;overflow:auto}</style>"
        f"<h1>runkit server {html.escape(__version__)}</h1><p>Every request carries the server's token; the description for programs is at "
        "<a href=/openapi.json>/openapi.json</a>.</p><pre>"
        'curl -H "Authorization: Bearer $(cat ~/.runkit/servers/32300/token)" http://127.0.0.1:32300/v1/status\n'
        'curl -H "Authorization: Bearer $TOKEN" -d \'{"args": [3]}\' http://127.0.0.1:32300/v1/envs/np_env/call/trainer/step</pre>'
        f"<table>{''.join(rows)}</table>"
    )
    return web.Response(text=page, content_type="text/html")


def describe(app: web.Application) -> dict[str, Any]:
    """The application as an OpenAPI document, from its routes and the docstrings of their handlers."""
    paths: dict[str, dict[str, Any]] = {}
    for route in app.router.routes():
        if route.resource is None or route.method in ("HEAD", "OPTIONS"):
            continue
        path = route.resource.canonical
        text = (route.handler.__doc__ or "").strip()
        summary, _, more = text.partition("\n")
        operation: dict[str, Any] = {
            "summary": summary,
            "parameters": [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in re.findall(r"{(\w+)}", path)
            ],
            "responses": {
                "200": {"description": "It worked."},
                "default": {
                    "description": "An error.",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
                },
            },
        }
        if more.strip():
            operation["description"] = re.sub(r"\s+", " ", more.strip())
        if route.method in ("POST", "PUT"):
            operation["requestBody"] = {"content": {"application/json": {"schema": {"type": "object"}}}}
        paths.setdefault(path, {})[route.method.lower()] = operation
    error = {"type": "object", "properties": {name: {"type": "string"} for name in ("type", "message", "output")}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "runkit server", "version": __version__},
        "security": [{"token": []}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": {"type": "object", "properties": {"error": error}}},
        },
    }
