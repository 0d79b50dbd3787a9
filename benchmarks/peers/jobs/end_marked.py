"""Ends this user's processes that have NAME=VALUE in their environment. Usage: end_marked.py NAME VALUE"""

import os
import signal
import sys
import time

mark = f"{sys.argv[1]}={sys.argv[2]}".encode()


def marked():
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                with open(f"/proc/{entry}/environ", "rb") as file:
                    if mark in file.read().split(b"\0"):
                        yield int(entry)
            except OSError:
                pass  # ended, or somebody else's


deadline = time.monotonic() + 10
while pids := list(marked()):
    if time.monotonic() > deadline:
        sys.exit(f"these do not end: {pids}")
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
    time.sleep(0.05)
