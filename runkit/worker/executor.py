"""Runs calls: the first on the main thread, overlapping ones on threads, coroutines on one event loop."""

from __future__ import annotations

import json
import mmap
import os
import signal
import threading
import types
from _signal import getsignal  # type: ignore[import-not-found]  # the `signal` module's own raises and catches a ValueError per call
from collections import deque
from collections.abc import Callable

from runkit.wire import codec, failure, frames, running
from runkit.worker.coroutines import Coroutines
from runkit.worker.output import Output
from runkit.worker.task import Interrupted, Task, current
from runkit.worker.threads import Threads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

AHEAD = 4
"""How many items a generator may run ahead of its reader."""


class Gate:
    """At most `limit` calls of one function or object at once; the others wait here in order of arrival."""

    def __init__(self) -> None:
        self.running = 0
        self.waiting: deque[Task] = deque()


class Executor:
    """Takes tasks from the connections' threads and sees each to its one end.

    Args:
        find: gives the callable of a task and puts its code in place.
        enter: makes the folder of a task the current one of this thread, which `find` has done for its own.
        keep: stores a result that stays here.
        hide: frames of files below this folder are left out of tracebacks.
        state: path of a small file that always says which calls run (see wire.running), for the keeper.
    """

    def __init__(
        self,
        find: Callable[[Task], Any],
        enter: Callable[[Task], None],
        keep: Callable[[Task, str, Any], None],
        hide: str,
        state: str,
    ):
        self._find = find
        self._keep = keep
        self._hide = hide
        self._lock = threading.Lock()
        self._threads = Threads(self._run)
        self._main_task: Task | None = None
        self._gates: dict[str, Gate] = {}
        self._coroutines = Coroutines(self._conclude, self._begin_items, self._item, enter)
        self.running: dict[int, Task] = {}
        self.output: Output
        self.prepared = threading.Event()
        """Set when calls can begin: user code's ways to start processes and threads are watched."""
        self.advice = ""
        """What is said with every error: something the env should have is missing."""
        self._state: Any = bytearray(running.NOTE.size)
        if state:
            with open(os.open(state, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
                file.truncate(running.NOTE.size)
                self._state = mmap.mmap(file.fileno(), running.NOTE.size)

    # -- arrival

    def submit(self, task: Task) -> None:
        """Run a task as soon as its concurrency limit lets it."""
        if task.limit:
            with self._lock:
                gate = task.gate = self._gates.setdefault(task.session.gate_name(task), Gate())
                if gate.running >= task.limit:
                    gate.waiting.append(task)
                    return
                gate.running += 1
        self._dispatch(task)

    def _dispatch(self, task: Task) -> None:
        with self._lock:
            self.running[task.number] = task
            self._note()
        self._threads.submit(task)

    def _note(self) -> None:
        alone = None
        if len(self.running) == 1:
            (task,) = self.running.values()
            alone = (task.session.id, task.call)
        running.note_calls(self._state, len(self.running), alone)

    def note_stream(self, stream: int, busy: int) -> None:
        """Note for the keeper that a stream (1, 2) is being emptied, or no more."""
        running.note_stream(self._state, stream, busy)

    def sole(self) -> Task | None:
        """The call that runs alone, or None."""
        with self._lock:
            return next(iter(self.running.values())) if len(self.running) == 1 else None

    def disown(self, task: Task) -> None:
        """Count a call no more that could not be stopped: nobody waits for it, and it must not keep others from being stopped."""
        with self._lock:
            self.running.pop(task.number, None)
            self._note()

    def unqueue(self, task: Task) -> bool:
        """Take back a task that waits for its turn or for a thread; False if it has begun."""
        with self._lock:
            if task.gate is not None and task in task.gate.waiting:
                task.gate.waiting.remove(task)
                return True
        if not self._threads.take_back(task):
            return False
        self._leave(task)
        return True

    # -- threads

    def serve_main(self) -> None:
        """Run calls on the main thread, for ever."""
        signal.signal(signal.SIGINT, self._on_sigint)
        self._threads.serve_main()

    def _on_sigint(self, number: int, frame: Any) -> None:
        task = self._main_task
        if task is not None and task.cancelled:
            if task.interruptible:
                raise Interrupted
            task.missed = True

    # -- one call

    def _run(self, task: Task, on_main: bool) -> None:
        token = current.set(task)
        task.begin(on_main)
        if on_main:
            self._main_task = task
        later = False
        meta: dict | None = None
        parts: list[Any] = []
        try:
            self.prepared.wait()
            try:
                if task.cancelled:
                    raise Interrupted
                function = self._find(task)
                task.interruptible = True
                if "op" in task.meta:
                    value = function(task)
                else:
                    args, kwargs = self._arguments(task)
                    value = function(*args, **kwargs)
                    del args, kwargs
                kind = type(value)
                if kind is types.GeneratorType:
                    value = self._generate(task, value)
                later = kind is types.CoroutineType or kind is types.AsyncGeneratorType
                if not later and "keep" not in task.meta:
                    parts = self._dump(task, value, "the result")
            finally:
                task.shield()
            if later:
                self._coroutines.start(task, value)
            else:
                if "keep" in task.meta:
                    meta = self._store(task, value)
                self._succeed(task, meta, parts)
        except BaseException as error:  # a SystemExit of user code must not end the worker either
            self._fail(task, error)
        finally:
            current.reset(token)
            if on_main:
                self._main_task = None
                if getsignal(signal.SIGINT) != self._on_sigint:  # the call put its own there
                    signal.signal(signal.SIGINT, self._on_sigint)
            if not later:
                self._end(task)

    def _arguments(self, task: Task) -> Any:
        parts, task.parts = task.parts, []
        if not parts:
            return (), {}
        if task.json:
            given = json.loads(bytes(parts[0]))
            return given.get("args", []), given.get("kwargs", {})
        try:
            return codec.load(parts)
        except ImportError as error:
            failure.add_note(
                error, "an argument of the call needs this module, and the env has not got it: name it in its reqs"
            )
            raise

    def _dump(self, task: Task, value: Any, what: str) -> list[Any]:
        if task.json:
            try:
                return [json.dumps(value).encode()]
            except (TypeError, ValueError) as error:
                raise TypeError(f"{what} has no JSON form: {error}") from None
        return codec.dump(value, what)

    def _store(self, task: Task, value: Any) -> dict[str, Any]:
        """Keep a result here, as the call wants it."""
        if task.cancelled:
            raise Interrupted
        key = task.meta["keep"]
        self._keep(task, key, value)
        kind = type(value)
        return {"kept": key, "type": f"{kind.__module__}.{kind.__qualname__}"}

    def _succeed(self, task: Task, meta: dict | None, parts: list[Any]) -> None:
        if task.cancelled:
            raise Interrupted
        self.output.finish(task)
        self._finishing(task, parts)
        task.finish(frames.RESULT, meta, parts, later=self._threads.pressed)

    def _finishing(self, task: Task, parts: list[Any]) -> None:
        if (
            task.on_main
            and task.thread == threading.get_ident()
            and all(len(part) < frames.BLOB_BYTES for part in parts)
        ):
            self._threads.finishing()

    def _fail(self, task: Task, error: BaseException) -> None:
        task.shield()
        try:
            self.output.finish(task)
            if task.cancelled:
                task.finish(frames.CANCELLED, {"stopped": True})
                return
            if self.advice and self.advice not in getattr(error, "__notes__", ()):
                failure.add_note(error, self.advice)
            described, parts = failure.pack(error, self._hide)
            self._finishing(task, parts)
            task.finish(frames.ERROR, {"failure": described}, parts)
        except Exception as problem:  # a call always ends, even if its exception is a monster
            described, parts = failure.pack(
                RuntimeError(f"{type(error).__name__}, and describing it failed: {problem!r}")
            )
            task.finish(frames.ERROR, {"failure": described}, parts)

    def _end(self, task: Task) -> None:
        self.output.close_pipes(task)
        self._leave(task)
        task.session.ended(task)

    def _leave(self, task: Task) -> None:
        """The task is over; the next one behind its gate may begin."""
        following = None
        with self._lock:
            self.running.pop(task.number, None)
            self._note()
            gate = task.gate
            if gate is not None:
                if gate.waiting:
                    following = gate.waiting.popleft()
                else:
                    gate.running -= 1
        if following is not None:
            self._dispatch(following)

    # -- generators

    def _generate(self, task: Task, generator: Any) -> Any:
        """Send the items of a generator, at most a few ahead of the reader; gives its return value."""
        self._begin_items(task)
        try:
            while True:
                task.interruptible = False
                with task.credit:  # type: ignore[union-attr]  # set by _begin_items
                    while task.credits <= 0 and not task.cancelled:
                        task.credit.wait()  # type: ignore[union-attr]
                    task.credits -= 1
                if task.cancelled:
                    raise Interrupted
                task.interruptible = True
                try:
                    item = next(generator)
                except StopIteration as stop:
                    return stop.value
                self._item(task, item)
        finally:
            task.interruptible = False
            generator.close()  # the user's finally blocks run now, in this call

    def _begin_items(self, task: Task) -> None:
        task.credit = threading.Condition()
        task.credits = task.meta.get("ahead", AHEAD)
        if task.session.closed:  # its client left before it had begun
            task.cancelled = task.cancelled or "abandoned"
            raise Interrupted
        task.send(frames.STARTED, {"gen": 1})

    def _item(self, task: Task, item: Any) -> None:
        parts = self._dump(task, item, "an item of the generator")
        self.output.finish(task)
        task.send(frames.ITEM, None, parts)

    # -- coroutines

    def _conclude(self, task: Task, result: Any, problem: BaseException | None) -> None:
        token = current.set(task)
        try:
            if problem is not None:
                raise problem
            if "keep" in task.meta:
                self._succeed(task, self._store(task, result), [])
            else:
                self._succeed(task, None, self._dump(task, result, "the result"))
        except BaseException as error:
            self._fail(task, error)
        finally:
            current.reset(token)
            self._end(task)
