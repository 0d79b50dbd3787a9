"""Output: what remote code and its child processes print, tagged with its call and sent as it is written.

Python's own prints carry the call in a context variable and leave at once. Everything else (C code, child processes, `os.write`)
lands in the pipes behind file descriptors 1 and 2, and belongs to the call that runs alone; a child started through `subprocess` gets a
pipe of its call's own. Before a result is sent, what is still in the pipes is taken out by the call's own thread: the last
line always comes before the result, and no marker has to travel through the pipe.
"""

from __future__ import annotations

import fcntl
import io
import os
import select
import struct
import sys
import termios
import threading
from collections.abc import Callable

from runkit.wire import frames
from runkit.wire.streams import spawn
from runkit.worker.task import Task, current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PIECE = 128 * 1024
"""Output leaves in pieces of at most so many bytes: more would go the way of large arguments, beside the other frames."""

PATIENCE = 1.0
"""Seconds to wait for a pipe that is being emptied into a connection which takes nothing."""

LOG_BYTES = 32 * 1024 * 1024
"""The env's log is turned over at this size (bytes)."""

_PIPE_BYTES = 1024 * 1024
"""So much (bytes) may C code write at once that does not let the threads run that empty the pipe."""

_INT = struct.Struct("i")
_KEEPS_TURN = 1025
"""With an answer of this length (bytes) CPython's ioctl does not let other threads run meanwhile, before 3.14: every call asks two
pipes, and to get its turn again costs more than the question."""

_SET_PIPE_SIZE = 1031
"""F_SETPIPE_SZ, which the fcntl module has since Python 3.10."""


