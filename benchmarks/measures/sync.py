"""`.to()` again of a root of 1,000 files: nothing changed, and one file edited."""

from __future__ import annotations

import itertools
from typing import Any

from benchmarks.measures.session import Session
from benchmarks.peers import rsync
from benchmarks.place import Absent
from benchmarks.stats import median, timed


def measure(session: Session, rounds: int) -> dict[str, Any]:
    """Medians in seconds; rsync of the same root in the same rounds."""
    session.send()
    helper = session.root / "pkg00" / "mod01.py"
    numbers = itertools.count(100_000)

    def edit() -> int:
        number = next(numbers)
        helper.write_text(f"def value():\n    return {number}\n")
        return number

    def edited_call() -> None:
        assert session.send("helper_value")() == wanted

    out: dict[str, Any] = {}
    again, edited = [], []
    for _ in range(rounds * 5):
        again.append(timed(session.send))
        wanted = edit()
        edited.append(timed(edited_call))
    out.update(again=median(again), edited=median(edited))
    try:
        with rsync.mirror(session.host, session.root) as bring_up_to_date:
            bring_up_to_date()
            same, changed = [], []
            for _ in range(rounds * 5):
                same.append(timed(bring_up_to_date))
                edit()
                changed.append(timed(bring_up_to_date))
            out.update(rsync_again=median(same), rsync_edited=median(changed))
    except Absent as reason:
        out["rsync_absent"] = str(reason)
    return out
