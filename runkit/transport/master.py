"""A master connection of OpenSSH: a process, its control socket, and the forwards that streams go through."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shutil
import socket
import subprocess
import tempfile
import threading
import time

from runkit.errors import HostUnreachable, UsageError
from runkit.model.passed_on import environment
from runkit.transport import relay, ssh_errors
from runkit.transport.base import Address
from runkit.transport.mux import Mux, MuxError
from runkit.wire import places

LOGIN_TIME = 20.0  # seconds for logging in, beyond those for connecting
LONGEST_SOCKET = 107  # bytes of a UNIX socket's path; ssh adds 17 while it makes one

# Its standard input is a pipe that only the Python process holds open: it ends when that does.
LIFELINE = """
folder=$1; shift
exec 3<&0
"$@" </dev/null 3<&- & master=$!
{ read -r _; kill "$master"; } <&3 2>/dev/null & watch=$!
exec 3<&-
wait "$master"; code=$?
kill "$watch" 2>/dev/null
rm -rf "$folder"
exit "$code"
"""


class Master:
    """A running `ssh -M` and its control socket. Ends with `close()`, by itself when the host is gone, or with this process."""

    def __init__(self, arguments: list[str], config: str, description: str, key: str | None, connect_timeout: float):
        self.forwards_allowed = True
        self._description, self._key = description, key
        self._folder = places.private(places.runtime_root() / "ssh") / secrets.token_hex(4)
        self._control = str(self._folder / "c")
        if len(self._control) + 17 > LONGEST_SOCKET:
            raise UsageError(f"{self._folder} is too long a path for sockets: set RUNKIT_RUNTIME_DIR to a shorter one")
        self._folder.mkdir(mode=0o700)
        (self._folder / "config").write_text(config)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (read after the process has ended)
        self._forwards: dict[Address, str] = {}
        self._lock = threading.Lock()
        command = [
            "ssh",
            "-F",
            str(self._folder / "config"),
            "-M",
            "-N",
            "-S",
            self._control,
            "-o",
            "ControlPersist=no",
            *arguments,
        ]
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", LIFELINE, "runkit-ssh", str(self._folder), *command], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=self._log, bufsize=0, start_new_session=True, cwd="/", env={**environment(), "SSH_ASKPASS_REQUIRE": "never"},
        )  # fmt: skip
        self._owner = os.getpid()
        try:
            self._wait(connect_timeout)
        except BaseException:
            self.close()
            raise

    def _wait(self, connect_timeout: float) -> None:
        deadline = time.monotonic() + connect_timeout + LOGIN_TIME
        while True:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError), self.mux() as mux:
                if mux.alive():
                    return
            if self._process.poll() is not None:
                raise ssh_errors.explain(self._description, self._key, self.said())
            if time.monotonic() > deadline:
                raise HostUnreachable(
                    f"{self._description} did not let us log in within {connect_timeout + LOGIN_TIME:g} s"
                )
            time.sleep(0.005)

    def mux(self, timeout: float = 10.0) -> Mux:
        return Mux(self._control, timeout)

    def client(self, *options: str) -> list[str]:
        """The command that runs something through this master, and never by a connection of its own."""
        return ["ssh", "-F", "none", "-S", self._control, "-o", "BatchMode=yes", "-o", "ProxyCommand=false", "-o", "LogLevel=ERROR",
                *options, "runkit"]  # fmt: skip

    def alive(self) -> bool:
        return self._process.poll() is None

    def stays_alive(self) -> bool:
        """Whether the master is alive, after a moment in which a lost connection would have ended it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.3)
        return self.alive()

    def said(self, since: int = 0) -> str:
        """What it wrote on standard error, from byte `since` on; the last MiB of it."""
        size = self._log_size()
        since = max(since, size - (1 << 20))
        return os.pread(self._log.fileno(), size - since, since).decode(errors="replace")

    def _log_size(self) -> int:
        return os.fstat(self._log.fileno()).st_size

    def connect(self, address: Address, timeout: float) -> socket.socket:
        """A stream through a forward, of which there is one per address.

        Raises:
            PermissionError: sshd forbids forwarding. ConnectionRefusedError: nobody listens there.
        """
        try:
            with self._lock, self.mux(timeout) as mux:
                if not (path := self._forwards.get(address)):
                    path = str(self._folder / f"f{len(self._forwards)}")
                    mux.open_forward(path, address)
                    self._forwards[address] = path
                before = self._log_size()
                stream = relay.dial(path, timeout)
                try:
                    refused = self._refused(mux, address, stream, before)
                    reasons = self.said(before)
                except BaseException:
                    stream.close()
                    raise
        except TimeoutError:
            raise
        except OSError as error:
            raise ssh_errors.lost(self._description, self.said()) from error
        if refused:
            stream.close()
            if not self.stays_alive():
                raise ssh_errors.lost(self._description, self.said())
            raise ssh_errors.stream_refused(address, self._description, reasons)
        return stream

    def _refused(self, mux: Mux, address: Address, stream: socket.socket, before: int) -> bool:
        """Whether nobody listens. A forward accepts before it knows, so a second request for a stream has to tell."""
        try:
            # To a port: the same one. ssh cannot ask for a path in this way, but sshd answers in the order of the requests: once it
            # has refused port 0, what it says about the path has been said, and written down in the log.
            mux.probe(("127.0.0.1", 0) if isinstance(address, str) else address)
        except MuxError:
            if not isinstance(address, str):
                return True
        refusals = self.said(before).count("open failed")
        return (
            refusals > 1 and bool(select.select([stream], [], [], 0.05)[0]) and stream.recv(1, socket.MSG_PEEK) == b""
        )

    def close(self) -> None:
        if self._owner != os.getpid():  # a fork's copy: the master is its parent's
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, 9)
            self._process.wait()
            shutil.rmtree(self._folder, ignore_errors=True)
