"""File storage over sftp: fsspec's file system, with the user's SSH configuration and known host keys."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import paramiko
from fsspec.implementations.sftp import SFTPFileSystem

from runkit.errors import HostKeyChanged, LoginRefused

_TIMEOUT_S = 20.0


class _Sftp(SFTPFileSystem):  # type: ignore[misc]  # fsspec has no types
    """fsspec's own accepts any host key and reads no configuration."""

    cachable = False

    def _connect(self) -> None:
        settings = self.ssh_kwargs
        client = paramiko.SSHClient()
        if settings["known_hosts"].exists():
            client.load_system_host_keys(str(settings["known_hosts"]))
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        try:
            client.connect(
                settings["hostname"],
                settings["port"],
                settings["user"],
                key_filename=settings["keys"] or None,
                sock=settings["proxy"],
                look_for_keys=not settings["only"],
                allow_agent=not settings["only"],
                timeout=_TIMEOUT_S,
                banner_timeout=_TIMEOUT_S,
                auth_timeout=_TIMEOUT_S,
            )
        except paramiko.BadHostKeyException as error:
            raise HostKeyChanged(f"the host key of {self.host} is not the one in known_hosts") from error
        except paramiko.AuthenticationException as error:
            raise LoginRefused(f"{settings['user']}@{self.host} refused the keys of this machine: {error}") from error
        except paramiko.SSHException as error:
            if "No authentication methods" in str(error):
                raise LoginRefused(f"this machine has no key for {settings['user']}@{self.host}") from error
            if "not found in known_hosts" in str(error):
                raise LoginRefused(
                    f"the host key of {self.host} is not in {settings['known_hosts']}: log in once with `ssh {self.host}`"
                ) from error
            raise
        self.client = client
        self.ftp = client.open_sftp()


def connect(url: str) -> tuple[SFTPFileSystem, str]:
    """The file system of an `sftp://user@host:port/path` URL, and the path.

    Raises:
        LoginRefused: the host refused the user's keys, or its own key is not known here.
        HostKeyChanged: it shows another key than the one known here.
    """
    parts = urlsplit(url)
    name = parts.hostname or ""
    home = Path(pwd.getpwuid(os.getuid()).pw_dir) / ".ssh"  # as OpenSSH: the account's home, not $HOME
    config = paramiko.SSHConfig()
    file = Path(os.environ.get("RUNKIT_SSH_CONFIG") or home / "config").expanduser()
    if file.exists():
        with file.open() as lines:
            config.parse(lines)
    found: Any = config.lookup(name)
    host, port = found.get("hostname", name), parts.port or int(found.get("port", 22))
    user = unquote(parts.username or "") or found.get("user") or pwd.getpwuid(os.getuid()).pw_name
    command = found.get("proxycommand")
    if jump := found.get("proxyjump"):
        command = f"ssh -W {host}:{port} {jump}"
    system = _Sftp(
        name,
        hostname=host,
        port=port,
        user=user,
        keys=[key for path in found.get("identityfile", []) if os.path.exists(key := os.path.expanduser(path))],
        only=found.get("identitiesonly", "no") == "yes",
        proxy=paramiko.ProxyCommand(command) if command and command.lower() != "none" else None,
        known_hosts=Path(os.environ.get("RUNKIT_KNOWN_HOSTS") or home / "known_hosts").expanduser(),
    )
    return system, unquote(parts.path)
