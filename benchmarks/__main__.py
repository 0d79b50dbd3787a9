"""`python -m benchmarks`: everything on an SSH host made for it, as a table and as JSON in benchmarks/results/.

Needs what the tests need (scripts/test installs it). As root on Linux the hosts are namespaces with an sshd each;
otherwise one sshd on the loopback. Takes some minutes, and quiet ones are better.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import place
from benchmarks.rows import Figures, Row, rows
from tests.hosts import Host, hosts

GROUPS = ("calls", "bulk", "sync", "envs", "starts", "runhouse", "scan", "replicate")
ON_HOSTS = set(GROUPS) - {"scan"}
RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs" / "benchmarks.md"
TABLE_BEGIN, TABLE_END = "<!-- table -->", "<!-- end of table -->"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure runkit next to its peers.")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), help="these groups only")
    parser.add_argument("--rounds", type=int, default=3, help="rounds per figure; medians are shown")
    parser.add_argument("--json", type=Path, help="where the JSON goes (default: a dated file in benchmarks/results)")
    parser.add_argument("--docs", action="store_true", help="put the table into docs/benchmarks.md")
    args = parser.parse_args()

    console = Console(width=None if Console().is_terminal else 150)
    place.prepare()
    figures: Figures = {}
    notes: dict[str, str] = {}
    measure_here(args.only, args.rounds, figures, notes, console)
    if ON_HOSTS & set(args.only):
        with hosts(n=2) as (host, other):
            measure(host, other, args.only, args.rounds, figures, notes, console)

    table_rows = rows(figures)
    table = Table(title=f"runkit and its peers, one SSH host, {os.cpu_count()} cores")
    for heading in ("what", "runkit", "peer", "figure", "to reach", ""):
        table.add_column(heading, justify="left" if heading in ("what", "peer") else "right")
    for row in table_rows:
        verdict = {True: "[green]reached", False: "[red]missed", None: ""}[row.met]
        table.add_row(row.what, row.ours, row.peer, row.figure, row.bound, verdict)
    console.print(table)
    for what, reason in notes.items():
        console.print(f"[red]not measured: {what}: {reason}")

    path = args.json or RESULTS / f"{datetime.datetime.now():%Y%m%d-%H%M%S}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "python": platform.python_version(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "rounds": args.rounds,
    }
    table_json = [{**asdict(row), "met": row.met} for row in table_rows]
    path.write_text(
        json.dumps({"about": about, "rows": table_json, "figures": figures, "not_measured": notes}, indent=1) + "\n"
    )
    console.print(f"JSON in {path}")
    if args.docs:
        into_docs(table_rows)
    return 1 if notes else 0


def into_docs(table_rows: list[Row]) -> None:
    """Replace the table in the documentation's page."""
    lines = ["| what | runkit | peer | figure | to reach | |", "|---|---:|---|---:|---:|---|"]
    verdict = {True: "reached", False: "**missed**", None: ""}
    for row in table_rows:
        cells = (row.what, row.ours, row.peer, row.figure, row.bound, verdict[row.met])
        lines.append("| " + " | ".join(cells) + " |")
    page = DOCS.read_text()
    head, _, rest = page.partition(TABLE_BEGIN)
    _, _, tail = rest.partition(TABLE_END)
    DOCS.write_text(head + TABLE_BEGIN + "\n\n" + "\n".join(lines) + "\n\n" + TABLE_END + tail)


def measure_here(groups: list[str], rounds: int, figures: Figures, notes: dict[str, str], console: Console) -> None:
    """Fill `figures` with what needs no host."""
    from benchmarks.measures import scan

    _run("scan", lambda: scan.measure(rounds), groups, figures, notes, console)


def measure(
    host: Host, other: Host, groups: list[str], rounds: int, figures: Figures, notes: dict[str, str], console: Console
) -> None:
    """Fill `figures`; what fails or is absent goes into `notes` and does not stop the rest."""
    import runkit as rk  # here: it reads what prepare() set
    from benchmarks.measures import bulk, calls, envs, replicate, starts, sync
    from benchmarks.measures.session import Session
    from benchmarks.peers import runhouse

    def run(name: str, work: Callable[[], dict[str, Any]]) -> None:
        _run(name, work, groups, figures, notes, console)

    # Runhouse first: its server wants the port that is also runkit's default.
    run("runhouse", lambda: runhouse.measure(host, place.make_root("runhouse"), calls=100))
    run("starts/import", lambda: {"import": starts.import_runkit()})
    run("starts/worker", lambda: {"worker": starts.worker()})
    session = Session(host)
    try:
        session.open()
    except rk.errors.RunkitError as error:
        notes["a server on the host"] = str(error)
        return
    run("calls", lambda: calls.measure(session, rounds))
    run("bulk", lambda: bulk.measure(session, rounds))
    run("sync", lambda: sync.measure(session, rounds))
    run("envs/numpy", lambda: envs.first_numpy(session, other, rounds))
    run("envs/conflict", lambda: envs.conflict(session, rounds))
    run("envs/restart", lambda: {"worker_restart": envs.worker_restart(session, rounds)})
    run("replicate", lambda: replicate.measure(session, rounds))
    run("starts/server", lambda: {"server": starts.server(session, rounds)})
    session.cluster.stop_server()


def _run(
    name: str,
    work: Callable[[], dict[str, Any]],
    groups: list[str],
    figures: Figures,
    notes: dict[str, str],
    console: Console,
) -> None:
    group = name.split("/")[0]
    if group not in groups:
        return
    console.print(f"[dim]{name}")
    try:
        found = work()
    except place.Absent as reason:
        notes[name] = str(reason)
    except Exception as error:  # one broken figure must not cost the others; the exit status tells
        notes[name] = f"{type(error).__name__}: {error}"
        traceback.print_exc()
    else:
        figures.setdefault(group, {}).update(found)
        notes.update({f"{name}: peer": reason for key, reason in found.items() if key.endswith("_absent")})


if __name__ == "__main__":
    raise SystemExit(main())
