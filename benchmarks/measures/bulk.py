"""A 256 MiB array there and back: its rate next to a raw echo, small calls meanwhile, the client's memory."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from typing import Any

import numpy

from benchmarks.measures.session import Session
from benchmarks.peers import echo
from benchmarks.stats import Spread, median, timed

SIZE = 256 * 2**20


def measure(session: Session, rounds: int) -> dict[str, Any]:
    """Alternates runkit and a raw echo through the same SSH session; bytes per second, both ways counted."""
    call = session.send()
    array = numpy.arange(SIZE // 8, dtype=numpy.float64)
    result = call(array)
    assert numpy.array_equal(result, array)
    del result
    ours, raw = [], []
    with echo.server(session.host) as port, session.cluster.forward(port) as forward:
        connection = echo.Echo(forward.local_port)
        connection(memoryview(array).cast("B"))
        for _ in range(rounds):
            ours.append(2 * SIZE / timed(lambda: call(array)))
            raw.append(2 * SIZE / connection(memoryview(array).cast("B")))
        connection.close()
    small: list[float] = []
    for _ in range(rounds):
        small += _small_meanwhile(call, array)
    return {
        "rate": median(ours),
        "raw_rate": median(raw),
        "over_raw": median(mine / theirs for mine, theirs in zip(ours, raw, strict=True)),
        "small_meanwhile": vars(Spread.of(small)),
        "memory_over_array": memory(session, rounds),
    }


def _small_meanwhile(call: Any, array: Any) -> list[float]:
    """Times of no-op calls, one after the other, while the array travels."""
    big = threading.Thread(target=call, args=(array,))
    times: list[float] = []
    big.start()
    while big.is_alive():
        times.append(timed(lambda: call(1)))
        time.sleep(0.001)
    big.join()
    return times


def memory(session: Session, rounds: int) -> float:
    """Peak memory of a client process above its idle state, in arrays."""
    host = session.host
    question = {
        "host": host.address,
        "ssh_port": host.port,
        "ssh_creds": host.ssh_creds,
        "server_port": host.server_port,
        "root": str(session.root),
        "size": SIZE,
    }
    peaks = []
    for _ in range(rounds):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.measures.memory_child", json.dumps(question)],
            text=True,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"the memory child failed: {done.stderr}")
        peaks.append(float(json.loads(done.stdout.splitlines()[-1])))
    return median(peaks)
