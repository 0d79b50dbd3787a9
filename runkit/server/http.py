"""What every request goes through: the token, and errors as JSON."""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from runkit import errors
from runkit.errors import RunkitError
from runkit.wire import problems
from runkit.wire.installers import is_disk_full

log = logging.getLogger("runkit.server")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_STATUS: tuple[tuple[type[BaseException], int], ...] = (
    (errors.EnvNotFound, 404),
    (errors.NotAuthorized, 401),
    (errors.KeyExists, 409),
    (errors.VersionMismatch, 409),
    (errors.CallTimeout, 504),
    (errors.UsageError, 400),
    (errors.EnvError, 422),
    (errors.ServerError, 503),
    (errors.RunkitError, 500),
    (KeyError, 404),
)


def token_check(token: str) -> Any:
    """Middleware that lets nobody in without the token."""
    expected = f"Bearer {token}".encode()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, expected):
            return problem(
                errors.NotAuthorized(
                    "this server wants its token: `Authorization: Bearer …`, from the file `token` in its folder"
                )
            )
        return await handler(request)

    return check


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whatever a handler raises reaches the client as JSON, and never as a traceback of the server."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return problem(errors.UsageError(f"{request.method} {request.path}: {error.reason}"), error.status)
    except (RunkitError, KeyError) as error:
        return problem(error)
    except (ValueError, TypeError) as error:  # malformed JSON, a missing field
        log.info("%s %s: %r", request.method, request.path, error)
        return problem(errors.UsageError(f"{request.method} {request.path}: {error}"))
    except ConnectionError:  # the client went
        raise
    except Exception as error:
        log.exception("%s %s", request.method, request.path)
        if is_disk_full(error):
            return problem(error, 507)
        return problem(
            errors.ServerError(
                f"the server failed at {request.method} {request.path} ({type(error).__name__}: {error})"
            ),
            500,
        )


def problem(error: BaseException, status: int | None = None) -> web.Response:
    """An error as a response."""
    if status is None:
        status = next(code for kind, code in _STATUS if isinstance(error, kind))
    return web.json_response(
        {"error": problems.to_json(error)},
        status=status,
        headers={"WWW-Authenticate": "Bearer"} if status == 401 else None,
    )


async def body(request: web.Request) -> dict[str, Any]:
    """The JSON object in a request's body.

    Raises:
        UsageError: it is none.
    """
    try:
        found = json.loads(await request.read() or b"{}")
    except ValueError as error:
        raise errors.UsageError(f"{request.method} {request.path}: the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise errors.UsageError(f"{request.method} {request.path}: the body must be a JSON object")
    return found
