"""`python -m runkit.client.apply FILE`: the env in a file becomes the default env of the server on this very host.

`setup_cluster.sh --default-env` runs it with the server's own Python, which has few of a client's packages: neither the uv of the
package index nor what the WebSocket takes.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runkit.client.api import Api
from runkit.client.asked import SyncedRoot
from runkit.client.deploy import Deployed, Deployer
from runkit.client.manifest import scan
from runkit.client.mirroring import bring, has_checkouts, own_roots, with_checkouts
from runkit.client.progress import Report
from runkit.client.secrets import gather
from runkit.client.set_up import SetUp
from runkit.errors import RunkitError, ServerError
from runkit.model.env import Env
from runkit.model.env_file import read_env
from runkit.wire import places, problems
from runkit.wire.names import DEFAULT_ENV, DEFAULT_PORT


def apply(env: Env, port: int, progress: Report = lambda event: None) -> Deployed:
    """Make an env the default env of the server on this host.

    Args:
        env: the env.
        port: the server's.
        progress: told what happens.

    Raises:
        ServerError: no server runs there. UsageError, EnvError: as for `Cluster.send_env`.
    """
    try:
        token = (places.server_home(port) / "token").read_text().strip()
    except OSError:
        raise ServerError(f"no server of this user runs on port {port} of this host") from None
    api = Api(lambda: socket.create_connection(("127.0.0.1", port)), token)
    try:
        with SetUp(DEFAULT_ENV, env.install_timeout, progress) as set_up:
            secrets = gather(env.secrets)
            env, checkouts = with_checkouts(env, set_up) if has_checkouts(env) else (env, [])
            roots, working_dir = own_roots(env)
            roots += checkouts
            scanned = {root.id: (root, scan(root)) for root in roots}
            return Deployer(api, api.json("GET", "/v1/status"), token=token).send(
                env,
                [SyncedRoot(root.id, found.digest, str(root.path), root.paths) for root, found in scanned.values()],
                working_dir=working_dir,
                sync=lambda one: bring(api, *scanned[one.id], set_up),
                progress=set_up,
                default=True,
                secrets=secrets,
            )
    finally:
        api.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its last line on standard output is JSON, {"applied": …} or {"error": …}."""
    parser = argparse.ArgumentParser(
        prog="python -m runkit.client.apply", description="Make the env in a file this host's default env."
    )
    parser.add_argument("file", type=Path, help="TOML or JSON, with the arguments of rk.env as keys")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="the server's (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="only read the file")
    given = parser.parse_args(arguments)
    try:
        env = read_env(given.file)
        if given.check:
            gather(env.secrets)
            _print({"read": str(given.file)})
            return 0
        deployed = apply(env, given.port, _say)
    except RunkitError as error:
        _print({"error": problems.to_json(error)})
        return 1
    done = {"name": env.name or deployed.name, "changed": deployed.changed, "lost": list(deployed.lost_keys)}
    _print({"applied": done})
    return 0


def _say(event: Mapping[str, Any]) -> None:
    if "warning" in event:
        text = f"runkit: warning: {event['warning']}"
    elif "phase" in event:
        if event.get("done"):
            return  # of a phase that was told when it began
        text = f"runkit: {event['phase']}"
    else:
        text = str(event.get("log", ""))
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _print(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    sys.exit(main())
