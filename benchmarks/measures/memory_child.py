"""A client of its own, so that its peak memory is known: prints (peak - idle) / size. Run by `bulk.memory`."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy

import runkit as rk
from benchmarks.measures.session import numpy_env


def resident(field: str) -> int:
    """A field of /proc/self/status in bytes: VmRSS now, VmHWM the peak since it was last cleared."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def main() -> None:
    question = json.loads(sys.argv[1])
    sys.path.insert(0, question["root"])
    echo = importlib.import_module("benchfns").echo
    where = {name: question[name] for name in ("host", "ssh_port", "ssh_creds", "server_port")}
    call = rk.function(echo).to(rk.cluster("bench", **where), env=numpy_env())
    call(numpy.arange(2**17))  # everything imported, every connection open
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    idle = resident("VmRSS")
    array = numpy.ones(question["size"] // 8)
    result = call(array)
    peak = resident("VmHWM")
    assert result.nbytes == array.nbytes
    print(json.dumps((peak - idle) / question["size"]))


if __name__ == "__main__":
    main()
