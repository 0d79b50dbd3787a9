"""Calling something on a cluster: a function or a method, with its options."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any

from runkit.client.by_value import along
from runkit.client.call import Call, run, stop_all
from runkit.client.finisher import finisher
from runkit.client.generator import AsyncRemoteGenerator, RemoteGenerator
from runkit.client.request import DEFAULTS, Caller, Options, Request
from runkit.client.session import Target
from runkit.errors import UsageError
from runkit.model.mistakes import plainly
from runkit.wire import codec
from runkit.wire.names import check_name

IN_FLIGHT = 64
"""How many calls of one `map` are under way at once, where `concurrency` says nothing else."""

_destination = threading.local()


@contextmanager
def sending_to(caller: Any) -> Iterator[None]:
    """While arguments are pickled: handles among them have to belong to this cluster."""
    before = getattr(_destination, "caller", None)
    _destination.caller = caller
    try:
        yield
    finally:
        _destination.caller = before


def destination() -> Any:
    """The cluster that this thread is pickling arguments for, or None."""
    return getattr(_destination, "caller", None)


def check_options(current: Options, given: dict[str, Any]) -> Options:
    """`current` with what `.options()` was given.

    Raises:
        UsageError: an unknown option, or a value it cannot have.
    """
    unknown = set(given) - set(Options.__dataclass_fields__)
    if unknown:
        known = ", ".join(Options.__dataclass_fields__)
        raise UsageError(f"unknown option(s) {', '.join(sorted(unknown))}; there are {known}")
    timeout, retries, concurrency = given.get("timeout"), given.get("retries", 0), given.get("concurrency")
    if timeout is not None and (
        isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= threading.TIMEOUT_MAX
    ):
        raise UsageError(f"timeout is a number of seconds above 0, or None for no limit, not {timeout!r}")
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise UsageError(f"retries is how often a call may be made again, not {retries!r}")
    if concurrency is not None and (
        isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1
    ):
        raise UsageError(f"concurrency is how many calls may run at once, 1 or more, not {concurrency!r}")
    if given.get("keep") is not None:
        check_name("key", given["keep"])
    return replace(current, **given)


class Invoker:
    """Something on a cluster that can be called.

    Args:
        target: what the worker calls.
        kind: what calling it gives: "call", "async", "gen" or "asyncgen".
        python: the client's minor version, if the code travels by value.
        prepare: sends the env again; called where the cluster has it no more.
        modules: what is not to be found over there: functions and classes of these go by value among the arguments.
    """

    def __init__(
        self,
        caller: Caller,
        env: str,
        label: str,
        target: Target,
        kind: str = "call",
        options: Options = DEFAULTS,
        python: str | None = None,
        prepare: Callable[[], Any] | None = None,
        modules: tuple[ModuleType, ...] = (),
    ):
        self.caller = caller
        self.env = env
        self.label = label
        self.target = target
        self.kind = kind
        self.chosen = options
        self.python = python
        self._prepare = prepare
        self._modules = modules
        self._meta = options.meta()

    def with_options(self, **given: Any) -> Invoker:
        """The same with other options."""
        chosen = check_options(self.chosen, given)
        mine = (self.caller, self.env, self.label, self.target, self.kind)
        return Invoker(*mine, chosen, self.python, self._prepare, self._modules)

    def request(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Request:
        """A call with these arguments, pickled now."""
        with sending_to(self.caller), along(self._modules):
            parts = codec.dump((args, kwargs), f"an argument of {self.label}")
        return Request(
            self.caller,
            self.env,
            self.label,
            parts,
            self.chosen,
            self._meta,
            self.target,
            "",
            self.python,
            self._prepare,
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        request = self.request(args, kwargs)
        if self.kind == "call" or self.chosen.keep is not None:
            return run(request)
        if self.kind == "gen":
            return RemoteGenerator(request)
        if self.kind == "asyncgen":
            return AsyncRemoteGenerator(request)
        return _awaited(request)

    def submit(self, *args: Any, **kwargs: Any) -> Call:
        """Start a call; see `Call`."""
        if self.kind in ("gen", "asyncgen") and self.chosen.keep is None:
            raise UsageError(f"{self.label} is a generator: iterate over it instead of submitting it")
        return Call(self.request(args, kwargs)).start()

    def map(self, *iterables: Iterable[Any]) -> Iterator[Any]:
        """The results for each item, in input order; calls run in parallel."""
        return self.starmap(zip(*iterables))

    def starmap(self, arguments: Iterable[Iterable[Any]]) -> Iterator[Any]:
        """The same for ready tuples of arguments."""
        window = max(IN_FLIGHT, 2 * (self.chosen.concurrency or 0))
        if self.chosen.timeout is not None and self.chosen.concurrency is not None:
            window = self.chosen.concurrency  # a call's time counts from sending: none is sent to wait for its turn
        return Results(self, arguments, window)


async def _awaited(request: Request) -> Any:
    call = Call(request)
    if request.goes_at_once:
        return await call.start()
    try:
        await asyncio.to_thread(call.start)  # the loop goes on while the worker is asked for
    except asyncio.CancelledError:
        call.stop()
        raise
    return await call


class Results(Iterator[Any]):
    """The results of a `map`, in input order. The first error is raised at its place; closing cancels what has not started."""

    def __init__(self, invoker: Invoker, arguments: Iterable[Iterable[Any]], window: int):
        self._invoker = invoker
        self._arguments = iter(arguments)
        self._window = window
        self._calls: deque[Call] = deque()
        self._problem: Exception | None = None  # with the arguments that come next
        finisher.start()
        self._fill()

    def _fill(self) -> None:
        while len(self._calls) < self._window:
            try:
                args = next(self._arguments)
            except StopIteration:
                return
            except Exception as error:
                self._fail_later(error)
                return
            try:
                self._calls.append(self._invoker.submit(*args))
            except Exception as error:
                self._fail_later(error)

    def _fail_later(self, error: Exception) -> None:
        """Raise it at its place: after the results of what has been sent."""
        self._problem, self._arguments = error, iter(())

    @plainly
    def __next__(self) -> Any:
        if not self._calls:
            problem, self._problem = self._problem, None
            raise problem if problem is not None else StopIteration
        try:
            result = self._calls[0].result()
            self._calls.popleft()
            self._fill()
        except KeyboardInterrupt:
            self._arguments = iter(())
            stop_all(self._calls)
            self._calls.clear()
            raise
        except BaseException:
            self.close()
            raise
        return result

    def close(self) -> None:
        """Send no more calls, and cancel those that wait for their turn."""
        self._arguments, self._problem = iter(()), None
        _drop(self._calls)

    def __del__(self) -> None:
        if self._calls:
            finisher.post(_drop, self._calls)

    def __repr__(self) -> str:
        of = self._invoker
        return f"<results of {of.label} on {of.caller.name!r}, env {of.env!r}: iterate over them, or list(...)>"


def _drop(calls: deque[Call]) -> None:
    while calls:
        calls.popleft().drop()
