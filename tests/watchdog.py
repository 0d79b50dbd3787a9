"""Ends what a test run leaves running when it is killed. `python tests/watchdog.py FOLDER`: waits for the end of its standard
input, which is the end of the run, then ends, by id, every process that names FOLDER, and removes FOLDER.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def watched_folder(prefix: str) -> Path:
    """A new folder in /tmp, with a short path because sockets lie in it.

    When this process has ended, however that came, the folder is removed, and what has its path in its environment or command
    line is ended.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    reader, _ = os.pipe()  # the other end is never closed: that is left to the end of this process
    subprocess.Popen(
        [sys.executable, "-I", __file__, str(folder)], stdin=reader, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    os.close(reader)
    return folder


def processes(folder: str) -> list[int]:
    """Every process of this user, but for this one, that has the folder's path in its environment or command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            text = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            if folder.encode() in text and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    folder = sys.argv[1]
    sys.stdin.read()
    deadline = time.monotonic() + 10
    while (left := processes(folder)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
