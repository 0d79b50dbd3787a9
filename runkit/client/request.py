"""A call ready to be sent, and what its answer means here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from runkit.client.envs import HERE
from runkit.client.progress import Progress
from runkit.client.session import Begun, Session, Sink, Target
from runkit.errors import (
    ConnectionLost,
    EnvNotFound,
    PythonMismatch,
    ResultNotLoadable,
    RunkitError,
    ServerError,
    WorkerDied,
)
from runkit.model.mistakes import FROM_AFAR
from runkit.wire import codec, failure, frames

GRACE = 5.0
"""Seconds the worker has to say how stopping a call went."""

RETRIED = (WorkerDied, ConnectionLost, ServerError)
"""What `retries` covers: runkit's own failures, never the user's exceptions."""


def pause_before(attempt: int) -> float:
    """Seconds to wait before a call is made for the `attempt`-th time again."""
    return float(min(0.1 * 2 ** (attempt - 1), 5.0))


@dataclass(frozen=True)
class Options:
    """How a call is made.

    Args:
        timeout: seconds from sending to the last byte (of a generator: each item); None for no limit.
        stream_logs: print here what it prints over there.
        retries: how many times a call is made again after a failure of runkit's own (the worker died, the connection broke);
            a generator only as long as it has given nothing.
        concurrency: how many calls of this function or object run at once over there; None for no limit.
        keep: a key; the result stays over there under it and a handle comes back.
    """

    timeout: float | None = None
    stream_logs: bool = True
    retries: int = 0
    concurrency: int | None = None
    keep: str | None = None

    def meta(self) -> dict[str, Any]:
        """What the worker needs to know of it."""
        meta: dict[str, Any] = {}
        if not self.stream_logs:
            meta["log"] = 0
        if self.concurrency:
            meta["conc"] = self.concurrency
        if self.keep is not None:
            meta["keep"] = self.keep
        return meta


DEFAULTS = Options()
SILENT = Options(stream_logs=False)


class Caller(Protocol):
    """What a call needs from the cluster it goes to."""

    name: str

    def ready_session(self, env: str) -> Session | None: ...
    def session(self, env: str) -> Session: ...
    def replace_worker(
        self, env: str, generation: int | None, only_call: tuple[str, int] | None, why: str
    ) -> dict[str, Any]: ...
    def local_folders(self, roots_home: str) -> dict[str, str]: ...
    def handle(self, env: str, key: str, type_name: str) -> Any: ...


@dataclass(frozen=True)
class Request:
    """One call, ready to be sent, as often as it takes.

    Args:
        target: what is called; None for a built-in operation, named by `operation`.
        parts: the pickled arguments.
        label: how messages name it, e.g. "np_sum".
        prepare: sends the env again; called, before anything of the call has been written, where the cluster has no such env.
    """

    caller: Caller
    env: str
    label: str
    parts: list[Any]
    options: Options
    meta: dict[str, Any]
    target: Target | None = None
    operation: str = ""
    python: str | None = None
    prepare: Callable[[], Any] | None = None

    @property
    def goes_at_once(self) -> bool:
        """Whether it can be sent without waiting for the env's worker."""
        return self.caller.ready_session(self.env) is not None

    def send(self, sink: Sink, begun: Begun, later: bool = False) -> None:
        """Send it, at most once; what comes back goes to `sink`. `begun` learns the call's number before anything is sent."""
        for _ in range(5):
            session = self.caller.ready_session(self.env) or self._session()
            if session.python and session.python != HERE and (self.python is not None or codec.by_value(self.parts)):
                raise python_mismatch(
                    self.label if self.python else f"an argument of {self.label}", HERE, session.python, self.env
                )
            number = session.begin(sink, begun)
            if number is None:  # it has just ended
                continue
            if self.target is not None:
                session.call(number, self.target, self.meta, self.parts, later)
            else:
                session.operate(number, self.operation, self.meta, self.parts)
            return
        raise ConnectionLost(
            f"the process of env {self.env!r} was replaced each time as {self.label} was sent; it did not run"
        )

    def _session(self) -> Session:
        try:
            return self.caller.session(self.env)
        except EnvNotFound:
            if self.prepare is None:
                raise
        self.prepare()  # the cluster was set up anew since
        return self.caller.session(self.env)

    def value(self, session: Session, number: int, frame: frames.Frame) -> Any:
        """The result in a frame, or its exception raised."""
        if frame.kind == frames.RESULT or frame.kind == frames.ITEM:
            if "kept" in frame.meta:
                return self.caller.handle(self.env, frame.meta["kept"], frame.meta["type"])
            if session.python != HERE and codec.by_value(frame.parts):
                raise python_mismatch(f"the result of {self.label}", HERE, session.python, self.env)
            try:
                return codec.load(frame.parts)
            except Exception as error:
                raise ResultNotLoadable(
                    f"{self.label} on {self.caller.name!r} gave a result that cannot be loaded here: {type(error).__name__}: {error}; "
                    f"install what is missing, or leave it there with .options(keep=...)"
                ) from error
        assert frame.kind == frames.ERROR
        raise self.error(session, number, frame)

    def error(self, session: Session, number: int, frame: frames.Frame) -> BaseException:
        """The remote exception, with notes that say where it was raised."""
        local = self.caller.local_folders(session.roots_home)
        error = failure.unpack(frame.meta["failure"], frame.parts, self.caller.name, local)
        failure.add_note(
            error,
            f"{FROM_AFAR} {self.caller.name!r}, env {self.env!r}, call {session.id[:8]}-{number} ({self.label})",
        )
        return error


def python_mismatch(label: str, here: str, there: str, env: str) -> PythonMismatch:
    return PythonMismatch(
        f"{label} travels by value and needs the same minor version of Python on both sides: here {here}, in env {env!r} {there}. "
        f'Ask for it in the env (python="{here}", in a conda environment "python={here}"), or put the function in a module of a '
        "package, so that it travels by reference"
    )


class Cost(str):
    """How stopping a call went, in words, where that has cost more than the call or goes on to: to be told in any case."""


def replace_worker(request: Request, session: Session, number: int) -> str:
    """Replace the process of a call that does not react to being stopped, if no other call runs in it; says how it went."""
    if not session.lane.connected:
        return "the connection is down; it will be stopped when that is back"
    try:
        answer = request.caller.replace_worker(
            request.env, session.generation, (session.id, number), "a call did not react to being stopped"
        )
    except (RunkitError, OSError) as error:
        return Cost(f"its work could not be stopped ({error})")
    running = (answer.get("worker") or {}).get("running", 0)
    if not answer["replaced"]:
        return Cost("its work could not be stopped and goes on over there") if running > 1 else "its work has ended"
    lost = answer.get("lost") or []
    went = f"; its {len(lost)} stored object(s) went with it: {', '.join(map(repr, lost[:20]))}" if lost else ""
    return Cost(f"its code did not react, so the env's process was replaced{went}")


def stopped(frame: frames.Frame) -> str:
    """A CANCELLED frame in words."""
    how = frame.meta.get("how", "")
    if frame.meta.get("replaced"):
        return Cost(how)
    if frame.meta["stopped"]:
        return how or "its work was stopped"
    return Cost(
        f"its work could not be stopped and goes on over there ({how}); call.cancel(force=True) replaces the env's process"
    )


def tell_stopped(request: Request, ended: str, how: str) -> None:
    """Say, each time, what a call that did not let itself be stopped has cost or still costs; `ended`: "cancelled", say."""
    if isinstance(how, Cost):
        Progress(request.caller.name)({"warning": f"{request.label} was {ended}; {how}"})
