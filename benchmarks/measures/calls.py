"""The no-op call: how long one takes, and how many a second go with 64 in flight."""

from __future__ import annotations

import collections
from typing import Any

from benchmarks.measures.session import Session
from benchmarks.peers import echo, ray
from benchmarks.place import Absent
from benchmarks.stats import Spread, median, repeated, timed

IN_FLIGHT = 64


def measure(session: Session, rounds: int, calls: int = 2000, burst: int = 20_000) -> dict[str, Any]:
    """Alternates runkit, Ray's actor call and the raw tunnel; medians over the rounds."""
    call = session.send()
    repeated(lambda: call(1), 200)
    ours: list[Spread] = []
    rates: list[float] = []
    rays: list[Spread] = []
    raw: list[Spread] = []
    out: dict[str, Any] = {}
    try:
        with ray.actor(session.host) as ask:
            ask(calls=200)
            for _ in range(rounds):
                ours.append(Spread.of(repeated(lambda: call(1), calls)))
                rays.append(Spread.of(ask(calls=calls)))
    except Absent as reason:
        out["ray_absent"] = str(reason)
        ours = [Spread.of(repeated(lambda: call(1), calls)) for _ in range(rounds)]
    for _ in range(rounds):
        rates.append(burst / timed(lambda: _in_flight(call, burst)))
    with echo.server(session.host) as port, session.cluster.forward(port) as forward:
        connection = echo.Echo(forward.local_port)
        raw = [Spread.of(connection(bytes(300)) for _ in range(calls)) for _ in range(rounds)]
        connection.close()
    out.update(
        p50=median(s.p50 for s in ours),
        p99=median(s.p99 for s in ours),
        p99_over_p50=median(s.p99 / s.p50 for s in ours),
        per_second=median(rates),
        tunnel_p50=median(s.p50 for s in raw),
    )
    if rays:
        out.update(
            ray_p50=median(s.p50 for s in rays),
            over_ray=median(mine.p50 / theirs.p50 for mine, theirs in zip(ours, rays, strict=True)),
        )
    return out


def _in_flight(call: Any, count: int) -> None:
    flight: collections.deque[Any] = collections.deque()
    for i in range(count):
        flight.append(call.submit(i))
        if len(flight) >= IN_FLIGHT:
            flight.popleft().result()
    for future in flight:
        future.result()
