"""Remote generators: their items, one at a time."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Generator
from typing import Any

from runkit.client.request import Request, stopped
from runkit.client.waiting import Waiting, deadline_of
from runkit.wire import frames


class RemoteGenerator(Generator[Any, None, Any]):
    """The items of a remote generator, one at a time. Closed over there when it is dropped here."""

    def __init__(self, request: Request, waiting: Waiting | None = None):
        self._request = request
        self._ended = False
        if waiting is None:
            waiting = Waiting(request)
            waiting.send()
        self._waiting = waiting

    def __next__(self) -> Any:
        if self._ended:
            raise StopIteration
        waiting = self._waiting
        try:
            frame = waiting.next(deadline_of(self._request.options))
            while frame.kind == frames.STARTED:
                frame = waiting.next(deadline_of(self._request.options))
            assert waiting.session is not None
            if frame.kind == frames.CANCELLED:
                raise concurrent.futures.CancelledError(stopped(frame))
            value = self._request.value(waiting.session, waiting.number, frame)
        except BaseException:
            self._finish()
            raise
        if frame.kind == frames.RESULT:
            self._finish()
            raise StopIteration(value)
        waiting.session.more(waiting.number, 1)
        return value

    def send(self, value: Any) -> Any:
        """Only `send(None)`, which is `next()`: items flow one way."""
        if value is not None:
            raise TypeError("a remote generator takes no values")
        return self.__next__()

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
        """Close the remote generator and raise here."""
        self.close()
        raise kind if value is None else value

    def close(self) -> None:
        """Close the generator over there; its `finally` blocks run."""
        if not self._ended:
            self._finish()
            if self._waiting.session is not None:
                self._waiting.session.stop(self._waiting.number, "abandoned")

    def _finish(self) -> None:
        self._ended = True
        self._waiting.close()

    def __del__(self) -> None:
        try:
            self.close()
        except Exception:  # the interpreter is going down
            pass

    def __repr__(self) -> str:
        return f"<generator {self._request.label} on {self._request.caller.name!r}>"


class AsyncRemoteGenerator:
    """The items of a remote async generator, for `async for`."""

    def __init__(self, request: Request):
        self._items = RemoteGenerator(request)

    def __aiter__(self) -> AsyncRemoteGenerator:
        return self

    async def __anext__(self) -> Any:
        done = object()
        item = await asyncio.to_thread(next, self._items, done)
        if item is done:
            raise StopAsyncIteration
        return item

    async def aclose(self) -> None:
        """Close the generator over there."""
        await asyncio.to_thread(self._items.close)