class Pipe:
    """The read end of a pipe that code writes to. Whoever holds the lock reads; nobody ever waits inside a read."""

    def __init__(
        self, fd: int, stream: int, deliver: Callable[[int, Task | None, bytes], None], owner: Task | None = None
    ):
        self.fd = fd
        self.stream = stream
        self.owner = owner
        self._deliver = deliver
        self._lock = threading.RLock()
        self._answer = bytearray(_KEEPS_TURN)
        os.set_blocking(fd, False)

    def waiting(self) -> int:
        """Bytes that are in the pipe now; under the lock."""
        fcntl.ioctl(self.fd, termios.FIONREAD, self._answer)
        return int(_INT.unpack_from(self._answer)[0])

    def drain(self) -> None:
        """Deliver what is in the pipe now (what comes meanwhile is left, so a chatty child cannot hold a call up)."""
        # This also waits for whoever is delivering what is no longer in the pipe; not for ever, as that may be another client's.
        if not self._lock.acquire(timeout=PATIENCE):
            return
        try:
            left = self.waiting()
            while left > 0:
                try:
                    data = os.read(self.fd, min(left, 65536))
                except BlockingIOError:  # the keeper has emptied it
                    return
                if not data:
                    return
                left -= len(data)
                self._deliver(self.stream, self.owner, data)
        finally:
            self._lock.release()

    def follow(self) -> None:
        """Deliver until every writer has closed the pipe; runs in a thread of its own."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        while True:
            events = poll.poll()
            with self._lock:
                if self.waiting():
                    self.drain()
                elif events and not events[0][1] & select.POLLIN:
                    os.close(self.fd)
                    return


class Output:
    """All output of this worker.

    Args:
        sole: gives the call that runs alone now, or None.
        log: path of the env's log file.
        note: told that a stream's pipe is being emptied (1), or no more (0): the keeper empties one that stays full, because C code
            that lets no other thread run would wait for ever, and must not take what only waits for a slow client.
    """

    def __init__(
        self,
        stdout_fd: int,
        stderr_fd: int,
        log: str,
        sole: Callable[[], Task | None],
        note: Callable[[int, int], None],
    ):
        self._note = note
        self._sole = sole
        self._log_path = log
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if log else -1
        self._logged = os.fstat(self._log).st_size if log else 0
        self._log_lock = threading.Lock()
        self.pipes = {1: Pipe(stdout_fd, 1, self._empty), 2: Pipe(stderr_fd, 2, self._empty)}
        self._pipes_lock = threading.Lock()
        self._plain: dict[int, io.TextIOWrapper] = {}  # the streams of a forked child

    def install(self) -> None:
        """Put the tagged streams in place of sys.stdout and sys.stderr and start reading the pipes."""
        for stream, name in ((1, "stdout"), (2, "stderr")):
            setattr(sys, name, Tagged(self, stream))
            setattr(sys, f"__{name}__", getattr(sys, name))
            try:
                fcntl.fcntl(self.pipes[stream].fd, _SET_PIPE_SIZE, _PIPE_BYTES)
            except OSError:  # the user's pipes have reached the kernel's limit
                pass
            spawn(name, self.pipes[stream].follow)
        os.register_at_fork(before=self._before_fork, after_in_child=self._after_fork)

    def _before_fork(self) -> None:
        task = current.get()
        if task is not None and not task.finished:
            for stream in (1, 2):
                self.pipe_for(task, stream)

    def _after_fork(self) -> None:
        """In a forked child: print to the call's own pipe, since the threads that carry frames did not come along."""
        task = current.get()
        self.__class__ = InChild  # also for whoever holds the streams that were, such as handlers of the logging module
        for stream, name in ((1, "stdout"), (2, "stderr")):
            if task is not None and stream in task.pipes:
                os.dup2(task.pipes[stream][1], stream)
            plain = io.TextIOWrapper(
                io.FileIO(stream, "w", closefd=False), "utf-8", "backslashreplace", line_buffering=True
            )
            self._plain[stream] = plain
            setattr(sys, name, plain)
            setattr(sys, f"__{name}__", plain)

    def _empty(self, stream: int, task: Task | None, data: bytes) -> None:
        self._note(stream, 1)
        try:
            self.deliver(stream, task, data)
        finally:
            self._note(stream, 0)

    def deliver(self, stream: int, task: Task | None, data: bytes) -> None:
        """Hand bytes to the log and to the client of `task`, else of the call that runs alone."""
        self.log(data)
        task = self._shown_to(task)
        if task is not None and task.stream:
            for at in range(0, len(data), PIECE):
                task.send(frames.LOG, {"s": stream}, [data[at : at + PIECE]])

    def _shown_to(self, task: Task | None) -> Task | None:
        """The call whose client is shown what `task` prints: once that has ended, the one of the same client that runs alone."""
        if task is not None and (task.cancelled or not task.finished):  # what was given up has no reader any more
            return task
        sole = self._sole()
        return sole if task is None or (sole is not None and sole.session is task.session) else None

    def log(self, data: bytes) -> None:
        """Append to the env's log."""
        if self._log < 0:
            return
        try:
            os.write(self._log, data)
            self._logged += len(data)
            if self._logged > LOG_BYTES:
                self._turn_over()
        except OSError:  # a full disk must not fail the call that prints
            pass

    def _turn_over(self) -> None:
        """Begin a new log under the same descriptor: another thread may be about to write to it."""
        with self._log_lock:
            if self._logged > LOG_BYTES:
                os.replace(self._log_path, self._log_path + ".1")
                fresh = os.open(self._log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                os.dup2(fresh, self._log, inheritable=False)
                os.close(fresh)
                self._logged = 0

    def print(self, stream: int, text: str) -> None:
        """Take text printed by Python code; it leaves at a line's end, as on a terminal."""
        task = self._shown_to(current.get())
        if task is None:
            self.pipes[stream].drain()
            self.log(text.encode("utf-8", "backslashreplace"))
            return
        kept = task.text.setdefault((stream, threading.get_ident()), [])  # lines of several threads stay whole
        kept.append(text)
        if "\n" in text or "\r" in text or len(kept) > 256:
            self.flush(stream, task)

    def flush(self, stream: int, task: Task | None = None) -> None:
        """Deliver what this thread has printed so far, behind what is in the pipes."""
        task = task or current.get() or self._sole()
        self.pipes[stream].drain()  # what a child wrote before this line comes before it
        if task is not None:
            own = task.pipes.get(stream)
            if own is not None:
                own[0].drain()
            self._deliver_kept(task, (stream, threading.get_ident()))

    def finish(self, task: Task) -> None:
        """Deliver the last of a call's output; its result comes after this."""
        for stream in (1, 2):
            self.flush(stream, task)
        for key in list(task.text):  # of other threads
            self._deliver_kept(task, key)

    def _deliver_kept(self, task: Task, key: tuple[int, int]) -> None:
        kept = task.text.pop(key, None)
        if kept:
            self.deliver(key[0], task, "".join(kept).encode("utf-8", "backslashreplace"))

    def pipe_for(self, task: Task, stream: int) -> int:
        """The descriptor that child processes of `task` write to; `close_pipes` closes it when the call ends."""
        with self._pipes_lock:
            if stream not in task.pipes:
                read, write = os.pipe()
                pipe = Pipe(read, stream, self.deliver, task)
                task.pipes[stream] = (pipe, write)
                spawn("child-output", pipe.follow)
            return int(task.pipes[stream][1])

    def close_pipes(self, task: Task) -> None:
        if task.pipes:
            with self._pipes_lock:
                pipes, task.pipes = task.pipes, {}
            for _, write in pipes.values():
                os.close(write)


class InChild(Output):
    """What becomes of it in a forked child, where the threads, connections and locks of the parent are of no use."""

    def print(self, stream: int, text: str) -> None:
        self._plain[stream].write(text)

    def flush(self, stream: int, task: Task | None = None) -> None:
        self._plain[stream].flush()

    def deliver(self, stream: int, task: Task | None, data: bytes) -> None:
        while data:
            data = data[os.write(stream, data) :]

    def pipe_for(self, task: Task, stream: int) -> int:
        return stream


class Tagged(io.TextIOBase):
    """sys.stdout or sys.stderr of a worker."""

    def __init__(self, output: Output, stream: int):
        self._output = output
        self._stream = stream
        self.buffer = Raw(output, stream)

    encoding = "utf-8"
    errors = "backslashreplace"
    line_buffering = True

    @property
    def name(self) -> str:
        return "<stdout>" if self._stream == 1 else "<stderr>"

    def write(self, text: str) -> int:
        if type(text) is not str:
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._output.print(self._stream, text)
        return len(text)

    def flush(self) -> None:
        self._output.flush(self._stream)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._stream

    def reconfigure(self, **options: Any) -> None:
        """Accepted, as scripts call it; the stream stays UTF-8."""

    def close(self) -> None:
        """Not closed: other calls print here too."""


class Raw(io.RawIOBase):
    """`sys.stdout.buffer`: bytes that leave at once."""

    def __init__(self, output: Output, stream: int):
        self._output = output
        self._stream = stream

    def write(self, data: Any) -> int:
        self._output.flush(self._stream)
        self._output.deliver(self._stream, current.get(), bytes(data))
        return len(data)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream

    def close(self) -> None:
        """Not closed, as the text stream above it."""
