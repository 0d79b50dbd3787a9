"""rsync of the same root, over SSH with one multiplexed master, as a careful user would run it."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.place import Absent
from tests.hosts import Host


@contextmanager
def mirror(host: Host, root: Path) -> Iterator[Callable[[], None]]:
    """A function that brings the root's mirror on the host up to date."""
    if not shutil.which("rsync") or host.run("command -v rsync", check=False).returncode:
        raise Absent("rsync is missing here or on the host")
    with tempfile.TemporaryDirectory(prefix="rb", dir="/tmp") as folder:
        options = ["-o", f"ControlPath={folder}/%C"]
        master = subprocess.Popen(
            [*host.ssh("-M", "-N", *options)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        login = host.ssh(*options)
        command = ["rsync", "--archive", "--delete", "-e", " ".join(login[:-1]), f"{root}/", f"{login[-1]}:rsync-peer/"]
        try:
            yield (
                lambda: (
                    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) and None
                )
            )
        finally:
            master.terminate()
            master.wait()
            host.run("rm -rf rsync-peer")
