"""One client of this worker: its connections come and go, its calls and what they printed stay."""

from __future__ import annotations

import socket
import threading
import time

from runkit.wire import frames
from runkit.wire.frames import Frame
from runkit.wire.lane import Lane
from runkit.wire.streams import hang_up, read_blob, read_frames, spawn, writable
from runkit.worker.task import Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runkit.worker.main import Worker

FORGET_AFTER = 600.0
"""Seconds after which a session that nobody came back to is dropped, once only streams of items are left of its calls."""


class Session:
    """A client's calls. Kept across reconnects, so that a call's logs and result are never lost with a connection."""

    def __init__(self, identity: str, worker: Worker, inline: bool):
        self.id = identity
        self.targets: dict[int, dict] = {}
        self._early: list[
            Frame
        ] = []  # calls of a function that travels by value and is so large that it is still on its way
        self.left_at: float | None = time.monotonic()  # None while a main connection carries it
        self._worker = worker
        self._tasks: dict[int, Task] = {}
        self.closed = False
        self._greeted = False
        self._advised = ""
        self.sock: socket.socket | None = None
        self._lock = threading.Lock()
        self.lane = Lane(inline, self._want_bulk)

    @property
    def abandoned(self) -> bool:
        """Whether nobody has come back for long, and all that is left are results and streams of items nobody takes."""
        gone = self.left_at is not None and time.monotonic() - self.left_at > FORGET_AFTER
        return gone and all(task.credit is not None for task in list(self._tasks.values()))

    def gate_name(self, task: Task) -> str:
        """Calls with the same name share a concurrency limit."""
        target = task.meta.get("target") or self.targets.get(task.meta.get("t", -1), {})
        if "ref" in target:  # two projects may have functions of the same name
            return str((target["ref"], [root["id"] for root in target.get("roots", ())]))
        return str(target.get("key") or target.get("value") or task.meta.get("op"))

    # -- sending

    def send(self, kind: int, call: int, meta: dict | None, parts: Any, flags: int, later: bool) -> None:
        if not self.closed:
            self.lane.send(kind, call, meta, parts, flags, later)

    def _want_bulk(self) -> None:
        if not self.closed:
            self.lane.send(frames.WANT_BULK)

    def ended(self, task: Task) -> None:
        with self._lock:
            self._tasks.pop(task.call, None)

    # -- connections

    def serve(self, sock: socket.socket, received: int) -> None:
        """Carry the session over a new main connection until it ends."""
        fresh, self._greeted = not self._greeted, True
        said = {**self._worker.identity(), "received": self.lane.received, "fresh": fresh}
        before, self.sock = self.sock, sock
        if before is not None:  # a write may be stuck in it
            hang_up(before)
        self.left_at = None
        welcome = frames.encode(frames.WELCOME, meta=said)
        self.lane.attach(sock.sendall, received, welcome, lambda: writable(sock))
        dropped = self.lane.take_dropped()
        if dropped:
            note = f"[runkit: {dropped} bytes of output were dropped while the connection was down]\n"
            self.lane.send(frames.LOG, next(iter(self._tasks), 0), {"s": 2}, [note.encode()])
        try:
            for frame in read_frames(sock):
                self._take(self.lane.accept(frame))
                del frame  # the wait for the next one must not keep its arrays alive
        except OSError:
            pass
        finally:
            if self.sock is sock:
                self.lane.detach()
                self.left_at = time.monotonic()

    def serve_bulk(self, sock: socket.socket) -> None:
        """Carry the session's blobs over a bulk connection until it ends."""
        sock.sendall(frames.encode(frames.WELCOME, meta=self._worker.identity()))
        spawn("bulk", self.lane.attach_bulk, sock)
        try:
            while True:
                self._take(self.lane.accept_blob(*read_blob(sock)))
        except OSError:
            pass
        finally:
            self.lane.detach_bulk(sock)

    # -- receiving

    def _take(self, ready: list[Frame]) -> None:
        for frame in ready:
            self.handle(frame)

    def handle(self, frame: Frame) -> None:
        """Act on a frame of the client."""
        if frame.kind == frames.CALL:
            with self._lock:
                if "t" in frame.meta and frame.meta["t"] not in self.targets:
                    self._early.append(frame)
                    return
            self._begin(frame)
        elif frame.kind == frames.DEFINE:
            with self._lock:
                self.targets[frame.meta["target"]] = {**frame.meta, "parts": frame.parts}
                ready = [early for early in self._early if early.meta["t"] in self.targets]
                self._early = [early for early in self._early if early not in ready]
            for early in ready:
                self._begin(early)
        elif frame.kind == frames.CANCEL:
            with self._lock:
                self._early = [early for early in self._early if early.call != frame.call]
            running = self._tasks.get(frame.call)
            if running is not None:
                self._worker.stopper.stop(running, frame.meta["why"])
            else:  # it has ended, or was given up before all of it was here
                self.send(frames.CANCELLED, frame.call, {"stopped": True}, (), 0, False)
        elif frame.kind == frames.NEXT:
            running = self._tasks.get(frame.call)
            if running is not None and running.credit is not None:
                with running.credit:
                    running.credits += frame.meta["n"]
                    running.credit.notify_all()
                if running.credited is not None:
                    running.credited()
        elif frame.kind == frames.BYE:
            self.close()

    def _begin(self, frame: Frame) -> None:
        task = Task(self, frame)
        with self._lock:
            self._tasks[task.call] = task
        advice = self._worker.executor.advice
        if advice != self._advised and frame.meta.get("op", "run") == "run":  # once, to whoever may wonder
            self._advised = advice
            if advice:
                task.send(frames.LOG, {"s": 2}, [f"[runkit: {advice}]\n".encode()])
        self._worker.executor.submit(task)

    def close(self) -> None:
        """The client has gone: what runs goes on, its streams of items are closed."""
        self.closed = True
        self._worker.forget(self)
        for task in list(self._tasks.values()):
            if task.credit is not None:  # who begins a stream later looks whether the session is closed
                self._worker.stopper.stop(task, "abandoned")
        self.lane.close()


class Sessions:
    """The sessions of a worker, by the client's id for them."""

    def __init__(self, worker: Worker):
        self._worker = worker
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()
        self._watched = False

    def of(self, hello: dict) -> Session:
        """The session a connection belongs to."""
        with self._lock:
            if not self._watched:
                self._watched = True
                spawn("sessions", self._watch)
            found = self._sessions.get(hello["session"])
            if found is None:
                found = self._sessions[hello["session"]] = Session(
                    hello["session"], self._worker, bool(hello.get("inline"))
                )
            if hello.get("lane") != "bulk":
                found.left_at = None
            return found

    def _watch(self) -> None:
        """Drop the sessions that nobody came back to: what they keep for their clients may be large."""
        while True:
            time.sleep(FORGET_AFTER / 10)
            with self._lock:
                left = [session for session in self._sessions.values() if session.abandoned]
                for session in left:
                    del self._sessions[session.id]
            for session in left:
                session.close()
                if session.lane.bulk is not None:
                    hang_up(session.lane.bulk)

    def sockets(self) -> list[socket.socket | None]:
        """What its clients are connected by."""
        return [sock for session in list(self._sessions.values()) for sock in (session.sock, session.lane.bulk)]

    def drop(self, session: Session) -> None:
        with self._lock:
            self._sessions.pop(session.id, None)
