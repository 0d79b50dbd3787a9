"""Where runkit keeps things, on either side.

`RUNKIT_HOME` (default `~/.runkit`) holds what lasts and may lie on a shared disk. Sockets, pids and Ray's files lie in a short
folder of this host alone, because a UNIX socket's path holds 107 bytes and a home may be shared by NFS.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from runkit.errors import UsageError


def home() -> Path:
    """The lasting folder, made private to the user."""
    return private(Path(os.environ.get("RUNKIT_HOME") or "~/.runkit").expanduser())


def runtime_root() -> Path:
    """The folder of this host and user for sockets and pids (0700)."""
    return private(Path(os.environ.get("RUNKIT_RUNTIME_DIR") or f"/tmp/runkit-{os.getuid()}"))


def runtime(port: int) -> Path:
    """The runtime folder of the server on `port`."""
    return private(runtime_root() / str(port))


def server_home(port: int) -> Path:
    """The lasting folder of the server on `port`: token, kept env requests, logs."""
    private(home() / "servers")
    return private(home() / "servers" / str(port))


def private(path: Path) -> Path:
    """Make the folder if needed; it belongs to this user alone afterwards (0700).

    Raises:
        UsageError: somebody else owns it, or it is a link.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = path.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
        raise UsageError(f"{path} is not a folder of this user: remove it, or set RUNKIT_HOME or RUNKIT_RUNTIME_DIR")
    if stat.S_IMODE(info.st_mode) & 0o077:
        path.chmod(0o700)
    return path
