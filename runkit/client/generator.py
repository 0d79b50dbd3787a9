"""Remote generators: their items, one at a time."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import time
from collections.abc import Generator
from typing import Any

from runkit.client.finisher import finisher
from runkit.client.request import RETRIED, Request, pause_before, stopped
from runkit.client.waiting import Waiting, deadline_of
from runkit.errors import CallError
from runkit.model.mistakes import plainly
from runkit.wire import frames


class Items:
    """What remote generators of both kinds have in common: a call whose answer comes in pieces."""

    def __init__(self, request: Request, waiting: Waiting | None = None):
        self.request = request
        self.ended = False
        self.waiting = waiting or Waiting(request)
        self.sent = waiting is not None
        self._retries = request.options.retries  # until it has given something
        finisher.start()  # `drop` may need it

    def send(self) -> None:
        """Begin the generator over there."""
        self.sent = True
        while True:
            try:
                self.waiting.send()
                if self.ended and self.waiting.session is not None:  # closed meanwhile, by another thread
                    self.waiting.session.stop(self.waiting.number, "abandoned")
                return
            except RETRIED:
                if not self._again():
                    raise
            except KeyboardInterrupt:
                self.waiting.interrupted()
                raise

    def retry(self) -> bool:
        """Begin it anew after a failure of runkit's own, if nothing of it has been given out; whether that was done."""
        again = self._again()
        if again:
            self.send()
        return again

    def _again(self) -> bool:
        if self.ended or not self._retries:
            return False
        self._retries -= 1
        self.waiting.close()
        time.sleep(pause_before(self.request.options.retries - self._retries))
        self.waiting = Waiting(self.request)
        return True

    def take(self, frame: frames.Frame) -> tuple[Any, bool]:
        """The item in a frame; or the generator's return value, and True."""
        session = self.waiting.session
        assert session is not None
        if frame.kind == frames.CANCELLED:
            raise concurrent.futures.CancelledError(stopped(frame))
        self._retries = 0
        value = self.request.value(session, self.waiting.number, frame)
        if frame.kind == frames.RESULT:
            self.finish()
            return value, True
        session.more(self.waiting.number, 1)
        return value, False

    def finish(self) -> None:
        """Nothing more is wanted."""
        self.ended = True
        self.waiting.close()

    def close(self, why: str = "abandoned") -> None:
        """Close the generator over there; its `finally` blocks run."""
        if not self.ended:
            self.finish()
            if not self.sent:
                return
            self.waiting.frames.put(
                CallError(f"{self.request.label} was closed")
            )  # for a thread that waits for an item
            if self.waiting.session is not None:
                self.waiting.session.stop(self.waiting.number, why)

    def drop(self) -> None:
        """The same from `__del__`, which may run anywhere, also in a thread that holds the connection's locks."""
        if not self.ended:
            finisher.post(self.close, "abandoned")


class RemoteGenerator(Generator[Any, None, Any]):
    """The items of a remote generator, one at a time. Closed over there when it is dropped here."""

    _items: Items | None = None

    def __init__(self, request: Request, waiting: Waiting | None = None):
        self._items = Items(request, waiting)
        if waiting is None:
            self._items.send()

    @plainly
    def __next__(self) -> Any:
        items = self._items
        assert items is not None
        if items.ended:
            raise StopIteration
        try:
            value, last = items.take(self._next(items))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                items.waiting.interrupted()
            items.finish()
            raise
        if last:
            raise StopIteration(value)
        return value

    @staticmethod
    def _next(items: Items) -> frames.Frame:
        while True:
            try:
                frame = items.waiting.next(deadline_of(items.request.options))
                if frame.kind != frames.STARTED:
                    return frame
            except RETRIED:
                if not items.retry():
                    raise

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
        if self._items is not None:
            self._items.close()

    def __del__(self) -> None:
        if self._items is not None:
            self._items.drop()

    def __repr__(self) -> str:
        return _repr("generator", self._items)


class AsyncRemoteGenerator:
    """The items of a remote async generator, for `async for`. Begun by the first `anext`, as generators here are; closed over
    there when it is dropped here.
    """

    _items: Items | None = None

    def __init__(self, request: Request):
        self._items = Items(request)

    def __aiter__(self) -> AsyncRemoteGenerator:
        return self

    async def __anext__(self) -> Any:
        items = self._items
        assert items is not None
        if items.ended:
            raise StopAsyncIteration
        try:
            if not items.sent:
                await self._send(items)
            value, last = items.take(await self._next(items))
        except asyncio.CancelledError:
            items.close("cancel")
            raise
        except BaseException:
            items.finish()
            raise
        if last:
            raise StopAsyncIteration
        return value

    async def _send(self, items: Items) -> None:
        if items.request.goes_at_once:
            items.send()
        else:
            await asyncio.to_thread(items.send)  # the loop goes on while the worker is asked for

    async def _next(self, items: Items) -> frames.Frame:
        while True:
            try:
                return await self._arrival(items)
            except RETRIED:
                if not await asyncio.to_thread(items.retry):
                    raise

    async def _arrival(self, items: Items) -> frames.Frame:
        loop, arrived, waiting = asyncio.get_running_loop(), asyncio.Event(), items.waiting

        def notify() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits any more
                loop.call_soon_threadsafe(arrived.set)

        waiting.notify = notify
        deadline = deadline_of(items.request.options)
        try:
            while True:
                frame = waiting.poll()
                if frame is None:
                    left = None if deadline is None else max(deadline - time.monotonic(), 0)
                    await asyncio.wait_for(arrived.wait(), left)
                    arrived.clear()
                elif frame.kind != frames.STARTED:
                    return frame
        except (TimeoutError, asyncio.TimeoutError) as error:
            if isinstance(error, CallError):
                raise
            raise await asyncio.to_thread(waiting.timed_out) from None
        finally:
            waiting.notify = None

    async def aclose(self) -> None:
        """Close the generator over there; its `finally` blocks run."""
        if self._items is not None:
            self._items.close()

    def __del__(self) -> None:
        if self._items is not None:
            self._items.drop()

    def __repr__(self) -> str:
        return _repr("async generator", self._items)


def _repr(kind: str, items: Items | None) -> str:
    return f"<{kind} {items.request.label} on {items.request.caller.name!r}>" if items is not None else f"<{kind}>"
