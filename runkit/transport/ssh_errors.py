"""What OpenSSH says on standard error, as runkit's errors."""

from __future__ import annotations

import re
import subprocess

from runkit.errors import AuthenticationFailed, HostError, HostUnreachable
from runkit.transport import known_hosts
from runkit.transport.base import Address


def explain(description: str, key: str | None, said: str) -> HostError:
    """The error for a master that did not come up.

    Args:
        key: the private key's file that was to be used, if one was given.
        said: what ssh wrote on standard error.
    """
    if "IDENTIFICATION HAS CHANGED" in said or ("host key for" in said and "has changed" in said):
        place = re.search(r"Offending \S+ key in (\S.*?):(\d+)", said)
        shown = re.search(r"SHA256:[A-Za-z0-9+/]+", said)
        lookup = re.search(r"Host key for (\S+) has changed", said)
        file = place.group(1) if place else str(known_hosts.default_file())
        return known_hosts.changed(
            description, f"{file}:{place.group(2)}" if place else file, shown.group() if shown else "",
            lookup.group(1) if lookup else description, file,
        )  # fmt: skip
    if "Host key verification failed" in said:
        return HostError(
            f"{description}: its host key is not known, and your SSH configuration wants it to be (StrictHostKeyChecking yes): "
            f"log in with ssh by hand once, or add the key to known_hosts. ssh says: {_said(said)}"
        )
    if "Permission denied" in said or "Too many authentication failures" in said:
        hint = f" with the key {key}" if key else " with your agent's keys and those of your SSH configuration"
        if "UNPROTECTED PRIVATE KEY" in said:
            hint += ", which others can read: chmod 600 it"
        elif key and _has_passphrase(key):
            hint += ", which has a passphrase: add it to the agent (ssh-add)"
        return AuthenticationFailed(f"{description} refused to let us in{hint}. ssh says: {_said(said)}")
    return HostUnreachable(f"{description} cannot be reached. ssh says: {_said(said)}")


def lost(description: str, said: str) -> HostUnreachable:
    """The error for a master that has ended."""
    return HostUnreachable(f"the connection to {description} was lost: {last_line(said) or 'ssh ended'}")


def stream_refused(address: Address, description: str, said: str) -> OSError:
    where = address if isinstance(address, str) else f"{address[0]}:{address[1]}"
    reason = (re.findall(r"open failed: (.*)", said) or ["refused"])[-1].strip()
    if "administratively prohibited" in reason or "unknown channel type" in reason:
        return PermissionError(f"{description} forbids forwarding: {reason}")
    return ConnectionRefusedError(f"nobody listens at {where} on {description}: {reason}")


def last_line(said: str) -> str:
    return next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "")


def _has_passphrase(key: str) -> bool:
    """Whether the key cannot be opened without one; `ssh` says nothing about it in batch mode."""
    done = subprocess.run(["ssh-keygen", "-y", "-P", "", "-f", key], capture_output=True, stdin=subprocess.DEVNULL)
    return b"incorrect passphrase" in done.stderr


def _said(said: str) -> str:
    lines = [
        line.strip()
        for line in said.splitlines()
        if line.strip() and "Permanently added" not in line and not line.startswith("@@")
    ]
    return "; ".join(lines[-4:]) or "nothing"
