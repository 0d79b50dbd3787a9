"""The first `.to()` of an env with numpy, and the time until a dead worker's env answers again."""

from __future__ import annotations

import time
from typing import Any

import runkit as rk
from benchmarks.measures.session import Session, cluster_on
from benchmarks.stats import median, timed
from tests.hosts import Host

NUMPYS = (
    "numpy",
    "numpy==2.2.5",
    "numpy==2.2.4",
    "numpy==2.2.3",
    "numpy==2.2.2",
)  # each new to the host: an env is built once


def first_numpy(session: Session, other: Host, rounds: int) -> dict[str, Any]:
    """`.to()` of an env whose wheel the client has (it went to another host before) and this host has never seen."""
    warm = cluster_on(other, "bench-warm").up_if_not()
    times = []
    for number, requirement in enumerate(NUMPYS[:rounds]):
        function = rk.function(session.functions.echo)  # type: ignore[union-attr]  # open() has set it

        def send(
            cluster: Any, name: str = f"numpy{number}", requirement: str = requirement, function: Any = function
        ) -> Any:
            return function.to(cluster, env=rk.env(name=name, reqs=[requirement]))

        send(warm)
        times.append(timed(lambda send=send: send(session.cluster)))
        assert send(session.cluster)(1) == 1
    warm.stop_server()
    return {"first_numpy": median(times), "rounds": times}


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
