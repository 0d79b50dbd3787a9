"""With what to log in: the `ssh_creds` of a cluster, read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from runkit.errors import UsageError


@dataclass(frozen=True)
class Credentials:
    """What is not given comes from the user's SSH configuration, agent and default keys.

    Attributes:
        ssh_user: the account on the host.
        ssh_private_key: a key file; no other key is offered then.
        password: of the account, or of the key where one is given (paramiko alone can use it).
        proxy: "user@host:port" of a host to go through; several with commas (OpenSSH's ProxyJump).
        ssh_proxy_command: a command whose standard input and output lead to the host (OpenSSH's ProxyCommand).
    """

    ssh_user: str | None = None
    ssh_private_key: str | None = None
    password: str | None = field(default=None, repr=False)
    proxy: str | None = None
    ssh_proxy_command: str | None = None

    @classmethod
    def read(cls, given: Mapping[str, str | None] | None) -> Credentials:
        """Check what a user gave.

        Raises:
            UsageError: an unknown setting, a key file that cannot be read, a value that ssh would take for an option.
        """
        known = [each.name for each in fields(cls)]
        values = {name: value for name, value in (given or {}).items() if value is not None}
        if unknown := sorted(set(values) - set(known)):
            raise UsageError(f"ssh_creds: {', '.join(map(repr, unknown))} is unknown; there are {', '.join(known)}")
        for name, value in values.items():
            if not isinstance(value, str) or "\n" in value or (value.startswith("-") and name != "password"):
                raise UsageError(f"ssh_creds: {name} cannot be {'that' if name == 'password' else repr(value)}")
        if path := values.get("ssh_private_key"):
            key = Path(path).expanduser().absolute()
            try:
                key.open("rb").close()
            except OSError as error:
                raise UsageError(f"ssh_creds: the key {path} cannot be read: {error.strerror}") from None
            values["ssh_private_key"] = str(key)
        return cls(**values)
