"""The first `.to()` of an env with numpy, one that cannot be, and the time until a dead worker's env answers again."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy
import uv

import runkit as rk
from benchmarks.measures.session import Session, cluster_on
from benchmarks.place import PLACE
from benchmarks.stats import median, timed
from tests.hosts import Host

# Each is new to the host, which builds an env once: pinned, none twice, and not the one of the calls' env.
NUMPYS = [
    version
    for version in ("2.2.5", "2.2.4", "2.2.3", "2.2.2", "2.2.1", "2.2.0", "2.1.3", "2.1.2", "2.1.1", "2.1.0")
    if version != numpy.__version__
]


def first_numpy(session: Session, other: Host, rounds: int) -> dict[str, Any]:
    """`.to()` of an env that this host has never seen, resolved anew; its wheel is in uv's cache, because it went to another host."""
    warm = cluster_on(other, "bench-warm").up_if_not()
    times = []
    function = rk.function(session.functions.echo)  # type: ignore[union-attr]  # open() has set it
    for version in NUMPYS[:rounds]:

        def send(cluster: Any, version: str = version) -> Any:
            return function.to(cluster, env=rk.env(name=f"numpy-{version}", reqs=[f"numpy=={version}"]))

        send(warm)
        shutil.rmtree(
            PLACE / "home" / "locks", ignore_errors=True
        )  # where the client keeps resolutions of the last day
        times.append(timed(lambda send=send: send(session.cluster)))
        assert send(session.cluster)(1) == 1
    warm.stop_server()
    return {"first_numpy": median(times), "rounds": times}


def conflict(session: Session, rounds: int) -> dict[str, Any]:
    """From `.to()` of requirements that contradict each other to the error that says so, next to uv's own explanation.

    Both with an empty cache of uv's, so that what is on the index has to be asked for.
    """
    contradicting = ["requests==2.31.0", "urllib3==1.20"]
    env = rk.env(name="impossible", reqs=contradicting, root_reqs=False)
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text("\n".join(contradicting) + "\n")

        def explained() -> None:
            said = ""
            try:
                env.to(session.cluster)
            except rk.errors.RequirementsConflict as error:
                said = str(error)
            assert "urllib3>=1.21.1,<3: requests 2.31.0 depends on it" in said

        def by_uv() -> None:
            done = subprocess.run([uv.find_uv_bin(), "pip", "compile", str(file)], capture_output=True, text=True)
            assert "unsatisfiable" in done.stderr

        for number in range(rounds):
            for work, times in ((explained, ours), (by_uv, theirs)):
                os.environ["UV_CACHE_DIR"] = f"{folder}/{work.__name__}-{number}"
                times.append(timed(work))
        del os.environ["UV_CACHE_DIR"]
    return {"conflict": median(ours), "conflict_uv": median(theirs)}


def worker_restart(session: Session, rounds: int) -> float:
    """Seconds from `WorkerDied` to the result of the next call in that env."""
    env = rk.env(name="mortal", reqs=[])
    die = rk.function(session.functions.die).to(session.cluster, env=env)  # type: ignore[union-attr]  # as above
    echo = rk.function(session.functions.echo).to(session.cluster, env=env)  # type: ignore[union-attr]
    times = []
    for _ in range(max(5, rounds)):
        assert echo(1) == 1
        try:
            die()
        except rk.errors.WorkerDied:
            begin = time.perf_counter()
        assert echo(2) == 2
        times.append(time.perf_counter() - begin)
    return median(times)
