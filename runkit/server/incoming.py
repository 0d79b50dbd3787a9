"""What is on its way into a folder of this host's home: named by whose it is, so that what a killed server left can be removed."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from runkit.servlet.processes import ProcessId

_PREFIX = ".incoming"


def prefix() -> str:
    """How the names of this process's unfinished files and folders begin."""
    me = ProcessId.of(os.getpid()) or ProcessId(os.getpid(), 0)
    return f"{_PREFIX}.{platform.node()}.{me.pid}-{me.started}."


def sweep(folder: Path) -> None:
    """Remove what processes of this host that have ended left unfinished; another host that has the same home does so itself."""
    for path in folder.glob(f"{_PREFIX}.*"):
        host, _, whose = path.name.removeprefix(f"{_PREFIX}.").rpartition(".")[0].rpartition(".")
        pid, _, started = whose.partition("-")
        if host != platform.node() or not (pid.isdigit() and started.isdigit()):
            continue
        if not ProcessId(int(pid), int(started)).alive():
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
