"""Runhouse 0.0.42, in a venv of its own on both sides."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import Any

from benchmarks.place import MARK, Absent, end_marked, python_of_host, venv
from tests.hosts import Host

REQUIREMENTS = ("runhouse[server]==0.0.42", "setuptools<70", "numpy", "pip")


def measure(host: Host, root: Path, calls: int) -> dict[str, Any]:
    """Its import, server start, `.to()`, calls and bulk, in seconds and bytes per second."""
    if not host.isolated:
        raise Absent(
            "its start ends every Ray that this user runs on port 6379, so it needs a host with processes of its own"
        )
    binaries = venv("runhouse", python_of_host(host), *REQUIREMENTS)
    mark = uuid.uuid4().hex
    bashrc = host.home / ".bashrc"  # of the host's own home, read by its non-interactive shells
    before = bashrc.read_text() if bashrc.exists() else None
    home = Path(tempfile.mkdtemp(prefix="rbrh"))
    (home / ".ssh").mkdir(mode=0o700)
    (home / ".ssh" / "known_hosts").write_text(host.known_hosts_line + "\n")
    patience = "RAY_raylet_start_wait_time_s=120"  # it gives up after 30 s, which a busy machine can need
    bashrc.write_text(f"export PATH={binaries}:$PATH {MARK}={mark} {patience}\n")
    bashrc.chmod(0o644)
    try:
        done = subprocess.run(
            [
                str(binaries / "python"),
                str(Path(__file__).parent / "jobs/runhouse_client.py"),
                host.address,
                str(host.port),
                host.user,
                str(host.key),
                str(root),
                str(calls),
            ],
            env={
                **os.environ,
                "HOME": str(home),
                "PATH": f"{binaries}:{os.environ['PATH']}",
                "DISABLE_DATA_COLLECTION": "true",
            },
            text=True,
            capture_output=True,
            timeout=600,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise Absent("it did not finish within ten minutes") from error
    finally:
        bashrc.unlink() if before is None else bashrc.write_text(before)
        end_marked(host, mark)
        shutil.rmtree(home, ignore_errors=True)
    if done.returncode:
        raise Absent(f"it ended with exit code {done.returncode}: {done.stderr.strip()[-800:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))
