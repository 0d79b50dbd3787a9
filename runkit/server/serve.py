"""The server's process: `python -m runkit.server serve --port N`, detached by `start` (see lifecycle)."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from typing import Any

from runkit.errors import PortInUse, RunkitError
from runkit.server.ray_cluster import RayCluster
from runkit.server.settings import Settings, ensure_secret
from runkit.servlet.processes import ProcessId
from runkit.wire import problems

log = logging.getLogger("runkit.server")

LOG_BYTES = 8 << 20


def serve(port: int, ready_fd: int | None = None) -> int:
    """Run the server on `port` until it is told to end.

    Args:
        ready_fd: where one line of JSON goes once calls can run, {"ready": …} or {"error": …}.
    """
    os.umask(0o077)
    settings = Settings.of(port)
    _log_to(settings)
    report = _Report(ready_fd)
    try:
        listener = _listen(port)
    except OSError as error:
        report.error(PortInUse(f"port {port} is in use: {error}"))
        return 1
    me = ProcessId.of(os.getpid())
    settings.write_state(
        server=me.as_json() if me else None, code=settings.code_digest, path=str(settings.code), python=sys.executable
    )
    log.info("start on port %d, code %s", port, settings.code_digest)
    # Ray first: it takes longest, and the imports below go on while it starts.
    ray = RayCluster(settings)
    ray.begin()
    import uvloop  # `start` and `stop` do without

    try:
        return int(uvloop.run(_main(settings, listener, report, ray)))
    except Exception as error:
        log.exception("the server failed")
        report.error(error)
        return 1
    finally:
        log.info("the server has ended")


async def _main(settings: Settings, listener: socket.socket, report: _Report, ray: RayCluster) -> int:
    from aiohttp import web  # as uvloop

    from runkit.server.app import make_app
    from runkit.server.head import Head

    began = time.monotonic()
    # What blocks (uploads, most of all) has threads enough not to wait for each other.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(64, "runkit"))
    head = Head(settings, ray)
    runner = web.AppRunner(
        make_app(head, ensure_secret(settings.token)),
        access_log=None,
        handle_signals=False,
        shutdown_timeout=0.25,  # waited for twice where a client is connected, and what it had under way has ended by then
        tcp_keepalive=True,
    )
    await runner.setup()
    await web.SockSite(runner, listener, backlog=256).start()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, head.ending.set)
    status = 0
    try:
        await head.start()
        log.info("ready after %.2f s; ray %s", time.monotonic() - began, head.ray.version)
        report.ready(settings)
        await head.ending.wait()
    except RunkitError as error:
        log.error("the server could not start: %s", error)
        report.error(error)
        status = 1
    await head.stop()
    with suppress(TimeoutError, asyncio.TimeoutError):
        await asyncio.wait_for(runner.cleanup(), 3.0)
    return status


class _Report:
    """Tells whoever started the server how it went, once."""

    def __init__(self, descriptor: int | None):
        self._descriptor = descriptor

    def ready(self, settings: Settings) -> None:
        self._write({"ready": {"port": settings.port, "pid": os.getpid(), "code": settings.code_digest}})

    def error(self, error: BaseException) -> None:
        self._write({"error": problems.to_json(error)})

    def _write(self, message: dict[str, Any]) -> None:
        if self._descriptor is not None:
            with suppress(OSError):
                os.write(self._descriptor, json.dumps(message).encode() + b"\n")
                os.close(self._descriptor)
            self._descriptor = None


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(256)
    return listener


def _log_to(settings: Settings) -> None:
    handler = RotatingFileHandler(settings.log / "server.log", maxBytes=LOG_BYTES, backupCount=2)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("aiohttp").setLevel(logging.WARNING)
    sys.excepthook = lambda kind, error, trace: log.critical("uncaught", exc_info=(kind, error, trace))
