"""Processes by id: a pid alone may belong to somebody else by now, a pid with its start time cannot."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

MARK = "RUNKIT_WORKER"
"""Environment variable of a worker and of whatever it starts, so that none of it outlives what it belongs to."""


@dataclass(frozen=True)
class ProcessId:
    """One process of this host.

    Attributes:
        pid: its number.
        started: when it started, in clock ticks since the host booted.
    """

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The process that has this number now; None if there is none (any more)."""
        found = _stat(pid)
        return None if found is None else cls(pid, found[1])

    @classmethod
    def from_json(cls, value: Any) -> ProcessId | None:
        """What `as_json` gave; None for anything else."""
        with suppress(TypeError, ValueError, KeyError):
            return cls(int(value["pid"]), int(value["started"]))
        return None

    def as_json(self) -> dict[str, int]:
        return {"pid": self.pid, "started": self.started}

    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        found = _stat(self.pid)
        return found is not None and found[1] == self.started and found[0] not in "ZX"

    def name(self) -> str:
        """What the kernel calls it, with its number: "raylet (123)"."""
        with suppress(OSError), open(f"/proc/{self.pid}/comm") as file:
            return f"{file.read().strip()} ({self.pid})"
        return f"({self.pid})"

    def signal(self, number: int) -> bool:
        """Send a signal to this very process; False if it is gone, or not this user's."""
        descriptor = pidfd(self.pid)
        try:
            if not self.alive():
                return False
            if descriptor is None:
                os.kill(self.pid, number)
            else:  # the number cannot pass to another process between the look and the signal
                signal.pidfd_send_signal(descriptor, number)
            return True
        except (ProcessLookupError, PermissionError):
            return False
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended; False if it still runs after so many seconds."""
        end = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True


def pidfd(pid: int) -> int | None:
    """A descriptor that stands for the process and becomes readable when it ends; None if it is gone, or before Linux 5.3."""
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        return None


def end(processes: Iterable[ProcessId], gently: float = 3.0) -> list[ProcessId]:
    """End processes: SIGTERM, and SIGKILL for what is left after `gently` seconds. Gives those that had to be killed."""
    running = [process for process in processes if process.signal(signal.SIGTERM)]
    deadline = time.monotonic() + gently
    for process in running:
        process.wait(max(0.0, deadline - time.monotonic()))
    killed = [process for process in running if process.signal(signal.SIGKILL)]
    for process in killed:
        process.wait(5.0)
    return killed


def marked(mark: str) -> list[ProcessId]:
    """This user's processes whose environment says `RUNKIT_WORKER=<mark>`, or a longer mark that begins with it."""
    wanted = f"\0{MARK}={mark}".encode()
    found = []
    for pid in _pids():
        if pid == os.getpid():
            continue
        environment = _environment(pid)
        at = environment.find(wanted)
        # Marks are made of parts with colons between them: "…/32300:np" must not match "…/32300:np_env".
        if (
            at >= 0
            and environment[at + len(wanted) : at + len(wanted) + 1] in (b"\0", b":")
            and (process := ProcessId.of(pid))
        ):
            found.append(process)
    return found


def of_session(leader: ProcessId, variable: str) -> list[ProcessId]:
    """This user's processes in the session that `leader` began, whether it is still there or not.

    Args:
        leader: the session's first process.
        variable: "NAME=value", which all of them have in their environment. Once a session is empty its number goes to whoever
            comes next, after a restart of a container perhaps a login shell.
    """
    now = ProcessId.of(leader.pid)
    if now is not None and now != leader:
        return []  # the number is somebody else's, and so is the session
    wanted = f"\0{variable}\0".encode()
    found = []
    for pid in _pids():
        stat = _stat(pid)
        if stat is None or stat[2] != leader.pid or stat[1] < leader.started or stat[0] in "ZX":
            continue
        if wanted in _environment(pid):
            found.append(ProcessId(pid, stat[1]))
    return found


def memory(pid: int) -> int:
    """Resident memory of a process, in bytes; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def _pids() -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            yield int(name)


def _environment(pid: int) -> bytes:
    """What a process was started with, a zero byte before and after each variable; nothing for one of another user."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return b"\0" + file.read() + b"\0"
    except OSError:
        return b""


def _stat(pid: int) -> tuple[str, int, int] | None:
    """State letter, start time and session of a process (proc(5), fields 3, 22 and 6)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The command stands in parentheses and may contain any character, parentheses and spaces too.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return (fields[0].decode(), int(fields[19]), int(fields[3])) if len(fields) > 19 else None
