"""What clients bring: mirrors of roots, wheels, interpreters; and what the host can fetch by itself."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from runkit.errors import ServerError, UsageError
from runkit.server import hostinfo, incoming
from runkit.server.http import body
from runkit.server.keys import HEAD
from runkit.wire.installers import is_disk_full

routes = web.RouteTableDef()

REACH_SECONDS = 3.0
CHUNK = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]{0,250}")


# -- roots


@routes.post("/v1/roots/{id}/plan")
async def plan(request: web.Request) -> web.Response:
    """Which files of a manifest have to be sent."""
    manifest = await body(request)
    mirror = request.app[HEAD].mirror
    return web.json_response({"need": await asyncio.to_thread(mirror.plan, request.match_info["id"], manifest)})


@routes.post("/v1/roots/{id}/apply")
async def apply(request: web.Request) -> web.Response:
    """Receive the files and put them in place."""
    reader = BodyReader(request)
    mirror = request.app[HEAD].mirror
    applied = await asyncio.to_thread(mirror.apply, request.match_info["id"], reader)
    return web.json_response({name: getattr(applied, name) for name in ("changed", "deleted", "need", "aside")})


class BodyReader:
    """A request's body for code that blocks in a thread of its own."""

    def __init__(self, request: web.Request):
        self._content = request.content
        self._loop = asyncio.get_running_loop()

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes; b"" at the end."""
        return asyncio.run_coroutine_threadsafe(self._content.read(size), self._loop).result()


# -- wheels


@routes.post("/v1/wheels/missing")
async def missing(request: web.Request) -> web.Response:
    """Which wheels are not in this host's store."""
    wheels = request.app[HEAD].settings.home / "wheels"
    wanted = [_checked(_SHA256, one, "sha256") for one in (await body(request))["sha256"]]
    return web.json_response({"missing": [one for one in wanted if not _there(wheels / one)]})


def _there(folder: Path) -> bool:
    """Whether a wheel is there; somebody is about to use it, so it is not the time to collect it."""
    with suppress(OSError):
        os.utime(folder)
        return any(folder.iterdir())
    return False


@routes.put("/v1/wheels/{sha256}/{filename}")
async def put_wheel(request: web.Request) -> web.Response:
    """Receive a wheel; it is there only when all of it is, and its content is what its name says."""
    sha256 = _checked(_SHA256, request.match_info["sha256"], "sha256")
    filename = _checked(_FILE, request.match_info["filename"], "name of a file")
    folder = request.app[HEAD].settings.home / "wheels"
    folder.mkdir(mode=0o700, exist_ok=True)
    digest = hashlib.sha256()
    partial = await _receive(request, folder, digest.update)
    try:
        if digest.hexdigest() != sha256:
            raise UsageError(f"{filename} did not arrive as it was sent: its sha256 is {digest.hexdigest()}")
        (folder / sha256).mkdir(mode=0o700, exist_ok=True)
        partial.replace(folder / sha256 / filename)
    finally:
        partial.unlink(missing_ok=True)
    return web.json_response({"path": str(folder / sha256 / filename)})


# -- interpreters


@routes.post("/v1/pythons")
async def find_python(request: web.Request) -> web.Response:
    """An interpreter of a version: on the host, shipped before, or fetched by uv now."""
    version = _checked(re.compile(r"3\.\d+(\.\d+)?"), (await body(request)).get("version"), "version of Python 3")
    return web.json_response(await asyncio.to_thread(hostinfo.find_python, request.app[HEAD].settings, version))


@routes.put("/v1/pythons/{name}")
async def put_python(request: web.Request) -> web.Response:
    """Receive an interpreter as a .tar.gz; it is there only when it starts."""
    name = _checked(_FILE, request.match_info["name"], "name of an interpreter")
    folder = request.app[HEAD].settings.home / "python"
    folder.mkdir(mode=0o700, exist_ok=True)
    archive = await _receive(request, folder, lambda data: None)
    try:
        path = await asyncio.to_thread(_unpack_python, archive, folder / name)
    finally:
        archive.unlink(missing_ok=True)
    return web.json_response({"path": str(path), "version": hostinfo.exact_version(str(path))})


def _unpack_python(archive: Path, place: Path) -> Path:
    partial = Path(tempfile.mkdtemp(prefix=incoming.prefix(), dir=place.parent))
    try:
        with tarfile.open(archive) as content:
            content.extractall(partial, filter="tar") if hasattr(tarfile, "tar_filter") else content.extractall(partial)
        inside = list(partial.iterdir())
        root = inside[0] if len(inside) == 1 and inside[0].is_dir() and not (partial / "bin").exists() else partial
        if not place.exists():
            root.replace(place)
    except (tarfile.TarError, OSError, EOFError) as error:
        if is_disk_full(error):
            raise
        raise ServerError(f"the interpreter {place.name} could not be unpacked: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for path in sorted((place / "bin").glob("python3.*")):
        if re.fullmatch(r"python3\.\d+", path.name) and hostinfo.exact_version(str(path)):
            return path
    shutil.rmtree(place, ignore_errors=True)
    raise ServerError(f"the interpreter {place.name} does not start on this host")


# -- the host's own way out


@routes.post("/v1/reachable")
async def reachable(request: web.Request) -> web.Response:
    """Which addresses this host can fetch by itself, without credentials; at most three seconds."""
    urls = [str(url) for url in (await body(request)).get("urls", [])][:1000]
    timeout = aiohttp.ClientTimeout(total=REACH_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as session:
        found = await asyncio.gather(*(_reaches(session, url) for url in urls))
    return web.json_response(dict(zip(urls, found)))


async def _reaches(session: aiohttp.ClientSession, url: str) -> bool:
    if urlsplit(url).scheme not in ("http", "https"):
        return False
    try:
        async with session.get(url, headers={"Range": "bytes=0-0"}) as response:
            return response.status < 400
    except (aiohttp.ClientError, OSError, TimeoutError, asyncio.TimeoutError, ValueError):
        return False


async def _receive(request: web.Request, folder: Path, see: Callable[[bytes], Any]) -> Path:
    descriptor, name = tempfile.mkstemp(prefix=incoming.prefix(), dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            async for data in request.content.iter_chunked(CHUNK):
                see(data)
                await asyncio.to_thread(file.write, data)
    except BaseException:
        os.unlink(name)
        raise
    return Path(name)


def _checked(pattern: re.Pattern[str], value: object, what: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise UsageError(f"{value!r} is no {what}")
    return value
