"""Which env owns which key, and the lines to the workers. Workers tell it all of that themselves, over `server.sock`."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from runkit.errors import RunkitError, ServerError

LINE_BYTES = 16 << 20
ORDER_SECONDS = 10.0
ARRIVAL_SECONDS = 2.0
DROP_SECONDS = 5.0
"""How long a worker may take to let go of a key: less than a worker waits for the answer to its claim."""

log = logging.getLogger("runkit.server.directory")


class Line:
    """The control connection of one worker."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.env = ""
        self.generation = 0
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count(1)
        self._answers: dict[str, asyncio.Future[Any]] = {}

    def send(self, message: dict[str, Any]) -> None:
        self._writer.write(json.dumps(message).encode() + b"\n")

    async def order(self, op: str, seconds: float = ORDER_SECONDS, **fields: Any) -> Any:
        """Have the worker do something and give its answer.

        Raises:
            ServerError: it refused, ended, or did not answer in time.
        """
        number = f"s{next(self._numbers)}"  # the worker's own requests are numbered without a letter
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            self.send({"id": number, "op": op, **fields})
            reply = await asyncio.wait_for(answer, seconds)
        except (TimeoutError, asyncio.TimeoutError):
            raise ServerError(f"the worker of env {self.env!r} did not answer {op!r} within {seconds:g} s") from None
        finally:
            self._answers.pop(number, None)
        if "error" in reply:
            raise ServerError(f"the worker of env {self.env!r} refused {op!r}: {reply['error']}")
        return reply.get("ok")

    async def messages(self, handle: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        """Pass the worker's own requests to `handle` until it closes."""
        try:
            while line := await self._reader.readline():
                message = json.loads(line)
                if "op" in message:
                    await handle(message)
                elif (answer := self._answers.get(message.get("id", ""))) is not None and not answer.done():
                    answer.set_result(message)
        except (OSError, ValueError) as error:
            log.warning("the control line of env %r broke: %s", self.env, error)
        except asyncio.CancelledError:  # the server ends
            pass
        finally:
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_result({"error": "the worker has ended"})
            self._writer.close()


class Directory:
    """Keys of the whole cluster.

    Args:
        socket_of: gives the UNIX socket of an env's worker.
        replace: replaces an env's worker, if it is still of that generation and at that call alone: (env, generation, why, call).

    Attributes:
        settled: set once it is known what the workers hold that an earlier server left.
    """

    def __init__(
        self,
        socket_of: Callable[[str], Awaitable[dict[str, Any]]],
        replace: Callable[[str, int, str, tuple[str, int]], Awaitable[Any]],
    ):
        self._socket_of = socket_of
        self._replace = replace
        self._owners: dict[str, str] = {}
        self._lines: dict[str, Line] = {}
        self._losses: dict[str, list[set[str]]] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._arrived = asyncio.Condition()
        self.settled = asyncio.Event()

    async def listen(self, path: Path) -> asyncio.AbstractServer:
        """Listen on the UNIX socket; 0600, in a folder that is private as well."""
        with suppress(FileNotFoundError):
            path.unlink()
        before = os.umask(0o177)
        try:
            return await asyncio.start_unix_server(self._serve, path, limit=LINE_BYTES)
        finally:
            os.umask(before)

    # -- what the server asks

    def keys(self, env: str | None = None) -> dict[str, str]:
        """{key: env}, of the whole cluster or of one env."""
        return {key: owner for key, owner in self._owners.items() if env in (None, owner)}

    def owner(self, key: str) -> str | None:
        return self._owners.get(key)

    def forget(self, env: str) -> None:
        """The env's objects are gone."""
        lost = self.keys(env)
        for key in lost:
            del self._owners[key]
        for found in self._losses.get(env, ()):
            found.update(lost)

    @contextmanager
    def losses(self, env: str) -> Iterator[set[str]]:
        """Collects the keys that the env loses meanwhile."""
        found: set[str] = set()
        self._losses.setdefault(env, []).append(found)
        try:
            yield found
        finally:
            # By identity: two that have collected the same so far are equal.
            self._losses[env] = [other for other in self._losses[env] if other is not found]

    async def order(self, env: str, op: str, generation: int | None = None, **fields: Any) -> Any:
        """Have the env's worker (of that generation) do something.

        Raises:
            ServerError: there is no line to it, or it refused.
        """
        line = await self.arrival(env, generation, ORDER_SECONDS)  # who is refused is replaced, with all it holds
        if line is None:
            raise ServerError(f"the worker of env {env!r} is not connected to the server")
        return await line.order(op, **fields)

    async def arrival(self, env: str, generation: int | None, seconds: float = ARRIVAL_SECONDS) -> Line | None:
        """The line to the env's worker (of that generation); waits a little for one that is just being made."""
        async with self._arrived:
            with suppress(TimeoutError, asyncio.TimeoutError):
                await asyncio.wait_for(self._arrived.wait_for(lambda: self._line(env, generation) is not None), seconds)
        return self._line(env, generation)

    def _line(self, env: str, generation: int | None) -> Line | None:
        line = self._lines.get(env)
        return line if line is not None and generation in (None, line.generation) else None

    # -- what the workers say

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line(reader, writer)
        try:
            await line.messages(lambda message: self._take(line, message))
        finally:
            if self._lines.get(line.env) is line:
                del self._lines[line.env]
                self.forget(line.env)

    async def _take(self, line: Line, message: dict[str, Any]) -> None:
        if message["op"] == "hello":
            await self._hello(line, message)
            return
        if message["op"] == "release":
            await self._answer(line, message)
            return
        # The others wait for a servlet, or for another worker: the line goes on meanwhile.
        if message["op"] == "claim":  # written down in the order of the line's messages
            message["before"] = self._claim(message["env"], message["key"])
            work = self._in_turn(line, message, self._turns.setdefault(message["key"], asyncio.Lock()))
        else:
            work = self._answer(line, message)
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _in_turn(self, line: Line, message: dict[str, Any], turn: asyncio.Lock) -> None:
        """Answer a claim once the earlier ones of the same key are answered.

        A worker takes an order to drop a key that it is just claiming for an older one, so it must not get one that is newer.
        """
        async with turn:
            await self._answer(line, message)

    async def _hello(self, line: Line, message: dict[str, Any]) -> None:
        line.env, line.generation = str(message["env"]), int(message["generation"])
        present = self._lines.get(line.env)
        if present is not None and present.generation > line.generation:
            return  # the last words of a worker that was replaced
        self.forget(line.env)
        self._lines[line.env] = line
        for key in message.get("keys", ()):
            self._owners[key] = line.env
        async with self._arrived:
            self._arrived.notify_all()

    async def _answer(self, line: Line, message: dict[str, Any]) -> None:
        try:
            reply: dict[str, Any] = {"ok": await self._do(line, message)}
        except RunkitError as error:
            reply = {"error": str(error)}
        if "id" in message:
            line.send({"id": message["id"], **reply})

    async def _do(self, line: Line, message: dict[str, Any]) -> Any:
        op = message["op"]
        if op == "claim":
            return await self._drop(message["before"], message["key"])
        if op == "release":
            for key in message["keys"]:
                if self._owners.get(key) == message["env"]:
                    del self._owners[key]
            return None
        if op == "where":
            await self.settled.wait()
            owner = self._owners.get(message["key"])
            return None if owner is None else {"env": owner, "socket": (await self._socket_of(owner))["socket"]}
        if op == "keys":
            await self.settled.wait()
            return self.keys()
        if op == "socket":
            return await self._socket_of(message["env"])
        if op == "replace":
            generation, why = int(message["generation"]), str(message.get("why", ""))
            return await self._replace(message["env"], generation, why, message["only_call"])
        raise ServerError(f"the server knows no request {op!r}")

    def _claim(self, env: str, key: str) -> Line | None:
        """The key is the env's now; gives the line to the worker that had it."""
        before = self._owners.get(key)
        self._owners[key] = env
        return None if before in (None, env) else self._lines.get(str(before))

    async def _drop(self, line: Line | None, key: str) -> None:
        """Have a worker let go of a key, and wait for it: an object that it stores under the key from now on is a new one."""
        if line is None or self._lines.get(line.env) is not line:  # or its worker has ended since
            return
        try:
            await line.order("drop", DROP_SECONDS, key=key)
        except ServerError as error:
            log.warning("the key %r has moved, and its former env did not hear of it: %s", key, error)
