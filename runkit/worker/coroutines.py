"""Calls of `async def` functions and async generators: all of them on one event loop, in a thread of its own.

They share that thread's current folder, which is that of the call that began last: coroutines of two projects that overlap had
better not rely on it.
"""

from __future__ import annotations

import threading
import types
from collections.abc import Callable

from runkit.wire.streams import spawn
from runkit.worker.task import Task, current, raise_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Coroutines:
    """The event loop; made when the first coroutine comes.

    Args:
        conclude: ends a call with its result or its exception.
        begin_items: announces that items will follow.
        item: sends one.
        enter: makes the folder of a call the current one.
    """

    def __init__(
        self,
        conclude: Callable[[Task, Any, BaseException | None], None],
        begin_items: Callable[[Task], None],
        item: Callable[[Task, Any], None],
        enter: Callable[[Task], None],
    ):
        self._conclude = conclude
        self._begin_items = begin_items
        self._item = item
        self._enter = enter
        self._lock = threading.Lock()
        self._asyncio: Any = None
        self._loop: Any = None
        self._finishers: Any = None
        self._thread: threading.Thread | None = None

    def start(self, task: Task, value: Any) -> None:
        """Run a coroutine, or an async generator, to its end."""
        self._make_loop()
        self._loop.call_soon_threadsafe(self._begin, task, value)

    def _make_loop(self) -> None:
        with self._lock:
            if self._loop is not None:
                return
            import asyncio  # late: it costs more than the rest of the worker's start together
            from concurrent.futures import ThreadPoolExecutor

            self._asyncio = asyncio
            self._loop = asyncio.new_event_loop()
            # Pickling and sending may block; neither the other coroutines nor the user's own executors wait for it.
            self._finishers = ThreadPoolExecutor(8, "runkit-finish")
            self._thread = spawn("event-loop", self._run)

    def _run(self) -> None:
        while True:
            try:
                self._loop.run_forever()
            except BaseException:  # a task of the user's that raised SystemExit does not end the other coroutines
                pass

    def _begin(self, task: Task, value: Any) -> None:
        task.thread, task.on_main = threading.get_ident(), False
        self._enter(task)
        running = self._loop.create_task(self._drive(task, value))

        def stop(again: bool) -> None:
            self._loop.call_soon_threadsafe(running.cancel)
            # Where that did not help, its code may keep the loop to itself.
            if again and self._asyncio.current_task(self._loop) is running and not task.sending:
                raise_in(task.thread)

        task.stop_async = stop
        if task.cancelled:
            running.cancel()

    async def _drive(self, task: Task, value: Any) -> None:
        current.set(task)
        result, problem = None, None
        try:
            if type(value) is types.AsyncGeneratorType:
                await self._generate(task, value)
            else:
                result = await value
        except BaseException as error:
            problem = error
        self._finishers.submit(self._conclude, task, result, problem)

    async def _generate(self, task: Task, generator: Any) -> None:
        credited = self._asyncio.Event()
        task.credited = lambda: self._loop.call_soon_threadsafe(credited.set)
        self._begin_items(task)
        try:
            while True:
                while task.credits <= 0:
                    credited.clear()
                    if task.credits <= 0:
                        await credited.wait()
                task.credits -= 1
                try:
                    item = await generator.__anext__()
                except StopAsyncIteration:
                    return
                await self._loop.run_in_executor(self._finishers, self._item, task, item)
        finally:
            await generator.aclose()
