"""How paramiko finds its way to a host and logs in, by OpenSSH's rules for configuration and host keys."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paramiko

from runkit.errors import AuthenticationFailed, HostUnreachable, UsageError
from runkit.transport import known_hosts
from runkit.transport.credentials import Credentials

INTERVAL, SILENCE = 5.0, 10.0  # seconds between questions whether the host is there, and to wait for the answer
DEFAULT_KEYS = ("id_rsa", "id_ecdsa", "id_ed25519")  # in OpenSSH's order


@dataclass(frozen=True)
class Jump:
    """A host on the way."""

    host: str
    port: int | None
    credentials: Credentials


@dataclass(frozen=True)
class Route:
    """Where a host is and with what to log in, after the SSH configuration has been read."""

    address: str
    port: int
    user: str
    key_files: tuple[str, ...]
    agent: bool
    password: str | None = field(repr=False)
    proxy_command: str | None
    jump: Jump | None
    key_given: bool

    @property
    def lookup(self) -> str:
        """The host's name in known_hosts."""
        return self.address if self.port == 22 else f"[{self.address}]:{self.port}"


def route(host: str, port: int | None, credentials: Credentials) -> Route:
    """Read the user's SSH configuration for `host`; what is given comes first."""
    setting = os.environ.get("RUNKIT_SSH_CONFIG")
    ssh_folder = known_hosts.account_home() / ".ssh"
    config = paramiko.SSHConfig()
    for file in (Path(setting).expanduser(),) if setting else (ssh_folder / "config", Path("/etc/ssh/ssh_config")):
        if file.exists():
            with file.open() as lines:
                config.parse(lines)
    try:
        found: Any = config.lookup(host)
    except paramiko.ConfigParseError as error:
        raise UsageError(f"the SSH configuration cannot be read: {error}") from error
    key = credentials.ssh_private_key
    named = [key] if key else [os.path.expanduser(path) for path in found.get("identityfile", [])]
    key_files = named or [str(ssh_folder / name) for name in DEFAULT_KEYS]
    through = credentials.proxy or (None if credentials.ssh_proxy_command else found.get("proxyjump"))
    address = found["hostname"]
    port = port or int(found.get("port", 22))
    user = credentials.ssh_user or found.get("user") or known_hosts.user_name()
    command = None if through else credentials.ssh_proxy_command or found.get("proxycommand")
    if credentials.ssh_proxy_command and command:
        for token, value in (("%h", address), ("%p", str(port)), ("%r", user), ("%%", "%")):
            command = command.replace(token, value)
    only = bool(key) or found.get("identitiesonly", "no") == "yes"
    return Route(
        address=address,
        port=port,
        user=user,
        key_files=tuple(path for path in key_files if Path(path).exists()),
        agent=not only and credentials.password is None,
        password=credentials.password,
        proxy_command=None if command in (None, "none") else command,
        jump=None if through in (None, "none") else _jump(through, credentials),
        key_given=bool(key),
    )


def _jump(text: str, credentials: Credentials) -> Jump:
    """The last of the hosts in "user@host:port,..."; the others lead to it."""
    before, _, last = text.rpartition(",")
    match = re.fullmatch(r"(?:ssh://)?(?:([^@]+)@)?(\[[^]]+\]|[^:]+)(?::(\d+))?", last.strip())
    if not match:
        raise UsageError(f"{text!r} does not name a host to go through: user@host:port")
    user, host, port = match.groups()
    own = Credentials(
        ssh_user=user, ssh_private_key=credentials.ssh_private_key, password=credentials.password, proxy=before or None
    )
    return Jump(host.strip("[]"), int(port) if port else None, own)


def log_in(
    to: Route, way: Any, notify: Callable[[str], None], timeout: float
) -> tuple[paramiko.Transport, dict[str, Any]]:
    """Log in through a connected socket.

    Returns:
        the connection, and what worked as arguments of sshtunnel's SSHTunnelForwarder.
    """
    name = f"{to.user}@{to.address}:{to.port}"
    try:
        transport = paramiko.Transport(way)
        transport.banner_timeout = transport.auth_timeout = timeout
        recorded = _recorded(to)
        known_first = [kind for _, key in recorded for kind in _algorithms(key.get_name())]
        options = transport.get_security_options()
        options.key_types = [k for k in known_first if k in options.key_types] + [
            k for k in options.key_types if k not in known_first
        ]
        transport.start_client(timeout=timeout)
    except (paramiko.SSHException, EOFError, OSError) as error:
        _close(way)
        raise HostUnreachable(f"{name} cannot be reached: {error or 'it closed the connection'}") from error
    try:
        shown = transport.get_remote_server_key()
        _check_host_key(to, name, shown, recorded, notify)
        worked = _authenticate(transport, to, name)
    except BaseException as error:
        transport.close()
        if isinstance(error, (EOFError, paramiko.SSHException)):
            raise HostUnreachable(f"{name} closed the connection while we logged in: {error}") from error
        raise
    threading.Thread(target=_watch, args=(transport,), name="runkit-alive", daemon=True).start()
    return transport, {"ssh_username": to.user, "ssh_host_key": shown, **worked}


