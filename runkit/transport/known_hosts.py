"""Which file holds the keys of known hosts, and what to tell the user about them.

OpenSSH's own file is used, so what a person accepted with `ssh` counts here and the other way round. `RUNKIT_KNOWN_HOSTS` names
another one. As OpenSSH does, the home folder is looked up in the account, not in `$HOME`.
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import os
import pwd
from pathlib import Path

from runkit.errors import HostKeyChanged


def account_home() -> Path:
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:  # a container's user of whom /etc/passwd knows nothing
        return Path(os.environ.get("HOME") or "/")


def user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def chosen_file() -> Path | None:
    """The file that `RUNKIT_KNOWN_HOSTS` names; its folder is made."""
    setting = os.environ.get("RUNKIT_KNOWN_HOSTS")
    if not setting:
        return None
    path = Path(setting).expanduser().absolute()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def default_file() -> Path:
    return chosen_file() or account_home() / ".ssh" / "known_hosts"


def fingerprint(key: bytes) -> str:
    """A public key's fingerprint as OpenSSH writes it: "SHA256:..."."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def newly_recorded(name: str, kind: str, print_: str, file: str) -> str:
    return f"{name} was not known: its {kind} host key {print_} has been recorded in {file}"


def record(file: Path, line: str) -> None:
    """Add a key to the file."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(file, "a+b", opener=lambda path, flags: os.open(path, flags, 0o600)) as lines:
        lines.seek(0, os.SEEK_END)
        if lines.tell():
            lines.seek(-1, os.SEEK_END)
            if lines.read(1) != b"\n":
                line = "\n" + line
        lines.write(line.encode() + b"\n")


def changed(name: str, place: str, shown: str, lookup: str, file: str) -> HostKeyChanged:
    """The error for a host that shows another key than the recorded one.

    Args:
        place: the recorded key's "file:line".
        shown: the fingerprint of the key it shows, or "".
        lookup: the host's name in known_hosts ("[10.77.0.1]:2222").
    """
    key = f" ({shown})" if shown else ""
    return HostKeyChanged(
        f"{name} shows another host key{key} than the one recorded in {place}. Either the host was set up anew or somebody is "
        f"listening in. If you know it is the former, forget the old key with: ssh-keygen -f '{file}' -R '{lookup}'"
    )
