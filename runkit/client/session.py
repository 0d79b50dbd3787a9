"""A session with the worker of one env: its calls, and what is known of that worker."""

from __future__ import annotations

import contextlib
import itertools
import threading
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runkit.client.finisher import finisher
from runkit.errors import CallError, ConnectionLost, EnvNotFound, WorkerDied
from runkit.wire import frames, problems
from runkit.wire.frames import Decoder, Frame
from runkit.wire.lane import Lane
from runkit.wire.streams import read_blob, read_one, spawn

if TYPE_CHECKING:
    from runkit.client.connection import Connection

BUSY = 8
"""With more calls than this under way, frames may wait a moment to leave together."""

Sink = Callable[[Any], Any]
"""Takes what comes for one call: frames, or the exception that ended the session."""

Begun = Callable[["Session", int], Any]
"""Learns a call's session and number."""


class Target:
    """Something to call, as the worker is told of it once per session.

    Args:
        meta: `ref`, `value` or `key`, and the roots it needs.
        parts: the pickled function of a `value`.
    """

    __slots__ = ("meta", "parts")

    def __init__(self, meta: dict[str, Any], parts: list[Any] | None = None):
        self.meta = meta
        self.parts = parts or []


class Session:
    """Calls to one worker process. Ends with that process; a reconnect in between goes unnoticed."""

    def __init__(self, env: str, connection: Connection, route: int):
        self.env = env
        self.route = route
        self.id = uuid.uuid4().hex
        self.generation: int | None = None
        self.python = ""
        self.roots_home = ""
        self.socket_path: str | None = None
        self.usable = False
        """Whether calls can be sent on it: it has been greeted and has not ended."""

        self.failure: BaseException | None = None
        self.lane = Lane(want_bulk=self._want_bulk)
        self._connection = connection
        self._decoder = Decoder()
        self._calls = itertools.count(1)
        self._sinks: dict[int, Sink] = {}
        self._targets: dict[int, int] = {}
        self._defined: dict[int, Target] = {}  # keeps targets alive, so that their ids stay theirs
        self._lock = threading.Lock()  # of `usable` and `_sinks` together
        self._define_lock = threading.Lock()
        self._bulk_lock = threading.Lock()
        self.greeted = threading.Event()

    @property
    def connection(self) -> Connection:
        return self._connection

    @property
    def awaited(self) -> bool:
        """Whether anybody waits for it: for a call, or for its beginning."""
        return bool(self._sinks) or not self.greeted.is_set()

    def hello(self) -> bytes:
        """The first frame of a new connection that carries this session."""
        self._decoder = Decoder()
        return frames.encode(frames.HELLO, meta={"session": self.id, "lane": "main", "received": self.lane.received})

    # -- calls

    def begin(self, sink: Sink, begun: Begun) -> int | None:
        """A number for a new call; what comes for it goes to `sink`, the end of the session included.

        Args:
            begun: learns the number before anything can arrive.

        Returns:
            None if the session has ended: the call cannot be sent on it, and `sink` hears nothing.
        """
        number = next(self._calls)
        begun(self, number)
        with self._lock:
            if not self.usable:
                return None
            self._sinks[number] = sink
        return number

    def call(self, number: int, target: Target, meta: dict[str, Any], parts: list[Any], later: bool = False) -> None:
        """Send a call of a target; `later`: where many are under way it may wait half a millisecond for the next one."""
        index = self._targets.get(id(target))
        if index is None:
            index = self._define(target)
        later = later and len(self._sinks) > BUSY
        self.lane.send(frames.CALL, number, {"t": index, **meta}, parts, later=later)

    def operate(self, number: int, operation: str, meta: dict[str, Any], parts: list[Any]) -> None:
        """Send a built-in operation."""
        self.lane.send(frames.CALL, number, {"op": operation, **meta}, parts)

    def _define(self, target: Target) -> int:
        with self._define_lock:
            index = self._targets.get(id(target))
            if index is None:
                index = len(self._defined) + 1
                self.lane.send(frames.DEFINE, meta={"target": index, **target.meta}, parts=target.parts)
                self._defined[index] = target
                self._targets[id(target)] = index
            return index

    def stop(self, number: int, why: str) -> None:
        """Ask the worker to end a call; its end arrives as a frame."""
        self.lane.send(frames.CANCEL, number, {"why": why})

    def more(self, number: int, items: int) -> None:
        """Let a generator run that many items further."""
        self.lane.send(frames.NEXT, number, {"n": items})

    def done(self, number: int) -> None:
        """Nothing more is wanted for this call."""
        self._sinks.pop(number, None)

    # -- what arrives

    def feed(self, data: bytes) -> None:
        """Bytes of the worker, in the connection's reader thread."""
        for frame in self._decoder.feed(data):
            for ready in self.lane.accept(frame):
                self._handle(ready)
        finisher.release()

    def _handle(self, frame: Frame) -> None:
        if frame.kind == frames.WELCOME:
            if frame.meta["fresh"] and self.greeted.is_set():
                spawn("forgotten", self._forgotten)
                return
            self.generation = frame.meta["generation"]
            self.python = frame.meta["python"]
            self.roots_home = frame.meta.get("roots_home", "")
            write = self._connection.send_bytes
            self.lane.attach(lambda data: write(self.route, data), frame.meta["received"])
            with self._lock:
                self.usable = self.failure is None
            self.greeted.set()
            if self.lane.owes_blobs or self.lane.had_bulk:  # what was on its way on the last one may be lost
                self._want_bulk()
        elif frame.kind == frames.WANT_BULK:
            self._want_bulk()
        else:
            sink = self._sinks.get(frame.call)
            if sink is not None:
                sink(frame)

    def opened(self, opened: dict[str, Any]) -> None:
        """The server has connected us to the worker."""
        self.socket_path = opened.get("socket")

    def ended(self, closed: dict[str, Any]) -> None:
        """The server says that the worker's side has ended; every call here ends with the reason."""
        reason = closed.get("reason", "died")
        problem = closed.get("error")
        if reason == "unknown" and self.generation is not None:  # the cluster was set up anew: what ran here has ended
            why = f": {problem['message']}" if problem else ""
            error: Exception = WorkerDied(
                f"the process of env {self.env!r} on cluster {self._connection.name!r} is gone{why}"
            )
        elif problem and problem.get("type") != "EnvNotFound":
            error = problems.from_json(problem)
        elif reason == "unknown":
            error = EnvNotFound(
                f"cluster {self._connection.name!r} has no env {self.env!r}; send it with env.to(cluster) or fn.to(cluster, env=...)"
            )
        else:
            error = WorkerDied(
                _how_it_ended(self.env, self._connection.name, closed),
                closed.get("exitcode"),
                closed.get("signal"),
                closed.get("stderr") or "",
            )
        self.fail(error)

    def fail(self, error: BaseException) -> None:
        """End the session and every call of it."""
        with self._lock:
            self.usable = False
            self.failure = self.failure or error
            sinks, self._sinks = self._sinks, {}
        self.greeted.set()
        self._connection.forget(self)
        self.lane.close()
        for sink in list(sinks.values()):
            sink(error)
        finisher.release()

    def _forgotten(self) -> None:
        """The worker knows nothing of this session any more, after a very long time without a connection."""
        with contextlib.suppress(OSError):
            self._connection.send_text({"close": {"route": self.route}})
        cluster = self._connection.name
        self.fail(
            ConnectionLost(
                f"the connection to {cluster!r} was down for so long that env {self.env!r} has forgotten what was called"
            )
        )

    def bye(self) -> None:
        self.usable = False
        self.lane.send(frames.BYE)

    # -- large parts

    def _want_bulk(self) -> None:
        spawn("bulk", self._connect_bulk)

    def _connect_bulk(self) -> None:
        with self._bulk_lock:
            if self.lane.bulk is not None or not self.usable:
                return
            try:
                sock = self._connection.open_bulk(self.env, self.socket_path)
                sock.sendall(frames.encode(frames.HELLO, meta={"session": self.id, "lane": "bulk"}))
                read_one(sock)
            except (OSError, CallError):
                return  # the main connection is failing too, and asks again when it is back
            spawn("bulk-reader", self._read_bulk, sock)
            self.lane.attach_bulk(sock)

    def _take_blob(self, number: int, memory: Any) -> None:
        # In a function of its own: the reader waits for the next one with no reference to this one.
        for ready in self.lane.accept_blob(number, memory):
            self._handle(ready)
        finisher.release()

    def _read_bulk(self, sock: Any) -> None:
        try:
            while True:
                self._take_blob(*read_blob(sock))
        except OSError:
            pass
        self.lane.detach_bulk(sock)
        sock.close()
        if self._sinks and self.usable and self.lane.connected:
            self._want_bulk()


def _how_it_ended(env: str, cluster: str, closed: dict[str, Any]) -> str:
    reason = closed.get("reason", "died")
    place = f"the process of env {env!r} on cluster {cluster!r}"
    if reason == "replaced":
        return f"{place} was replaced: {closed.get('why') or 'the env was sent again'}"
    if reason == "stopped":
        return f"{place} was stopped"
    if closed.get("signal"):
        hint = " (the kernel's way when memory runs out)" if closed.get("oom") else ""
        return f"{place} was killed by {closed['signal']}{hint}"
    if closed.get("exitcode") is not None:
        return f"{place} ended with exit code {closed['exitcode']}"
    return f"{place} ended"
