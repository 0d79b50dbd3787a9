"""`runkit server start|stop|status|enable|disable`: the server on this host. It runs in the Python that the command runs in."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from runkit.errors import ServerError, UsageError
from runkit.launch import code
from runkit.wire import places, problems

if TYPE_CHECKING:
    from types import ModuleType


def start(given: Namespace) -> int:
    """Start it; prints where it is."""
    answer = _run("start", given.port)
    print(json.dumps(answer["ready"], indent=2))
    return 0


def enable(given: Namespace) -> int:
    """Have it start with this host."""
    print(f"the server on port {given.port} starts with this host, by {_run('enable', given.port)['enabled']}")
    return 0


def disable(given: Namespace) -> int:
    """Have it start with this host no more."""
    done = _run("disable", given.port)["disabled"]
    print(
        f"the server on port {given.port} "
        + ("does not start with this host any more" if done else "did not start with this host")
    )
    return 0


def _run(command: str, port: int) -> dict[str, Any]:
    """What `python -m runkit.server` answers, in this Python, with the code where a client's set-up would put it."""
    for needed in ("ray", "aiohttp", "uvloop"):
        if importlib.util.find_spec(needed) is None:
            raise UsageError(
                f"this Python ({sys.executable}) has no {needed}: `pip install 'runkit[server]'`, or run setup_cluster.sh, which makes "
                "an environment of its own for the server"
            )
    # From the same place as a client's set-up would put it: clients with the same runkit then find the server to be theirs.
    place = code.place(places.home())
    environment = {**os.environ, "PYTHONPATH": str(place)}
    arguments = [sys.executable, "-m", "runkit.server", command, "--port", str(port)]
    done = subprocess.run(
        arguments, env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise ServerError(
            f"the server's {command} failed (status {done.returncode}): {done.stdout or 'see above'}"
        ) from None
    if "error" in answer:
        raise problems.from_json(answer["error"])
    return answer


def stop(given: Namespace) -> int:
    """End it."""
    if not _lifecycle().stop(given.port, _say):
        print(f"no server runs on port {given.port}")
    return 0


def status(given: Namespace) -> int:
    """Ask it; the exit status is 3 where none runs."""
    found = _lifecycle().status(given.port)
    if found is None:
        print(f"no server runs on port {given.port}")
        return 3
    print(json.dumps(found, indent=2))
    return 0


def _lifecycle() -> ModuleType:
    from runkit.server import lifecycle  # noqa: PLC0415  (clients need none of the server)

    return lifecycle


def _say(text: str) -> None:
    print(f"runkit: {text}", file=sys.stderr, flush=True)
