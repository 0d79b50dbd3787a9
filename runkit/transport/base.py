"""What a transport can do, whatever carries it.

A backend says how to start a script on the host (`_execute`), how to open a byte stream to an address there (`connect`), how to
bring a port here and how to open a terminal. Everything else, files included, is made of these.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from runkit.transport import files
from runkit.transport.script import OnOutput

if TYPE_CHECKING:
    import socket

Address = tuple[str, int] | str
"""A TCP port as (host name as the host sees it, port), or the path of a UNIX socket."""

Progress = Callable[[int, int], None]
"""Called with the bytes moved so far and all bytes to move (0: not known)."""


@dataclass(frozen=True)
class Completed:
    """A script that has ended; a script ended by signal n has the return code 128 + n, or -n on this machine."""

    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output, decoded and without the newline at its end."""
        return self.stdout.decode(errors="replace").rstrip("\n")


class Forward:
    """A port of the host that can be reached on 127.0.0.1:`local_port` until `close()`."""

    def __init__(self, local_port: int, close: Callable[[], None]):
        self.local_port = local_port
        self._close: Callable[[], None] | None = close

    def close(self) -> None:
        if close := self._close:
            self._close = None
            close()

    def __enter__(self) -> Forward:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Forward(local_port={self.local_port}{'' if self._close else ', closed'})"


class Transport(ABC):
    """The way to one host. Every method may be called from any thread, and opens the connection if there is none.

    Attributes:
        description: where this leads, for messages: "node1@10.77.0.1:2222".
        streams_unix: whether `connect` takes the paths of UNIX sockets.
    """

    description: str
    streams_unix: bool = True

    def __init__(self) -> None:
        self._facts: tuple[str, bool] | None = None
        self._facts_lock = threading.Lock()

    @abstractmethod
    def open(self) -> None:
        """Connect and log in; nothing where that is done already.

        Raises:
            HostUnreachable, AuthenticationFailed, HostKeyChanged: as they say.
        """

    @abstractmethod
    def close(self) -> None:
        """End the connection and everything that goes through it. It can be opened again."""

    @abstractmethod
    def alive(self) -> bool:
        """Whether the connection is open, as far as this side knows; a silent host is noticed after 15 seconds."""

    @abstractmethod
    def connect(self, address: Address, timeout: float = 10.0) -> socket.socket:
        """A byte stream to a port or UNIX socket on the host.

        Args:
            address: seen from the host: ("127.0.0.1", 32300), or a path there (where `streams_unix`).
            timeout: seconds.

        Raises:
            ConnectionRefusedError: nobody listens there (for a path: or it does not exist).
            HostUnreachable: the connection to the host is lost, or did not answer in time.
        """

    @abstractmethod
    def forward(self, port: int, local_port: int = 0) -> Forward:
        """Make the host's 127.0.0.1:`port` reachable on this machine's 127.0.0.1:`local_port` (0: a free one).

        Raises:
            PortInUse: `local_port` belongs to another process.
        """

    @abstractmethod
    def shell(self, command: str | None = None) -> int:
        """Give this process's terminal to the login shell of the host, or to one command; returns its exit status."""

    @abstractmethod
    def _execute(self, script: str, feed: Iterable[bytes] | None, on_output: OnOutput, timeout: float | None) -> int:
        """Run `script` with /bin/sh in the home folder, `feed` as its standard input; returns the exit status."""

    def run(
        self,
        script: str,
        *,
        input: bytes | None = None,  # noqa: A002  (as in subprocess.run)
        timeout: float | None = None,
        on_output: OnOutput | None = None,
    ) -> Completed:
        """Run a script in the host's POSIX sh, in the user's home folder, whatever the login shell is.

        Args:
            script: up to 96 KiB; put longer ones into a file.
            input: its standard input; empty if None.
            timeout: seconds, after which the script and its children are ended.
            on_output: sees the output as it comes, in the calling thread.

        Raises:
            TimeoutError: it took longer than `timeout`.
            HostUnreachable: the connection was lost; the script may have run.

        >>> Local().run("echo hello").text
        'hello'
        """
        output: dict[str, list[bytes]] = {"stdout": [], "stderr": []}

        def collect(name: str, chunk: bytes) -> None:
            output[name].append(chunk)
            if on_output:
                on_output(name, chunk)

        code = self._execute(script, None if input is None else [input], collect, timeout)
        return Completed(code, b"".join(output["stdout"]), b"".join(output["stderr"]))

    def put(self, local: Path | str, remote: str, *, progress: Progress | None = None) -> None:
        """Copy a file or a folder to the host; `remote` is the copy's own path ("~/x", absolute, or relative to the home).

        A file replaces the one there in one step; a folder's content is added to the one there. Modes are kept.

        Raises:
            FileNotFoundError: there is no such local file. OSError: the host could not write it; says why.
        """
        files.put(self, Path(local).expanduser(), remote, progress)

    def get(self, remote: str, local: Path | str, *, progress: Progress | None = None) -> None:
        """Copy a file or a folder from the host; `local` is the copy's own path. As `put` otherwise."""
        files.get(self, remote, Path(local).expanduser(), progress)

    def rsync(self, source: str, dest: str, *, up: bool, delete: bool = False) -> None:
        """Copy as rsync does: "data/" is the folder's content, "data" the folder itself, into `dest`.

        Args:
            up: from here to the host; otherwise from the host to here.
            delete: remove from the destination what the source does not have.

        Without an rsync on both sides everything is copied, changed or not.
        """
        home, has_rsync = self._host_facts()
        if has_rsync and (command := self._rsync_command()):
            files.rsync(self, command, home, source, dest, up=up, delete=delete)
        else:
            files.copy_like_rsync(self, source, dest, up=up, delete=delete)

    def _rsync_command(self) -> tuple[list[str], str] | None:
        """The start of an rsync command and what stands before a remote path; None: this side cannot."""
        return None

    def _host_facts(self) -> tuple[str, bool]:
        """The user's home folder and whether the host has rsync; asked for once."""
        with self._facts_lock:
            if self._facts is None:
                lines = self.run('printf "%s\\n" "$HOME"; command -v rsync').text.split("\n")
                self._facts = lines[0], len(lines) > 1
            return self._facts

    def __enter__(self) -> Transport:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.description!r})"
