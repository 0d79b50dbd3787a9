"""This machine as a host: plain processes and sockets."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable

from runkit.transport import known_hosts, process, relay
from runkit.transport.base import Address, Forward, Transport
from runkit.transport.script import OnOutput, check_length


class Local(Transport):
    """The transport of the embedded cluster. `open` and `close` have nothing to do."""

    def __init__(self) -> None:
        super().__init__()
        self.description = f"{known_hosts.user_name()}@this machine"

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def alive(self) -> bool:
        return True

    def connect(self, address: Address, timeout: float = 10.0) -> socket.socket:
        return relay.dial(address, timeout)

    def forward(self, port: int, local_port: int = 0) -> Forward:
        if local_port in (0, port):
            return Forward(port, lambda: None)
        return relay.listen(lambda: self.connect(("127.0.0.1", port)), local_port)

    def shell(self, command: str | None = None) -> int:
        shell = os.environ.get("SHELL") or "/bin/sh"
        return subprocess.call([shell, "-c", command] if command else [shell, "-l"], cwd=os.path.expanduser("~"))

    def _execute(self, script: str, feed: Iterable[bytes] | None, on_output: OnOutput, timeout: float | None) -> int:
        check_length(script)
        running = process.start(["/bin/sh", "-c", f"cd\n{script}"], feed=feed is not None)
        try:
            return process.pump(running, feed, on_output, timeout)
        except BaseException:
            _end_group(running)
            raise
        finally:
            process.discard(running)

    def _rsync_command(self) -> tuple[list[str], str] | None:
        return (["rsync"], "") if shutil.which("rsync") else None


def _end_group(running: subprocess.Popen[bytes]) -> None:
    """End a script and its children: gently, and after a second by force."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGTERM)
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            running.poll()  # a zombie would keep its group
            os.killpg(running.pid, 0)
            time.sleep(0.01)
        os.killpg(running.pid, signal.SIGKILL)
