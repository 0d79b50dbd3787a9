"""The server's Ray: started with explicit ports and a token of ours, asked for servlets, watched, and ended by id."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from runkit.errors import ServerError
from runkit.server.leftovers import end_leftovers
from runkit.server.settings import Settings, append_to, ensure_secret
from runkit.servlet.processes import ProcessId, pidfd
from runkit.wire import places, problems

START_SECONDS = 90.0
LINE_BYTES = 256 << 20
_STORE_MOST = 2 << 30

log = logging.getLogger("runkit.server.ray")


def shared_variables(settings: Settings) -> dict[str, str]:
    """What a process needs in its environment to speak with this Ray, and with no other one."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(settings.ray_token), "RAY_USAGE_STATS_ENABLED": "0"}


def address(settings: Settings) -> str:
    """Where this Ray listens. Ray replaces "127.0.0.1" by the host's own address, where nobody listens; this form of it it keeps."""
    return f"[::ffff:127.0.0.1]:{settings.ports.gcs}"


class RayCluster:
    """Ray under this server, and the line to it (see rayhead and ray_bridge).

    Attributes:
        head: the process that holds it.
        version: Ray's version, once it is known.
        connected: whether it answers.
        on_death: called on the loop when Ray has ended without being told.
        adopted: whether it is the Ray of an earlier server.
    """

    def __init__(self, settings: Settings):
        self.head: ProcessId | None = None
        self.version = ""
        self.connected = False
        self.adopted = False
        self.on_death: Callable[[], None] = lambda: None
        self._settings = settings
        self._popen: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Queue[dict[str, Any]]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None

    # -- start

    def begin(self) -> None:
        """Take over the Ray of an earlier server on this port, else start one; returns at once."""
        kept = self._settings.read_state().get("ray") or {}
        head = ProcessId.from_json(kept.get("head"))
        self.adopted = head is not None and head.alive() and bool(kept.get("version"))
        if self.adopted:
            self.head, self.version = head, kept["version"]
        else:
            self.launch()

    def launch(self) -> None:
        """Start the head process; returns at once. What an earlier Ray left behind is ended and removed first."""
        settings = self._settings
        self._clear()
        ensure_secret(settings.ray_token)
        places.private(settings.ray)
        ports = settings.ports
        first, last = ports.workers
        plan = {
            "gcs": ports.gcs,
            "node_manager": ports.node_manager,
            "object_manager": ports.object_manager,
            "runtime_env_agent": ports.runtime_env_agent,
            "agent_http": ports.agent_http,
            "agent_grpc": ports.agent_grpc,
            "metrics": ports.metrics,
            "workers": [first, last],
            "address": address(settings),
            "temp": str(settings.ray),
            "socket": str(settings.ray_socket),
            "object_store_memory": _object_store_memory(),
        }
        with append_to(settings.log / "ray.log") as output:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "runkit.server.rayhead"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=self._environment(),
                cwd=settings.runtime,
                start_new_session=True,
            )
        assert self._popen.stdin is not None  # asked for above
        with suppress(BrokenPipeError), self._popen.stdin as pipe:
            pipe.write(json.dumps(plan).encode())
        self.head = ProcessId.of(self._popen.pid) or ProcessId(self._popen.pid, 0)
        settings.write_state(ray={"head": self.head.as_json()})

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return {
            **inherited,
            **shared_variables(self._settings),
            "SPT_NOENV": "1",  # Ray's processes change their titles; what they were started with stays to be seen (see of_session)
            "PYTHONPATH": str(self._settings.code),  # servlets are imported from there
            "RAY_worker_niceness": "0",  # what an actor starts would run at 15 as well: the user's code, and installations
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # when this node ends all of its work ends with it
        }

    async def connect(self) -> None:
        """Have a line to Ray, as soon as it is there.

        Raises:
            ServerError: Ray did not come up.
        """
        log.info("wait for Ray")
        if not self.adopted and self._popen is not None:
            self.version = await self._await_head(self._popen)
        try:
            reader, self._writer = await asyncio.open_unix_connection(self._settings.ray_socket, limit=LINE_BYTES)
        except OSError as error:
            raise ServerError(f"Ray's head process does not answer: {error}") from error
        self._reading = asyncio.get_running_loop().create_task(self._read(reader))
        self.connected = True
        log.info("Ray %s is there%s", self.version, " still" if self.adopted else "")
        self._watch()

    async def _await_head(self, head: subprocess.Popen[bytes]) -> str:
        assert head.stdout is not None  # asked for in `launch`
        messages = self._settings.log / "ray.log"
        try:
            line = await asyncio.wait_for(asyncio.to_thread(head.stdout.readline), START_SECONDS)
        except (TimeoutError, asyncio.TimeoutError):
            raise ServerError(f"Ray did not start within {START_SECONDS:g} s; its messages are in {messages}") from None
        if not line:
            raise ServerError(f"Ray did not start (status {head.wait()}); its messages are in {messages}")
        head.stdout.close()
        version = str(json.loads(line)["version"])
        assert self.head is not None  # launched
        self._settings.write_state(ray={"head": self.head.as_json(), "version": version})
        return version

    # -- questions

    async def request(self, op: str, **fields: Any) -> Any:
        """One question, one answer.

        Raises:
            ServerError: Ray has ended, or refused. EnvError, …: as the servlet raised it.
        """
        async for message in self._exchange(op, fields):
            return message.get("ok")
        return None

    async def stream(self, op: str, **fields: Any) -> AsyncIterator[Any]:
        """One question, answers as they come. Raises what `request` does."""
        async for message in self._exchange(op, fields):
            if "item" in message:
                yield message["item"]

    async def _exchange(self, op: str, fields: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        if self._writer is None or not self.connected:
            raise ServerError("Ray has ended; it is being started again")
        number = next(self._numbers)
        answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._waiting[number] = answers
        try:
            self._writer.write(json.dumps({"id": number, "op": op, **fields}).encode() + b"\n")
            while True:
                message = await answers.get()
                if "error" in message:
                    raise problems.from_json(message["error"])
                yield message
                if "item" not in message:
                    return
        finally:
            self._waiting.pop(number, None)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with suppress(OSError, ValueError):
            while line := await reader.readline():
                message = json.loads(line)
                if (answers := self._waiting.get(message["id"])) is not None:
                    answers.put_nowait(message)
        self._hang_up()

    def _hang_up(self) -> None:
        self.connected = False
        gone = problems.to_json(ServerError("Ray has ended, and the servlets with it"))
        for answers in self._waiting.values():
            answers.put_nowait({"error": gone})
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    # -- watch

    def _watch(self) -> None:
        head = self.head
        assert head is not None  # it answers
        loop = asyncio.get_running_loop()
        descriptor = pidfd(head.pid)
        if descriptor is None:
            self._polling = loop.create_task(self._poll(head))
            return

        def ended() -> None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            self._ended(head)

        loop.add_reader(descriptor, ended)

    async def _poll(self, head: ProcessId) -> None:
        while head.alive():
            await asyncio.sleep(0.5)
        self._ended(head)

    def _ended(self, head: ProcessId) -> None:
        if self._popen is not None:
            self._popen.poll()  # reaps it
        if self.head == head:  # else it was ended on purpose, and maybe followed by another one
            self._hang_up()
            self.on_death()

    # -- end

    def disconnect(self) -> None:
        """Leave Ray as it is. Call on the loop."""
        self._hang_up()

    def stop(self) -> None:
        """End Ray and the workers, everything of it; nothing of any other Ray is touched. Blocks."""
        self.head = None  # its end is no news
        # All at once: a head that is asked alone takes its time to say good-bye to parts that nobody needs any more.
        self._clear()
        if self._popen is not None:
            self._popen.poll()  # reaps it
        self._settings.write_state(ray=None)

    def _clear(self) -> None:
        """Remove what a Ray that has ended left: its processes, workers that have nobody any more, its files."""
        kept = ProcessId.from_json((self._settings.read_state().get("ray") or {}).get("head"))
        end_leftovers(self._settings, kept)
        shutil.rmtree(self._settings.ray, ignore_errors=True)
        self.adopted = False


def _object_store_memory() -> int:
    """Bytes for Ray's own object store, which only code that uses Ray itself needs; taken from /dev/shm as it fills."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    shared = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else _STORE_MOST
    return max(80 << 20, min(_STORE_MOST, memory // 10, int(shared * 0.8)))
