"""Keeps an env's worker running: starts it, notices how it ended, starts the next one. Plain threads, no Ray."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import Any

from runkit.errors import EnvError
from runkit.servlet.processes import end, marked
from runkit.servlet.spawn import Death, WorkerProcess, WorkerSpec, write_ray_python

KEPT_DEATHS = 100
QUICK = 2.0
"""A worker that lives for less than so many seconds is not started again at once."""

LONGEST_PAUSE = 10.0


class Keeper:
    """The worker of one env, kept alive until `stop()`.

    Args:
        spec: what the worker is started with.
        generation: the number of the first worker; each further one counts one up.

    A worker that dies is reaped at once, its death is kept for whoever asks, and a fresh one is started; if that one dies early, or
    does not come up, the next attempt waits, 0.1 s at first and up to 10 s.
    """

    def __init__(self, spec: WorkerSpec, generation: int = 1):
        self.spec = spec
        self._next_generation = generation
        self._current: WorkerProcess | None = None
        self._deaths: OrderedDict[int, Death] = OrderedDict()
        self._changed = threading.Condition()
        self._version = 0
        self._restarts = 0
        self._failure = ""
        self._stopping = False
        self._launching = threading.Lock()  # one start at a time: a replacement and a revival must not both win

    # -- what it is told

    def start(self) -> dict[str, Any]:
        """Start the worker and wait until it listens; gives what `state()` does.

        What workers of an earlier keeper left running is ended first.

        Raises:
            EnvError: it did not come up; `.output` has its last lines.
        """
        end(marked(self.spec.mark), gently=1.0)
        with self._launching:
            self._adopt(self._launch(self.spec))
        return self.state()

    def replace(
        self,
        why: str = "replaced",
        spec: WorkerSpec | None = None,
        generation: int | None = None,
        only_call: tuple[str, int] | None = None,
    ) -> dict[str, Any]:
        """Put a fresh worker in place of the current one, which goes on until the new one listens.

        Args:
            why: what calls that still ran in the old one are told.
            spec: what the new worker is started with; kept only if it comes up.
            generation: do it only if this is still the current worker.
            only_call: do it only while this call (session, number) runs in it and no other. The old worker is ended at once then:
                while a new one starts, other calls might begin in it.

        Raises:
            EnvError: the new one did not come up; the old one is still there, except for `only_call`.
        """
        with self._launching:
            old = self._current
            if generation is not None and (old is None or old.generation != generation):
                return self.state()
            if only_call is not None:
                if old is None or old.running()[1] != tuple(only_call):
                    return self.state()
                self._end(old, why)
            fresh = self._launch(spec or self.spec)
            if spec is not None:
                self.spec = spec
            self._adopt(fresh)
        if old is not None:
            self._restarts += 1
            if only_call is None:
                self._end(old, why)
        return self.state()

    def _end(self, old: WorkerProcess, why: str) -> None:
        old.stop("replaced", why)
        with self._changed:  # whoever is told of the new worker can ask how the old one ended
            self._changed.wait_for(lambda: old.generation in self._deaths, 5.0)

    def update(self, spec: WorkerSpec) -> None:
        """What the next worker will be started with; the running one was told otherwise, or need not know."""
        self.spec = spec
        write_ray_python(spec)

    def stop(self) -> None:
        """End the worker and everything it started; nothing is left afterwards."""
        self._stopping = True
        with self._changed:
            self._changed.notify_all()
        with self._launching:
            current = self._current
            if current is not None:
                current.stop("stopped")
                with self._changed:
                    self._changed.wait_for(lambda: current.generation in self._deaths, 5.0)
        end(marked(self.spec.mark), gently=1.0)

    # -- what it tells

    def state(self) -> dict[str, Any]:
        """{version, worker: {pid, generation, socket, …} or None, restarts, failure: why there is no worker}."""
        with self._changed:
            worker = self._current.info() if self._current is not None else None
            return {"version": self._version, "worker": worker, "restarts": self._restarts, "failure": self._failure}

    def watch(self, seen: int, seconds: float) -> dict[str, Any]:
        """`state()` as soon as its version is another than `seen`, at the latest after so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._version != seen or self._stopping, seconds)
        return self.state()

    def death(self, generation: int, seconds: float = 1.0) -> dict[str, Any] | None:
        """How the worker of that generation ended; None if it still runs after so many seconds, or is forgotten."""
        with self._changed:
            running = self._current is not None and self._current.generation == generation
            if generation not in self._deaths and (running or generation >= self._next_generation - 2):
                self._changed.wait_for(lambda: generation in self._deaths, seconds)
            death = self._deaths.get(generation)
        return None if death is None else death.as_json()

    # -- inside

    def _launch(self, spec: WorkerSpec) -> WorkerProcess:
        generation = self._next_generation
        self._next_generation += 1
        worker = WorkerProcess(spec, generation)
        if not worker.wait_ready():
            death = worker.wait()
            worker.sweep()
            how = death.signal or f"exit code {death.exitcode}"
            raise EnvError(
                f"the worker of env {spec.env!r} ended while it started ({how}):\n{death.stderr}", death.stderr
            )
        return worker

    def _adopt(self, worker: WorkerProcess) -> None:
        with self._changed:
            self._current = worker
            self._failure = ""
            self._note()
        threading.Thread(
            target=self._follow, args=(worker,), name=f"runkit-worker-{worker.generation}", daemon=True
        ).start()

    def _follow(self, worker: WorkerProcess) -> None:
        death = worker.wait()
        with self._changed:
            self._deaths[worker.generation] = death
            while len(self._deaths) > KEPT_DEATHS:
                self._deaths.popitem(last=False)
            lost = self._current is worker
            if lost:
                self._current = None
            self._note()
        if lost and not self._stopping:
            self._revive(worker)
        worker.sweep()

    def _revive(self, dead: WorkerProcess) -> None:
        pause = 0.1 if time.time() - dead.started < QUICK else 0.0
        while not self._stopping:
            if pause:
                with self._changed:
                    self._changed.wait_for(lambda: self._stopping, pause)
            with self._launching:
                if self._stopping or self._current is not None:
                    return
                try:
                    fresh = self._launch(self.spec)
                except EnvError as error:
                    with self._changed:
                        self._failure = str(error)
                        self._note()
                    pause = min(LONGEST_PAUSE, max(0.1, pause * 2))
                    continue
                self._restarts += 1
                self._adopt(fresh)
                return

    def _note(self) -> None:
        self._version += 1
        self._changed.notify_all()
