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
        theirs = f["runhouse"][name]["p50"] if f.get("runhouse") else None
        peer, value = ("Runhouse: absent", None) if theirs is None else (f"Runhouse {_ms(theirs)}", theirs / p50)
        made.append(Row(what, _ms(p50), peer, value, "x", reach, at_least=True))
    return made


def _calls(f: Figures) -> list[Row]:
    c = f["calls"]
    p50, tunnel, rate = c["p50"], c["tunnel_p50"], c["per_second"]
    return [
        Row("p99 over p50 of that call", _ms(c["p99"]), "-", c["p99_over_p50"], "x", 5),
        Row("that call over a raw 300-byte echo", _ms(p50), f"tunnel {_ms(tunnel)}", p50 / tunnel, "x", None),
        Row("calls per second, 64 in flight", f"{rate:,.0f}/s", "-", rate, "/s", 10_000, at_least=True),
    ]


def _bulk(f: Figures) -> list[Row]:
    b = f["bulk"]
    ours, raw, memory = _rate(b["rate"]), f"raw echo {_rate(b['raw_rate'])}", b["memory_over_array"]
    return [
        Row("256 MiB there and back", ours, raw, b["over_raw"], "x", 0.7, at_least=True),
        _in_ms("small calls meanwhile, p99", b["small_meanwhile"]["p99"], 100),
        Row("peak client memory for it", f"{memory:.2f} arrays", "-", memory, "x", 2.5),
    ]


def _bulk_runhouse(f: Figures) -> list[Row]:
    ours, theirs = f["bulk"]["rate"], f["runhouse"]["echo_bytes_per_s"]
    return [
        Row("array rate, times Runhouse's (32 MiB)", _rate(ours), f"Runhouse {_rate(theirs)}", ours / theirs, "x", None)
    ]


def _sync(f: Figures) -> list[Row]:
    s = f["sync"]
    rsync = {k: f"rsync {_ms(s[k])}" if k in s else "rsync: absent" for k in ("rsync_again", "rsync_edited")}
    return [
        _in_ms(".to() again, nothing changed, 1,000 files", s["again"], 40, rsync["rsync_again"]),
        _in_ms("edit one file, .to(), call", s["edited"], 200, rsync["rsync_edited"]),
    ]


def _sync_runhouse(f: Figures) -> list[Row]:
    ours, theirs = f["sync"]["again"], f["runhouse"]["to_again"]
    return [
        Row(".to() again, times faster than Runhouse", _ms(ours), f"Runhouse {_ms(theirs)}", theirs / ours, "x", None)
    ]


def _envs(f: Figures) -> list[Row]:
    first, restart = f["envs"]["first_numpy"], f["envs"]["worker_restart"]
    return [
        Row('first .to() of reqs=["numpy==…"]', _s(first), "-", first, "s", 2.5),
        Row("worker restart", _s(restart), "-", restart, "s", 0.3),
    ]


def _conflict(f: Figures) -> list[Row]:
    e = f["envs"]
    peer = f"uv pip compile {_s(e['conflict_uv'])}"
    return [Row("conflict explained, uv's cache empty", _s(e["conflict"]), peer, e["conflict"], "s", 2)]


def _import(f: Figures) -> list[Row]:
    s = f["starts"]["import"]
    heavy = s["heavy"]
    peer = f"Runhouse {_ms(f['runhouse']['import'])}" if f.get("runhouse") else "-"
    return [
        _in_ms("import runkit, above python -c pass", s["above_pass"], 40, peer),
        _in_ms(f"the same and {s['touched']}, loaded when used", s["touched_above_pass"], None, peer),
        Row("heavy modules that come along, even then", ", ".join(heavy) or "none", "-", len(heavy), "modules", 0),
    ]


def _worker(f: Figures) -> list[Row]:
    w = f["starts"]["worker"]
    return [
        _in_ms("a worker's start until it listens, above python -c pass", w["listens"], None),
        _in_ms("a worker's start and its first call, above python -c pass", w["call"], 30),
    ]


def _server(f: Figures) -> list[Row]:
    s = f["starts"]["server"]
    peer = f"ray start {_s(s['ray_start'])}" if "ray_start" in s else "Ray: absent"
    return [Row("server start to the first call", _s(s["server_start"]), peer, s.get("over_ray"), "x", 1.5)]


def _scan(f: Figures) -> list[Row]:
    s = f["scan"]
    what = f"scan of a venv of {s['distributions']} distributions"
    made = [
        _in_ms(f"{what}, nothing kept from earlier", s["runkit_scan"], 100),
        _in_ms("the same, with what an earlier scan kept", s["cached_scan"], 20),
    ]
    for text, ours, kind, reach in (
        ("a scan with nothing kept, times faster than Coiled's", "runkit", "scan", 3),
        ("the same, a fresh process with its imports", "runkit", "fresh", 20),
        ("a fresh process, with what an earlier scan kept", "cached", "fresh", 20),
    ):
        mine, theirs = s[f"{ours}_{kind}"], s.get(f"coiled_{kind}")
        peer, value = ("Coiled: absent", None) if theirs is None else (f"Coiled {_ms(theirs)}", theirs / mine)
        made.append(Row(text, _ms(mine), peer, value, "x", reach, at_least=True))
    return made


def _replicate(f: Figures) -> list[Row]:
    r = f["replicate"]
    what = f"an environment of {r['distributions']} distributions"
    peer = f"uv pip sync on the host {_s(r['uv_sync'])}"
    return [
        _in_ms(f"plan {what}, unchanged over there", r["again"], 500),
        Row(
            "one package of it changed: all installed anew, uv's cache warm",
            _s(r["changed"]),
            peer,
            r["changed"] / r["uv_sync"],
            "x",
            1.3,
        ),
        _in_ms("edit a line of an editable install, .to(), call", r["edited"], 1000),
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
    _conflict,
    _import,
    _worker,
    _server,
    _scan,
    _replicate,
]


def _in_ms(what: str, seconds: float, reach: float | None, peer: str = "-") -> Row:
    return Row(what, _ms(seconds), peer, seconds * 1e3, "ms", reach)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds < 0.01 else f"{seconds * 1e3:.0f} ms"


def _s(seconds: float) -> str:
    return f"{seconds:.2f} s"


def _rate(bytes_per_second: float) -> str:
    return f"{bytes_per_second / 2**20:.0f} MiB/s"


def _plain(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
