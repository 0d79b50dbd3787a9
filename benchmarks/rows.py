"""The table: what was measured, next to which peer, and what it should reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Figures = dict[str, dict[str, Any]]  # group -> figure -> value


@dataclass(frozen=True)
class Row:
    """One row. `reach` is a bound on `value`: at most, or, with `at_least`, at least."""

    what: str
    ours: str
    peer: str
    value: float
    unit: str  # "x", or a unit of its own
    reach: float | None
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        if self.reach is None:
            return None
        return self.value >= self.reach if self.at_least else self.value <= self.reach

    @property
    def bound(self) -> str:
        if self.reach is None:
            return "-"
        return f"{'at least' if self.at_least else 'at most'} {_plain(self.reach)} {self.unit}"

    @property
    def figure(self) -> str:
        return f"{_plain(self.value)} {self.unit}"


def rows(figures: Figures) -> list[Row]:
    """A row for everything that was measured; a row whose peer is absent keeps its own figure and says so."""
    found: list[Row] = []
    for make in _MAKERS:
        try:
            found += make(figures)
        except KeyError:
            continue  # that group was not asked for, or its peer is absent (the notes below the table say which)
    return found


def _calls_ray(f: Figures) -> list[Row]:
    c = f["calls"]
    return [
        Row(
            "warm no-op call over SSH, p50",
            _ms(c["p50"]),
            f"Ray actor call {_ms(c['ray_p50'])}",
            c["over_ray"],
            "x",
            0.7,
        )
    ]


def _calls_runhouse(f: Figures) -> list[Row]:
    c, r = f["calls"], f["runhouse"]
    quiet, streaming = r["call_quiet"]["p50"], r["call_streaming"]["p50"]
    return [
        Row(
            "the same, times faster than quiet Runhouse",
            _ms(c["p50"]),
            f"Runhouse {_ms(quiet)}",
            quiet / c["p50"],
            "x",
            25,
            True,
        ),
        Row(
            "the same, prints streamed (both defaults)",
            _ms(c["p50"]),
            f"Runhouse {_ms(streaming)}",
            streaming / c["p50"],
            "x",
            None,
        ),
    ]


def _calls(f: Figures) -> list[Row]:
    c = f["calls"]
    return [
        Row("p99 over p50 of that call", _ms(c["p99"]), "-", c["p99_over_p50"], "x", 5),
        Row(
            "that call over a raw 300-byte echo",
            _ms(c["p50"]),
            f"tunnel {_ms(c['tunnel_p50'])}",
            c["p50"] / c["tunnel_p50"],
            "x",
            None,
        ),
        Row("calls per second, 64 in flight", f"{c['per_second']:,.0f}/s", "-", c["per_second"], "/s", 10_000, True),
    ]


def _bulk(f: Figures) -> list[Row]:
    b = f["bulk"]
    return [
        Row(
            "256 MiB there and back",
            _rate(b["rate"]),
            f"raw echo {_rate(b['raw_rate'])}",
            b["over_raw"],
            "x",
            0.7,
            True,
        ),
        Row(
            "small calls meanwhile, p99",
            _ms(b["small_meanwhile"]["p99"]),
            "-",
            b["small_meanwhile"]["p99"] * 1e3,
            "ms",
            100,
        ),
        Row("peak client memory for it", f"{b['memory_over_array']:.2f} arrays", "-", b["memory_over_array"], "x", 2.5),
    ]


def _bulk_runhouse(f: Figures) -> list[Row]:
    ours, theirs = f["bulk"]["rate"], f["runhouse"]["echo_bytes_per_s"]
    return [
        Row("array rate, times Runhouse's (32 MiB)", _rate(ours), f"Runhouse {_rate(theirs)}", ours / theirs, "x", None)
    ]


def _sync(f: Figures) -> list[Row]:
    s = f["sync"]
    rsync = {k: f"rsync {_ms(s[k])}" if k in s else "-" for k in ("rsync_again", "rsync_edited")}
    return [
        Row(
            ".to() again, nothing changed, 1,000 files",
            _ms(s["again"]),
            rsync["rsync_again"],
            s["again"] * 1e3,
            "ms",
            40,
        ),
        Row("edit one file, .to(), call", _ms(s["edited"]), rsync["rsync_edited"], s["edited"] * 1e3, "ms", 200),
    ]


def _sync_runhouse(f: Figures) -> list[Row]:
    ours, theirs = f["sync"]["again"], f["runhouse"]["to_again"]
    return [
        Row(".to() again, times faster than Runhouse", _ms(ours), f"Runhouse {_ms(theirs)}", theirs / ours, "x", None)
    ]


def _envs(f: Figures) -> list[Row]:
    e = f["envs"]
    return [
        Row('first .to() of reqs=["numpy"]', _s(e["first_numpy"]), "-", e["first_numpy"], "s", 2.5),
        Row("worker restart", _s(e["worker_restart"]), "-", e["worker_restart"], "s", 0.3),
    ]


def _import(f: Figures) -> list[Row]:
    s = f["starts"]
    peer = f"Runhouse {_ms(f['runhouse']['import'])}" if "import" in f.get("runhouse", {}) else "-"
    return [
        Row(
            "import runkit, above python -c pass",
            _ms(s["import"]["above_pass"]),
            peer,
            s["import"]["above_pass"] * 1e3,
            "ms",
            40,
        )
    ]


def _worker(f: Figures) -> list[Row]:
    value = f["starts"]["worker_above_pass"]
    return [Row("a worker's start, above python -c pass", _ms(value), "-", value * 1e3, "ms", 30)]


def _server(f: Figures) -> list[Row]:
    s = f["starts"]["server"]
    return [
        Row(
            "server start to the first call",
            _s(s["server_start"]),
            f"ray start {_s(s['ray_start'])}",
            s["over_ray"],
            "x",
            1.5,
        )
    ]


_MAKERS: list[Callable[[Figures], list[Row]]] = [
    _calls_ray,
    _calls_runhouse,
    _calls,
    _bulk,
    _bulk_runhouse,
    _sync,
    _sync_runhouse,
    _envs,
    _import,
    _worker,
    _server,
]


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds < 0.01 else f"{seconds * 1e3:.0f} ms"


def _s(seconds: float) -> str:
    return f"{seconds:.2f} s"


def _rate(bytes_per_second: float) -> str:
    return f"{bytes_per_second / 2**20:.0f} MiB/s"


def _plain(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
