"""How a host is reached: one small interface (`base.Transport`) and three backends that pass one conformance suite.

`openssh` (the machine's own ssh), `paramiko` (no ssh binary, or a password), `local` (this machine).
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping

from runkit.errors import UsageError
from runkit.transport.base import Address, Completed, Forward, Transport
from runkit.transport.credentials import Credentials

__all__ = ["Address", "Completed", "Credentials", "Forward", "Transport", "make_transport"]


def make_transport(
    host: str | None,
    ssh_port: int | None = None,
    ssh_creds: Mapping[str, str | None] | None = None,
    *,
    notify: Callable[[str], None] | None = None,
    connect_timeout: float = 10.0,
    backend: str | None = None,
) -> Transport:
    """The transport to a host, not yet opened.

    Args:
        host: a name, an address or a Host alias of `~/.ssh/config`, also as user@host; None is this machine.
        ssh_port: None: what the SSH configuration says, else 22.
        ssh_creds: see `Credentials`.
        notify: told about a host key that has newly been recorded; printed on standard error otherwise.
        connect_timeout: seconds to reach the host.
        backend: "openssh", "paramiko" or "local"; otherwise OpenSSH where `ssh` exists and no password is given.

    Raises:
        UsageError: something in it cannot be meant.

    >>> make_transport("gpu.example.org", ssh_creds={"ssh_user": "me"})
    OpenSSH('me@gpu.example.org')
    """
    if host is None or backend == "local":
        from runkit.transport.local import Local  # noqa: PLC0415  (backends are imported when they are chosen)

        return Local()
    user, _, host = host.rpartition("@")
    if not host or host.startswith("-") or any(character.isspace() for character in host):
        raise UsageError(f"{host!r} is not the name of a host")
    if ssh_port is not None and not (isinstance(ssh_port, int) and 0 < ssh_port < 65536):
        raise UsageError(f"{ssh_port!r} is not a port")
    given = dict(ssh_creds or {})
    if user and given.setdefault("ssh_user", user) != user:
        raise UsageError(f"ssh_creds: ssh_user is {given['ssh_user']!r}, but the host is given as {user}@{host}")
    credentials = Credentials.read(given)
    tell = notify or (lambda text: print(f"runkit: {text}", file=sys.stderr))  # noqa: T201
    chosen = backend or ("openssh" if shutil.which("ssh") and credentials.password is None else "paramiko")
    if chosen == "openssh":
        from runkit.transport.openssh import OpenSSH  # noqa: PLC0415

        return OpenSSH(host, ssh_port, credentials, tell, connect_timeout)
    if chosen == "paramiko":
        from runkit.transport.paramiko import Paramiko  # noqa: PLC0415  (a tenth of a second)

        return Paramiko(host, ssh_port, credentials, tell, connect_timeout)
    raise UsageError(f"there is no transport {backend!r}: openssh, paramiko, local")
