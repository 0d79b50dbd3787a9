"""A local process with its input fed and its output seen as it comes; neither side can block the other."""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Iterable, Iterator

from runkit.model.passed_on import environment
from runkit.transport.script import OnOutput

CHUNK = 256 * 1024  # bytes read at once
QUIET = 1.0  # seconds: output that a daemon left behind by an ended script keeps open is waited for so long


def start(command: list[str], *, feed: bool, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, so that Ctrl-C here does not end it half way."""
    stdin = subprocess.PIPE if feed else subprocess.DEVNULL
    return subprocess.Popen(
        command,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
        env=environment() if env is None else env,
    )


def pump(
    process: subprocess.Popen[bytes], feed: Iterable[bytes] | None, on_output: OnOutput, timeout: float | None
) -> int:
    """Move input and output until the process has ended; returns its exit status.

    Raises:
        TimeoutError: it took longer than `timeout` seconds. The process is still running then.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    chunks: Iterator[bytes] = iter(feed or ())
    pending = memoryview(b"")
    quiet_since: float | None = None
    with selectors.DefaultSelector() as selector:
        for stream, name in ((process.stdout, "stdout"), (process.stderr, "stderr")):
            assert stream is not None
            selector.register(stream, selectors.EVENT_READ, name)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE, "stdin")
        while selector.get_map():
            wait = 0.25 if deadline is None else min(0.25, deadline - time.monotonic())
            if wait <= 0:
                raise TimeoutError(f"not done after {timeout:g} s")
            events = selector.select(wait)
            for key, _ in events:
                if key.data != "stdin":
                    if chunk := os.read(key.fd, CHUNK):
                        on_output(key.data, chunk)
                    else:
                        selector.unregister(key.fileobj)
                    continue
                try:
                    pending = pending or memoryview(next(chunks))
                    pending = pending[os.write(key.fd, pending[:CHUNK]) :]
                except (StopIteration, BrokenPipeError):  # all said, or nobody listens any more
                    selector.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr]  # it is process.stdin
                except BlockingIOError:
                    pass
            if events or process.poll() is None:
                quiet_since = None
            elif quiet_since is None:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > QUIET:
                break
    try:
        return process.wait(None if deadline is None else max(0.01, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"not done after {timeout:g} s") from None


def discard(process: subprocess.Popen[bytes]) -> None:
    """Close this side's ends and collect the process, by force if it is still there."""
    if process.poll() is None:
        process.kill()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    process.wait()
