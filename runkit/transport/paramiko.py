"""SSH without an `ssh` binary, and with passwords: paramiko, and sshtunnel for the ports that are brought here.

Reads the same `~/.ssh/config` (HostName, Port, User, IdentityFile, IdentitiesOnly, ProxyJump, ProxyCommand) and known_hosts as
OpenSSH. It is slower than OpenSSH: every byte passes through Python.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import shlex
import shutil
import signal
import socket
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import paramiko
import sshtunnel

from runkit.errors import HostUnreachable
from runkit.transport import relay, streams
from runkit.transport.base import Address, Forward, Transport
from runkit.transport.credentials import Credentials
from runkit.transport.paramiko_login import Route, log_in, route
from runkit.transport.script import OnOutput, PidFilter, end_group, login_command

CHUNK = 256 * 1024  # bytes
STDIN, STDOUT = 0, 1  # the process's own, whatever sys.stdin is
PROHIBITED = 1  # why a channel was not opened (RFC 4254, 5.1)

# What these two write to their loggers reaches users as runkit's errors; without a handler Python would print it as well.
for name in ("paramiko", "paramiko.transport"):
    logging.getLogger(name).addHandler(logging.NullHandler())


class Paramiko(Transport):
    """A host reached with paramiko. Arguments as `OpenSSH`."""

    streams_unix = False

    def __init__(
        self,
        host: str,
        port: int | None,
        credentials: Credentials,
        notify: Callable[[str], None],
        connect_timeout: float = 10.0,
    ):
        super().__init__()
        self._route: Route = route(host, port, credentials)
        self._notify, self._connect_timeout = notify, connect_timeout
        self._lock = threading.RLock()
        self._transport: paramiko.Transport | None = None
        self._jump: Paramiko | None = None
        self._auth: dict[str, Any] = {}
        self._streams_through_commands = False
        self.description = f"{self._route.user}@{self._route.address}:{self._route.port}"

    def open(self) -> None:
        self._opened()

    def _opened(self) -> paramiko.Transport:
        with self._lock:
            if self._transport is None or not self._transport.is_active():
                self.close()
                self._transport, self._auth = log_in(self._route, self._way(), self._notify, self._connect_timeout)
                self._streams_through_commands = False
            return self._transport

    def _way(self) -> Any:
        """The socket to the host, or what stands for one."""
        to = self._route
        if to.proxy_command:
            return paramiko.ProxyCommand(
                shlex.join(["/bin/sh", "-c", f"exec {to.proxy_command}"])
            )  # as OpenSSH runs it
        if to.jump:
            if self._jump is None:
                self._jump = Paramiko(
                    to.jump.host, to.jump.port, to.jump.credentials, self._notify, self._connect_timeout
                )
            try:
                return self._jump._channel((to.address, to.port), self._connect_timeout)
            except (ConnectionRefusedError, PermissionError) as error:
                raise HostUnreachable(
                    f"{self.description} cannot be reached through {self._jump.description}: {error}"
                ) from error
        try:
            return relay.dial((to.address, to.port), self._connect_timeout)
        except OSError as error:
            raise HostUnreachable(f"{self.description} cannot be reached: {error.strerror or error}") from error

    def close(self) -> None:
        with self._lock:
            if self._transport is not None:
                self._transport.close()
                self._transport = None
            if self._jump is not None:
                self._jump.close()
                self._jump = None

    def alive(self) -> bool:
        transport = self._transport
        return bool(transport and transport.is_active())

    def connect(self, address: Address, timeout: float = 10.0) -> socket.socket:
        if isinstance(address, str):
            raise ValueError("paramiko's streams lead to ports only")
        channel: Any = None
        if not self._streams_through_commands:
            try:
                channel = self._channel(address, timeout)
            except PermissionError:
                self._streams_through_commands = True
        if channel is None:
            channel = self._channel_through_command(address, timeout)
        ours, theirs = socket.socketpair()
        relay.splice(theirs, channel)
        return ours

    def _channel(self, address: tuple[str, int], timeout: float) -> paramiko.Channel:
        try:
            return self._opened().open_channel("direct-tcpip", address, ("127.0.0.1", 0), timeout=timeout)
        except paramiko.ChannelException as error:
            if error.code == PROHIBITED:
                raise PermissionError(f"{self.description} forbids forwarding: {error.text}") from error
            raise ConnectionRefusedError(
                f"nobody listens at {address[0]}:{address[1]} on {self.description}: {error.text}"
            ) from error
        except (paramiko.SSHException, EOFError) as error:
            raise HostUnreachable(
                f"{self.description} opened no stream: {error or 'the connection is lost'}"
            ) from error

    def _channel_through_command(self, address: Address, timeout: float) -> paramiko.Channel:
        channel = self._session()
        channel.settimeout(timeout)
        try:
            channel.exec_command(login_command(streams.script(address)))
            if channel.recv(1) != streams.CONNECTED:
                said = b"".join(iter(lambda: channel.recv_stderr(CHUNK), b""))
                raise streams.failure(said, address, self.description)
        except BaseException as error:
            channel.close()
            if isinstance(error, TimeoutError):
                raise HostUnreachable(f"{self.description} did not open a stream within {timeout:g} s") from error
            if isinstance(error, (paramiko.SSHException, EOFError)):
                raise HostUnreachable(
                    f"{self.description} opened no stream: {error or 'it refused the command'}"
                ) from error
            raise
        channel.settimeout(None)
        return channel

    def forward(self, port: int, local_port: int = 0) -> Forward:
        self._opened()
        relay.bound(local_port).close()
        if self._streams_through_commands or self._route.jump or self._route.proxy_command:
            return relay.listen(lambda: self.connect(("127.0.0.1", port)), local_port)
        tunnel = sshtunnel.SSHTunnelForwarder(
            (self._route.address, self._route.port),
            ssh_config_file=None,
            host_pkey_directories=[],
            allow_agent=False,
            remote_bind_address=("127.0.0.1", port),
            local_bind_address=("127.0.0.1", local_port),
            set_keepalive=5.0,
            logger=logging.getLogger("runkit.sshtunnel"),
            **self._auth,
        )
        try:
            tunnel.start()
        except sshtunnel.BaseSSHTunnelForwarderError as error:
            raise HostUnreachable(f"{self.description} forwards no port: {error}") from error
        return Forward(tunnel.local_bind_port, lambda: tunnel.stop(force=True))

    def _session(self) -> paramiko.Channel:
        try:
            return self._opened().open_session(timeout=self._connect_timeout)
        except (paramiko.SSHException, EOFError) as error:
            raise HostUnreachable(
                f"{self.description} opened no session: {error or 'the connection is lost'}"
            ) from error

    def shell(self, command: str | None = None) -> int:
        channel = self._session()
        try:
            if os.isatty(STDIN):
                size = shutil.get_terminal_size()
                channel.get_pty(os.environ.get("TERM", "vt100"), size.columns, size.lines)
            if command:
                channel.exec_command(command)
            else:
                channel.invoke_shell()
        except (paramiko.SSHException, EOFError) as error:
            channel.close()
            raise HostUnreachable(f"{self.description} gave no shell: {error or 'the connection is lost'}") from error
        with channel, _raw_terminal(channel):
            self._talk(channel)
            status = channel.recv_exit_status()
        return status if status >= 0 else 255

    @staticmethod
    def _talk(channel: paramiko.Channel) -> None:
        """Between this process's standard streams and the channel, until the channel ends."""
        sources: list[Any] = [channel, STDIN]
        channel.set_combine_stderr(True)
        while True:
            ready = select.select(sources, [], [])[0]
            if channel in ready:
                if not (data := channel.recv(CHUNK)):
                    return
                os.write(STDOUT, data)
            if STDIN in ready:
                with contextlib.suppress(OSError, EOFError):  # it has ended: the next round sees it
                    if data := os.read(STDIN, CHUNK):
                        channel.sendall(data)
                    else:
                        sources.remove(STDIN)
                        channel.shutdown_write()

    def _execute(self, script: str, feed: Iterable[bytes] | None, on_output: OnOutput, timeout: float | None) -> int:
        command = login_command(script)
        deadline = None if timeout is None else time.monotonic() + timeout
        channel = self._session()
        transport = self._transport
        seen = PidFilter(on_output)
        output: queue.Queue[tuple[str, bytes]] = queue.Queue(maxsize=64)
        stopped = threading.Event()

        def read(name: str, receive: Callable[[int], bytes]) -> None:
            chunk = b" "
            while chunk and not stopped.is_set():
                try:
                    chunk = receive(CHUNK)
                except OSError:
                    chunk = b""
                output.put((name, chunk))

        def write() -> None:
            try:
                for chunk in feed or ():
                    channel.sendall(chunk)
            except OSError:  # it ended without reading all
                pass
            except ValueError:  # and what feeds it has been closed since
                if not stopped.is_set():
                    raise
            with contextlib.suppress(OSError, EOFError):
                channel.shutdown_write()

        try:
            channel.exec_command(command)
            for target, given in (
                (read, ("stdout", channel.recv)),
                (read, ("stderr", channel.recv_stderr)),
                (write, ()),
            ):
                threading.Thread(target=target, args=given, name="runkit-ssh", daemon=True).start()
            still_open = 2
            while still_open:
                left = None if deadline is None else deadline - time.monotonic()
                try:
                    name, chunk = output.get(timeout=left if left is None else max(0.0, left))
                except queue.Empty:
                    raise TimeoutError(f"not done after {timeout:g} s") from None
                if chunk:
                    seen(name, chunk)
                else:
                    still_open -= 1
            if not channel.status_event.wait(None if deadline is None else max(0.0, deadline - time.monotonic())):
                raise TimeoutError(f"not done after {timeout:g} s")
            seen.finish()
        except (paramiko.SSHException, EOFError) as error:
            raise HostUnreachable(f"the connection to {self.description} was lost: {error}") from error
        except BaseException:
            if seen.group and self.alive():
                with contextlib.suppress(Exception):
                    self.run(end_group(seen.group), timeout=5)
            raise
        finally:
            stopped.set()
            channel.close()
            with contextlib.suppress(queue.Empty):
                while True:
                    output.get_nowait()  # a reader may be waiting for room
        if channel.exit_status < 0 and not (transport and transport.is_active()):
            raise HostUnreachable(f"the connection to {self.description} was lost while a command ran")
        return channel.exit_status if channel.exit_status >= 0 else 255


@contextlib.contextmanager
def _raw_terminal(channel: paramiko.Channel) -> Iterator[None]:
    """This process's terminal, if it has one, passes every key on and tells the channel its size."""
    terminal = STDIN
    if not os.isatty(terminal):
        yield
        return

    def resized(*_: object) -> None:
        size = shutil.get_terminal_size()
        channel.resize_pty(size.columns, size.lines)

    before = termios.tcgetattr(terminal)
    handler = signal.signal(signal.SIGWINCH, resized) if threading.current_thread() is threading.main_thread() else None
    try:
        tty.setraw(terminal)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        if handler is not None:
            signal.signal(signal.SIGWINCH, handler)
