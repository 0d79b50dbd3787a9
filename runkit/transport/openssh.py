"""The machine's own OpenSSH: one master connection per transport, through which everything goes.

So `~/.ssh/config`, agents, hardware keys, ProxyJump and known_hosts work as in a terminal. The master is a child of a small shell
script that ends it when this process does, however it ends. Nothing is shared between transports: a master that other credentials
opened would let a wrong key pass.

`RUNKIT_SSH_CONFIG` names another file than `~/.ssh/config`, `RUNKIT_KNOWN_HOSTS` another one than `~/.ssh/known_hosts`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from runkit.errors import HostUnreachable, PortInUse, UsageError
from runkit.model.passed_on import environment
from runkit.transport import known_hosts, process, relay, ssh_errors, streams
from runkit.transport.base import Address, Forward, Transport
from runkit.transport.credentials import Credentials
from runkit.transport.master import Master
from runkit.transport.mux import MuxError
from runkit.transport.script import OnOutput, PidFilter, end_group, login_command

SESSIONS = 6  # scripts at once: sshd allows 10 sessions on a connection (MaxSessions), a few are left for streams and terminals


class OpenSSH(Transport):
    """A host reached with the `ssh` command.

    Args:
        host: a name, an address or a Host alias of the SSH configuration.
        port: None: the configuration's.
        notify: told once about a host key that has newly been recorded.
        connect_timeout: seconds to reach the host.
    """

    def __init__(
        self,
        host: str,
        port: int | None,
        credentials: Credentials,
        notify: Callable[[str], None],
        connect_timeout: float = 10.0,
    ):
        super().__init__()
        if credentials.password is not None:
            raise UsageError("OpenSSH takes no password from a program: use the paramiko transport")
        self._host, self._port, self._credentials = host, port, credentials
        self._notify, self._connect_timeout = notify, connect_timeout
        self._lock = threading.RLock()
        self._sessions = threading.BoundedSemaphore(SESSIONS)
        self._master: Master | None = None
        user = f"{credentials.ssh_user}@" if credentials.ssh_user else ""
        self.description = f"{user}{host}" + (f":{port}" if port else "")

    def open(self) -> None:
        self._opened()

    def _opened(self) -> Master:
        with self._lock:
            if self._master and self._master.alive():
                return self._master
            if self._master:
                self._master.close()
                self._master = None
            resolved = self._resolve()
            user, name, port = (resolved.get(key, "") for key in ("user", "hostname", "port"))
            self.description = f"{user}@{name}:{port}"
            key = self._credentials.ssh_private_key
            self._master = Master(
                self._arguments(), self._config(resolved), self.description, key, self._connect_timeout
            )
            self._tell_new_keys(self._master.said(), resolved)
            return self._master

    def close(self) -> None:
        with self._lock:
            if self._master:
                self._master.close()
                self._master = None

    def alive(self) -> bool:
        master = self._master
        return bool(master and master.alive())

    def connect(self, address: Address, timeout: float = 10.0) -> socket.socket:
        master = self._opened()
        if not master.forwards_allowed:
            return self._stream_through_command(master, address, timeout)
        try:
            return master.connect(address, timeout)
        except PermissionError:
            master.forwards_allowed = False
            return self._stream_through_command(master, address, timeout)
        except TimeoutError as error:
            raise HostUnreachable(
                f"{self.description} did not open a stream to {address} within {timeout:g} s"
            ) from error

    def forward(self, port: int, local_port: int = 0) -> Forward:
        master, target = self._opened(), ("127.0.0.1", port)
        if not master.forwards_allowed:
            return relay.listen(lambda: self.connect(target), local_port)
        for attempt in range(5):
            with relay.bound(local_port) as free:
                listen = ("127.0.0.1", free.getsockname()[1])
            try:
                with master.mux() as mux:
                    mux.open_forward(listen, target)
            except MuxError as error:  # somebody was faster
                if local_port or attempt == 4:
                    raise PortInUse(
                        f"port {listen[1]} of this machine cannot be forwarded to {self.description}: {error}"
                    ) from error
                continue
            break

        def close() -> None:
            with contextlib.suppress(OSError), master.mux() as mux:
                mux.close_forward(listen, target)

        return Forward(listen[1], close)

    def shell(self, command: str | None = None) -> int:
        return subprocess.call([*self._opened().client("-t"), *([command] if command else [])])

    def _execute(self, script: str, feed: Iterable[bytes] | None, on_output: OnOutput, timeout: float | None) -> int:
        command = login_command(script)
        master = self._opened()
        seen = PidFilter(on_output)
        with self._sessions:
            running = process.start([*master.client(), command], feed=feed is not None)
            try:
                code = process.pump(running, feed, seen, timeout)
            except BaseException:
                if seen.group and master.alive():
                    with contextlib.suppress(Exception):
                        ending = process.start([*master.client(), login_command(end_group(seen.group))], feed=False)
                        process.pump(ending, None, lambda name, chunk: None, 5)
                raise
            finally:
                process.discard(running)
        seen.finish()
        if code == 255 and not master.stays_alive():
            raise ssh_errors.lost(self.description, master.said())
        if code == 255 and seen.group is None:
            raise HostUnreachable(f"{self.description} did not run the command: {ssh_errors.last_line(seen.text)}")
        return code

    def _rsync_command(self) -> tuple[list[str], str] | None:
        return (["rsync", "-e", shlex.join(self._opened().client()[:-1])], "runkit:") if shutil.which("rsync") else None

    def _stream_through_command(self, master: Master, address: Address, timeout: float) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs, tempfile.TemporaryFile() as said:
            running = subprocess.Popen(
                [*master.client(), login_command(streams.script(address))],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=said.fileno(),
                env=environment(),
                start_new_session=True,
            )
            theirs.close()
            try:
                ours.settimeout(timeout)
                if ours.recv(1) == streams.CONNECTED:
                    ours.settimeout(None)
                    threading.Thread(target=running.wait, name="runkit-stream", daemon=True).start()
                    return ours
                process.discard(running)
                said.seek(0)
                raise streams.failure(said.read(), address, self.description)
            except BaseException as error:
                ours.close()
                process.discard(running)
                if isinstance(error, TimeoutError):
                    raise HostUnreachable(f"{self.description} did not open a stream within {timeout:g} s") from error
                raise

    def _arguments(self) -> list[str]:
        given = self._credentials
        options = ["-p", str(self._port)] if self._port else []
        options += ["-l", given.ssh_user] if given.ssh_user else []
        options += ["-i", given.ssh_private_key, "-o", "IdentitiesOnly=yes"] if given.ssh_private_key else []
        options += ["-o", f"ProxyJump={given.proxy}"] if given.proxy else []
        options += ["-o", f"ProxyCommand={given.ssh_proxy_command}"] if given.ssh_proxy_command else []
        return [*options, "--", self._host]

    def _resolve(self) -> dict[str, str]:
        """What the user's configuration says about this host."""
        file = user_config()
        own = ["-F", str(file)] if os.environ.get("RUNKIT_SSH_CONFIG") else []
        done = subprocess.run(
            ["ssh", *own, "-G", *self._arguments()],
            env=environment(),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            raise UsageError(f"ssh does not accept {self.description}: {done.stderr.strip()}")
        pairs = (line.partition(" ") for line in done.stdout.splitlines())
        return {name: value for name, _, value in pairs}

    def _config(self, resolved: dict[str, str]) -> str:
        """runkit's settings, then the user's. A file and not options, because hosts on the way (ProxyJump) get it too."""
        strict = "yes" if resolved.get("stricthostkeychecking") in ("yes", "true") else "accept-new"
        lines = [
            "IgnoreUnknown ForkAfterAuthentication,SessionType",
            "BatchMode yes",
            f"ConnectTimeout {max(1, round(self._connect_timeout))}",
            "ServerAliveInterval 5",
            "ServerAliveCountMax 3",
            f"StrictHostKeyChecking {strict}",
            "LogLevel INFO",
            "VisualHostKey no",
            "ClearAllForwardings yes",
            "PermitLocalCommand no",
            "ForkAfterAuthentication no",
        ]
        if file := known_hosts.chosen_file():
            lines.append(f'UserKnownHostsFile "{file}"')
        files = [user_config()] if os.environ.get("RUNKIT_SSH_CONFIG") else [user_config(), Path("/etc/ssh/ssh_config")]
        includes = [f'Include "{file}"' for file in files if file.exists()]
        if self._credentials.ssh_private_key:  # for hosts on the way, which otherwise have the user's own keys only
            includes.append(f'Host *\nIdentityFile "{self._credentials.ssh_private_key}"')
        return "\n".join(["Host *", *lines, *includes]) + "\n"

    def _tell_new_keys(self, said: str, resolved: dict[str, str]) -> None:
        file = str(
            known_hosts.chosen_file() or shlex.split(resolved.get("userknownhostsfile") or "~/.ssh/known_hosts")[0]
        )
        file = file.replace("~", str(known_hosts.account_home()), 1) if file.startswith("~/") else file
        for name, kind in re.findall(r"Permanently added '([^']+)' \((\w[\w-]*)\) to the list of known hosts", said):
            found = subprocess.run(["ssh-keygen", "-l", "-F", name, "-f", file], capture_output=True, text=True)
            prints = re.findall(r"SHA256:\S+", found.stdout)
            self._notify(known_hosts.newly_recorded(name, kind, prints[-1] if prints else "", file))


def user_config() -> Path:
    setting = os.environ.get("RUNKIT_SSH_CONFIG")
    return Path(setting).expanduser().absolute() if setting else known_hosts.account_home() / ".ssh" / "config"
