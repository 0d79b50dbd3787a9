"""Ray: a synchronous actor call inside its cluster, and `ray start --head`."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.place import MARK, PLACE, Asker, end_marked, far, python_of_host, venv
from tests.hosts import Host

VERSION = "2.60.0"
PORT = 41800  # none of Ray's defaults, which may belong to somebody


def bin_of(host: Host) -> Path:
    return venv("ray", python_of_host(host), f"ray=={VERSION}")


@contextmanager
def actor(host: Host) -> Iterator[Asker]:
    """A Ray of its own on the host with one actor in it; asked for `calls=n` it gives n times."""
    mark = uuid.uuid4().hex
    temp = f"/tmp/rb{mark[:6]}"
    try:
        with far(host, f"{MARK}={mark} exec {bin_of(host)}/python -u {PLACE}/jobs/ray_actor.py {temp}") as ask:
            yield ask
    finally:
        end_marked(host, mark)
        host.run(f"rm -rf {temp}")


def start_head(host: Host) -> float:
    """Seconds that `ray start --head` takes; what it started is ended again."""
    mark = uuid.uuid4().hex
    temp = f"/tmp/rb{mark[:6]}"
    binaries = bin_of(host)
    try:
        done = host.run(f"{MARK}={mark} {binaries}/python {PLACE}/jobs/ray_start.py {binaries}/ray {temp} {PORT}")
        return float(json.loads(done.stdout))
    finally:
        end_marked(host, mark)
        host.run(f"rm -rf {temp}")
