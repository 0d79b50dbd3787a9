"""`runkit status|logs|stop|ssh NAME`, `runkit env …` for clusters this user knows, `runkit sync …`, and `runkit server …` on a host."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from runkit import __version__
from runkit.cli import clusters, envs, server, sync
from runkit.errors import RunkitError
from runkit.wire.names import DEFAULT_ENV, DEFAULT_PORT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit status: 0, 1 for an error that is explained on standard error, 2 for a wrong command line."""
    given = _parser().parse_args(arguments)
    try:
        return int(given.run(given) or 0)
    except RunkitError as error:
        print(f"runkit: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `runkit logs … | head`
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="runkit",
        description="Look after clusters: those you saved with cluster.save(), or `here` for the one on this machine.",
        epilog="Everything else is done from Python: see `import runkit as rk`.",
    )
    parser.add_argument("--version", action="version", version=f"runkit {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    status = commands.add_parser("status", help="what runs on a cluster: its envs, their processes and objects")
    _name(status)
    status.add_argument("--json", action="store_true", help="as JSON, with everything there is")
    status.set_defaults(run=clusters.status)

    logs = commands.add_parser("logs", help="what an env's code printed")
    _name(logs)
    logs.add_argument("env", nargs="?", default=DEFAULT_ENV, help="the env (default: %(default)s)")
    clusters.add_log_options(logs)
    logs.set_defaults(run=clusters.logs)

    envs.add_to(commands)

    stop = commands.add_parser("stop", help="end a cluster's server, its envs and the objects in them")
    _name(stop)
    stop.set_defaults(run=clusters.stop)

    ssh = commands.add_parser("ssh", help="a shell on a cluster's host")
    _name(ssh)
    ssh.set_defaults(run=clusters.ssh)

    sync.add_to(commands)

    on_host = commands.add_parser(
        "server",
        help="the server on this very host",
        description="Start, end or ask the server on this host. It listens on 127.0.0.1 and wants the token of its folder. "
        "Needs the extra: pip install 'runkit[server]'.",
    )
    actions = on_host.add_subparsers(title="actions", required=True, metavar="ACTION")
    for name, text in (
        ("start", "start it, with Ray and the default env's process, and wait until calls can run"),
        ("stop", "end it, its Ray, its envs and the objects in them"),
        ("status", "what it says of itself, as JSON"),
        (
            "enable",
            "have it start with this host, by systemd, or else by cron; its envs come back with it when they are used",
        ),
        ("disable", "have it start with this host no more"),
    ):
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument(
            "--port",
            type=int,
            default=DEFAULT_PORT,
            help="its port; it takes the hundred from there on (default: %(default)s)",
        )
        action.set_defaults(run=getattr(server, name))
    return parser


def _name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the cluster's name, or `here`")


if __name__ == "__main__":
    sys.exit(main())
