"""`python -m runkit.server start|stop|status|enable|disable`: what `runkit server …` does, on a host without the command."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from runkit.errors import RunkitError
from runkit.server import boot, lifecycle
from runkit.wire import problems
from runkit.wire.names import DEFAULT_PORT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its last line on standard output is JSON."""
    parser = argparse.ArgumentParser(prog="python -m runkit.server", description="runkit's server on this host.")
    parser.add_argument("command", choices=("start", "stop", "status", "enable", "disable", "serve"))
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="the server's port on 127.0.0.1 (default: %(default)s)"
    )
    parser.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.command == "serve":
        from runkit.server.serve import serve  # the other commands need none of it

        return serve(given.port, given.ready_fd)
    try:
        if given.command == "start":
            answer: dict[str, Any] = {"ready": lifecycle.start(given.port, _say)}
        elif given.command == "stop":
            answer = {"stopped": lifecycle.stop(given.port, _say)}
        elif given.command == "enable":
            answer = {"enabled": boot.enable(given.port, _say)}
        elif given.command == "disable":
            answer = {"disabled": boot.disable(given.port)}
        else:
            answer = lifecycle.status(given.port) or {"running": False}
    except RunkitError as error:
        print(json.dumps({"error": problems.to_json(error)}))
        return 1
    print(json.dumps(answer))
    return 0


def _say(text: str) -> None:
    print(f"runkit: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
