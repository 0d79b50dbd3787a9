"""The table: what was measured, next to which peer, and what it should reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Figures = dict[str, dict[str, Any]]  # group -> figure -> value


@dataclass(frozen=True)
class Row:
    """One row. `reach` is a bound on `value`: at most, or, with `at_least`, at least. No value: the peer is absent."""

    what: str
    ours: str
    peer: str
    value: float | None
    unit: str  # "x", or a unit of its own
    reach: float | None
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        if self.reach is None or self.value is None:
            return None
        return self.value >= self.reach if self.at_least else self.value <= self.reach

    @property
    def bound(self) -> str:
        if self.reach is None:
            return "-"
        return f"{'at least' if self.at_least else 'at most'} {_plain(self.reach)} {self.unit}"

    @property
    def figure(self) -> str:
        if self.value is None:
            return "not measured"
        return f"{_plain(self.value)} {self.unit}"


def rows(figures: Figures) -> list[Row]:
    """A row for everything that was measured; a row whose peer is absent keeps its own figure and says so."""
    found: list[Row] = []
    for make in _MAKERS:
        try:
            found += make(figures)
        except KeyError:
            continue  # that group was not asked for, or failed (the notes below the table say how)
    return found


def _calls_ray(f: Figures) -> list[Row]:
    c = f["calls"]
    peer = f"Ray actor call {_ms(c['ray_p50'])}" if "ray_p50" in c else "Ray: absent"
    return [Row("warm no-op call over SSH, p50", _ms(c["p50"]), peer, c.get("over_ray"), "x", 0.7)]


def _calls_runhouse(f: Figures) -> list[Row]:
    p50 = f["calls"]["p50"]
    made = []
    for what, name, reach in (
        ("the same, times faster than Runhouse with streaming off", "call_quiet", 25),
        ("the same, times faster than Runhouse, prints streamed", "call_streaming", None),
    ):
        theirs = f["runhouse"][name]["p50"] if "runhouse" in f else None
        peer, value = ("Runhouse: absent", None) if theirs is None else (f"Runhouse {_ms(theirs)}", theirs / p50)
        made.append(Row(what, _ms(p50), peer, value, "x", reach, at_least=True))
    return made


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
    s = f["starts"]["import"]
    bare, used, heavy = s["above_pass"], s["touched_above_pass"], s["heavy"]
    peer = f"Runhouse {_ms(f['runhouse']['import'])}" if "runhouse" in f else "-"
    return [
        Row("import runkit, above python -c pass", _ms(bare), peer, bare * 1e3, "ms", 40),
        Row(f"the same and {s['touched']}, loaded when used", _ms(used), peer, used * 1e3, "ms", None),
        Row("heavy modules that come along, even then", ", ".join(heavy) or "none", "-", len(heavy), "modules", 0),
    ]


def _worker(f: Figures) -> list[Row]:
    w = f["starts"]["worker"]
    listens, call = w["listens"], w["call"]
    return [
        Row("a worker's start until it listens, above python -c pass", _ms(listens), "-", listens * 1e3, "ms", None),
        Row("a worker's start and its first call, above python -c pass", _ms(call), "-", call * 1e3, "ms", 30),
    ]


def _server(f: Figures) -> list[Row]:
    s = f["starts"]["server"]
    peer = f"ray start {_s(s['ray_start'])}" if "ray_start" in s else "Ray: absent"
    return [Row("server start to the first call", _s(s["server_start"]), peer, s.get("over_ray"), "x", 1.5)]


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