def _watch(transport: paramiko.Transport) -> None:
    """End the connection to a host that has fallen silent; paramiko's own keepalive asks for no answer."""
    while transport.is_active():
        silence = threading.Timer(SILENCE, transport.close)
        silence.start()
        with contextlib.suppress(EOFError, OSError, paramiko.SSHException):  # it has just ended
            transport.global_request("keepalive@openssh.com", wait=True)
        silence.cancel()
        time.sleep(INTERVAL)


def _authenticate(transport: paramiko.Transport, to: Route, name: str) -> dict[str, Any]:
    refusals: list[str] = []
    agent = paramiko.Agent() if to.agent else None
    keys: list[tuple[str, Any]] = (
        [(f"the agent's key {key.get_fingerprint().hex()[:12]}", key) for key in agent.get_keys()] if agent else []
    )
    for path in to.key_files:
        try:
            keys.append((path, _load(path, to.password)))
        except (paramiko.SSHException, ValueError, OSError) as error:
            refusals.append(f"{path} (unusable: {error})")
    for label, key in keys:
        try:
            transport.auth_publickey(to.user, key)
            return {"ssh_pkey": key}
        except paramiko.AuthenticationException as error:
            refusals.append(f"{label} ({str(error).rstrip('.')})")
    if to.password is not None and not to.key_given:
        try:
            transport.auth_password(to.user, to.password)
            return {"ssh_password": to.password}
        except paramiko.AuthenticationException as error:
            refusals.append(f"the password ({str(error).rstrip('.')})")
    raise AuthenticationFailed(f"{name} refused to let us in; tried {'; '.join(refusals) or 'nothing'}")


def _load(path: str, password: str | None) -> paramiko.PKey:
    """Read a private key, with `password` as its passphrase if it has one."""
    errors: list[str] = []
    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        try:
            return kind.from_private_key_file(path, password)
        except paramiko.PasswordRequiredException:
            raise paramiko.SSHException(
                "it has a passphrase: add the key to the agent, or give it as password"
            ) from None
        except paramiko.SSHException as error:
            errors.append(str(error))
    raise paramiko.SSHException(errors[0])


def _algorithms(kind: str) -> list[str]:
    """The signature algorithms of a type of key (RFC 8332 gave RSA two more)."""
    return ["rsa-sha2-512", "rsa-sha2-256", "ssh-rsa"] if kind == "ssh-rsa" else [kind]


def _recorded(to: Route) -> list[tuple[str, paramiko.PKey]]:
    """The host's recorded keys, each with its "file:line". A line that cannot be read is passed over, as OpenSSH does."""
    found = []
    for file in (known_hosts.default_file(), Path("/etc/ssh/ssh_known_hosts")):
        lines = file.read_text(errors="replace").splitlines() if file.exists() else []
        for number, line in enumerate(lines, 1):
            with contextlib.suppress(Exception):  # a damaged line may raise anything
                entry = paramiko.hostkeys.HostKeyEntry.from_line(line.strip(), number)
                if entry is not None and any(_is_named(name, to.lookup) for name in entry.hostnames):
                    found.append((f"{file}:{number}", entry.key))
    return found


def _is_named(recorded: str, lookup: str) -> bool:
    """Whether a name in known_hosts, which may be hashed, is the host's."""
    return recorded == (paramiko.HostKeys.hash_host(lookup, recorded) if recorded.startswith("|1|") else lookup)


def _check_host_key(
    to: Route,
    name: str,
    shown: paramiko.PKey,
    recorded: list[tuple[str, paramiko.PKey]],
    notify: Callable[[str], None],
) -> None:
    file = known_hosts.default_file()
    print_ = known_hosts.fingerprint(shown.asbytes())
    if not recorded:
        kind = shown.get_name().removeprefix("ssh-").upper()
        known_hosts.record(file, f"{to.lookup} {shown.get_name()} {shown.get_base64()}")
        notify(known_hosts.newly_recorded(to.lookup, kind, print_, str(file)))
    elif shown not in [key for _, key in recorded]:
        raise known_hosts.changed(name, recorded[0][0], print_, to.lookup, str(file))


def _close(way: Any) -> None:
    if isinstance(way, (socket.socket, paramiko.Channel, paramiko.ProxyCommand)):
        way.close()
