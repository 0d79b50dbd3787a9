"""A scan of a venv of 354 distributions: runkit's, without and with what it keeps, and Coiled's, in alternating rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import runkit
from benchmarks.peers import coiled
from benchmarks.place import PLACE
from benchmarks.stats import median

FRESH = 4


def measure(rounds: int) -> dict[str, Any]:
    """Medians in seconds: a scan alone, and a fresh process that imports the scanner and scans once."""
    binaries, absent = coiled.environment()
    code = PLACE / "runkit-alone"  # without the folders beside it, which Coiled's scanner is not given either
    code.mkdir(exist_ok=True)
    link = code / "runkit"
    link.unlink(missing_ok=True)
    link.symlink_to(Path(runkit.__file__).parent)

    alone: dict[str, list[float]] = {}
    fresh: dict[str, list[float]] = {}
    names = 0
    for _ in range(rounds):
        for who in ("runkit", "cached", *(() if absent else ("coiled",))):
            where = None if who == "coiled" else str(code)
            found = coiled.run(binaries, who, pythonpath=where)
            alone.setdefault(who, []).append(found["scan"])
            names = int(found["names"]) if who == "runkit" else names
            # The best of some: whatever else the machine does costs a process of 50 ms more than one of a second.
            walls = [coiled.run(binaries, who, "once", pythonpath=where)["wall"] for _ in range(FRESH)]
            fresh.setdefault(who, []).append(min(walls))
    out: dict[str, Any] = {f"{who}_scan": median(times) for who, times in alone.items()}
    out |= {f"{who}_fresh": median(times) for who, times in fresh.items()}
    return {**out, "distributions": names, **({"coiled_absent": absent} if absent else {})}
