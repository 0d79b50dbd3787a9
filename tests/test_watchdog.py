"""A test run that is killed leaves nothing running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from runkit.servlet.processes import ProcessId
from tests.calls.clients import until
from tests.hosts import REPOSITORY

RUN = """
import os, subprocess, sys, time
from tests.watchdog import watched_folder
folder = watched_folder("rkw")
(folder / "file").touch()
quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
sleeper = [sys.executable, "-c", "import time; time.sleep(1000)"]
named = subprocess.Popen([*sleeper, str(folder)], start_new_session=True, **quiet)
marked = subprocess.Popen(sleeper, start_new_session=True, env={**os.environ, "RUNKIT_HOME": f"{folder}/home"}, **quiet)
other = subprocess.Popen(sleeper, start_new_session=True, **quiet)
print(folder, named.pid, marked.pid, other.pid, flush=True)
time.sleep(1000)
"""


def alive(pid: int) -> bool:
    found = ProcessId.of(pid)
    return found is not None and found.alive()


def test_what_a_killed_run_started_ends_and_nothing_else() -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen([sys.executable, "-c", RUN], stdout=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout
        folder, *pids = run.stdout.readline().split()
        run.send_signal(signal.SIGKILL)
    named, marked, other = (int(pid) for pid in pids)
    try:
        assert until(lambda: not Path(folder).exists())
        assert [alive(pid) for pid in (named, marked, other)] == [False, False, True]
    finally:
        os.kill(other, signal.SIGKILL)
