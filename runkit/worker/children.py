"""Child processes of a call: their output, and who they are when the call has to stop."""

from __future__ import annotations

import os
import signal
import time

from runkit.worker.output import Output, Tagged
from runkit.worker.task import Task, current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def watch_subprocess(output: Output) -> None:
    """Give children started through `subprocess` a pipe of their call's own, and remember them."""
    import subprocess  # late: it costs a third of the worker's start

    original = subprocess.Popen.__init__

    def start(self: Any, *args: Any, **kwargs: Any) -> None:
        task = current.get()
        if task is None or task.finished:
            original(self, *args, **kwargs)
            return
        for name, position, stream in (("stdout", 4, 1), ("stderr", 5, 2)):
            if len(args) > position:
                continue
            given = kwargs.get(name)
            if isinstance(given, Tagged):  # stdout=sys.stderr
                given = given.fileno()
            if given is None or given in (1, 2):
                kwargs[name] = output.pipe_for(task, given or stream)
        original(self, *args, **kwargs)
        task.pids.add(self.pid)

    start.__wrapped__ = original  # type: ignore[attr-defined]  # functions take attributes; inspect.signature looks here
    subprocess.Popen.__init__ = start  # type: ignore[method-assign]  # whoever calls it is the user's code


def watch_pools() -> None:
    """What a call hands to a thread pool belongs to it, whoever started the pool's threads."""
    from concurrent.futures import ThreadPoolExecutor  # late, as subprocess

    original = ThreadPoolExecutor.submit

    def submit(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        task = current.get()
        return (
            original(self, _tagged, task, fn, args, kwargs) if task is not None else original(self, fn, *args, **kwargs)
        )

    submit.__wrapped__ = original  # type: ignore[attr-defined]  # as above
    ThreadPoolExecutor.submit = submit  # type: ignore[method-assign]  # as above


def _tagged(task: Task, fn: Any, args: Any, kwargs: Any) -> Any:
    token = current.set(task)
    try:
        return fn(*args, **kwargs)
    finally:
        current.reset(token)


def watch_threads() -> None:
    """Threads that a call starts belong to it, too (before Python 3.14 they inherit no context)."""
    import threading

    original = threading.Thread.start

    def start(self: threading.Thread) -> None:
        task = current.get()
        if task is not None:
            run = self.run

            def tagged() -> None:
                current.set(task)
                run()

            self.run = tagged  # type: ignore[method-assign]  # the documented way to give a thread its work
        original(self)

    threading.Thread.start = start  # type: ignore[method-assign]


def of_call(task: Task, alone: bool, others: set[int]) -> dict[int, int]:
    """The processes that `task` started and their descendants, each with the time of its start (ticks since boot).

    Args:
        alone: no other call runs, so every child of this process that is younger than the call is its own.
        others: pids known to belong to other calls.
    """
    if not task.started:  # it has not begun to run
        return {}
    parents, born = _processes()
    me = os.getpid()
    found = [pid for pid in task.pids if parents.get(pid) == me]
    if alone:
        since = (task.started - 0.05 - (time.time() - _uptime())) * os.sysconf("SC_CLK_TCK")
        found += [
            pid for pid, parent in parents.items()
            if parent == me and born[pid] >= since and pid not in others and pid not in found
        ]  # fmt: skip
    return {pid: born[pid] for pid in _with_descendants(found, parents)}


def end_all() -> None:
    """End what this process started, before it ends itself."""
    parents, born = _processes()
    family = _with_descendants([os.getpid()], parents)[1:]
    signal_all({pid: born[pid] for pid in family}, signal.SIGKILL)


def _processes() -> tuple[dict[int, int], dict[int, int]]:
    """The parent of every process, and the time of its start."""
    parents: dict[int, int] = {}
    born: dict[int, int] = {}
    for name in os.listdir("/proc"):
        fields = _stat(name) if name.isdigit() else None
        if fields is not None:
            parents[int(name)], born[int(name)] = int(fields[1]), int(fields[19])
    return parents, born


def _with_descendants(found: list[int], parents: dict[int, int]) -> list[int]:
    for pid in found:  # grows while it is walked: children of children follow
        found += [child for child, parent in parents.items() if parent == pid and child not in found]
    return found


def signal_all(family: dict[int, int], number: int) -> bool:
    """Signal those of the processes that still run, the youngest generation first. False if there are none."""
    left = False
    for pid, born in reversed(list(family.items())):
        fields = _stat(str(pid))
        if fields is None or fields[0] == b"Z" or int(fields[19]) != born:
            continue
        left = True
        try:
            os.kill(pid, number)
        except OSError:  # it has just ended, or belongs to another user
            pass
    return left


def _stat(pid: str) -> list[bytes] | None:
    """What /proc/PID/stat says behind the name: state, parent, …; None if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return None


def _uptime() -> float:
    with open("/proc/uptime") as file:
        return float(file.read().split()[0])
