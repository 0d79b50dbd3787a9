"""Stopping a call that was cancelled, timed out or abandoned: gently first, then its child processes, then the worker."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

from runkit.wire import frames
from runkit.wire.streams import spawn
from runkit.worker import children
from runkit.worker.executor import Executor
from runkit.worker.task import Task, raise_in

STEPS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
PATIENCE = 1.0
"""Seconds between two steps."""

TOGETHER = 1.5
"""Seconds that a call which does not react waits for others that are being stopped too; their clients wait a little longer."""


class Stopper:
    """Ends calls on request.

    Args:
        keys: gives the keys of the store, to say what a replaced worker takes with it.
        replace: has the server replace this worker, and comes back only if it does not, with the reason: something else than
            the task runs in it by now.
    """

    def __init__(self, executor: Executor, keys: Callable[[], list[str]], replace: Callable[[Task, str], str]):
        self._executor = executor
        self._keys = keys
        self._replace = replace
        self._stubborn: set[Task] = set()  # have not reacted to any step
        self._deciding = threading.Lock()
        self._main = threading.main_thread().ident or 0

    def stop(self, task: Task, why: str) -> None:
        """Stop `task`; returns at once, the call's end tells how it went."""
        if task.finished or task.cancelled:
            return
        unqueued = self._executor.unqueue(task)
        if why == "unstarted" and not unqueued:  # only what still waits for its turn was to be stopped
            return
        task.cancelled = why
        if unqueued:
            task.finish(frames.CANCELLED, {"stopped": True})
            task.session.ended(task)
            return
        if task.credit is not None:
            with task.credit:
                task.credit.notify_all()
        spawn("stop", self._insist, task, why)

    def _insist(self, task: Task, why: str) -> None:
        if why == "abandoned" and task.wait(PATIENCE):  # a generator that comes to its next item is closed there
            return
        family: dict[int, int] = {}  # also those whose parent ends meanwhile, and who are nobody's children then
        for step in STEPS:
            family.update(self._children(task))
            sending = task.sending
            self._interrupt(task, again=step is not STEPS[0])
            children.signal_all(family, step)
            if task.wait(PATIENCE):
                self._sweep(task, family)
                return
            if task.ending or (sending and task.sending == sending):  # it waits for the client to take what it gives
                task.give_up({"stopped": True})
                return
            if why == "abandoned":  # nobody waits for it: it may take its time to clean up
                return
        self._stubborn.add(task)
        try:
            self._end_process(task, why)
        finally:
            self._stubborn.discard(task)

    def _end_process(self, task: Task, why: str) -> None:
        """Nothing but its process's end stops the call: have that, if nobody's call goes with it that is not to be stopped too."""
        end = time.monotonic() + TOGETHER
        while others := [one for one in list(self._executor.running.values()) if one not in self._stubborn]:
            if time.monotonic() > end or any(one.cancelled in ("", "abandoned") for one in others):
                task.finish(frames.CANCELLED, self._goes_on(f"{len(others)} other call(s) run in the same process"))
                self._executor.disown(task)
                return
            if task.wait(0.05):
                return
        with self._deciding:
            keys = self._keys()
            lost = f"; its {len(keys)} stored object(s) went with it: {', '.join(map(repr, keys[:20]))}" if keys else ""
            how = f"its code did not react, so the env's process was replaced{lost}"
            answer = {"stopped": True, "how": how, "replaced": True}
            if not task.finish(
                frames.CANCELLED, answer
            ):  # later is too late; false if another has decided for this one
                return
            ending = [one for one in list(self._stubborn) if one is not task and one.finish(frames.CANCELLED, answer)]
            for one in ending:
                self._executor.disown(one)  # a process is replaced for one call only
            reason = self._replace(task, f"a call did not stop ({why})")
            task.give_up(self._goes_on(reason) if task.number in self._executor.running else {"stopped": True})
            for one in ending:
                one.give_up(self._goes_on(reason))
            self._executor.disown(task)

    @staticmethod
    def _goes_on(reason: str) -> dict:
        return {"stopped": False, "how": f"its code does not react, and {reason}"}

    def _sweep(self, task: Task, family: dict[int, int]) -> None:
        """Child processes do not outlive a call that was stopped."""
        family.update(self._children(task))
        left = children.signal_all(family, signal.SIGTERM)
        end = time.monotonic() + PATIENCE
        while left and time.monotonic() < end:
            time.sleep(0.05)
            family.update(self._children(task))
            left = children.signal_all(family, 0)
        children.signal_all(family, signal.SIGKILL)

    def _interrupt(self, task: Task, again: bool) -> None:
        if task.stop_async is not None:
            task.stop_async(again)
        elif task.on_main:
            signal.pthread_kill(self._main, signal.SIGINT)
        else:
            with task.guard:
                if task.interruptible:
                    raise_in(task.thread)
                else:
                    task.missed = True

    def _children(self, task: Task) -> dict[int, int]:
        running = list(self._executor.running.values())
        others = {pid for one in running if one is not task for pid in one.pids}
        return children.of_call(task, all(one is task for one in running), others)
