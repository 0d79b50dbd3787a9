"""`runkit env list|show|logs|rm|gc NAME …`: the envs of a cluster from outside. None of these starts a server where none runs."""

from __future__ import annotations

import json
from argparse import Namespace, _SubParsersAction
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from runkit.cli import clusters
from runkit.cli.clusters import DOWN, cluster_of, server_of
from runkit.errors import ServerError
from runkit.wire import places
from runkit.wire.names import check_name


def add_to(commands: _SubParsersAction[Any]) -> None:
    """The command `env` with its actions."""
    parser = commands.add_parser("env", help="the envs of a cluster: list, show, logs, rm, gc")
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    for name, text, run in (
        ("list", "the envs: state, Python, packages, process, objects, size on disk", list_envs),
        ("show", "what an env was asked to be, and the packages in it", show),
        ("logs", "what an env's code printed", clusters.logs),
        ("rm", "end envs, with their processes and objects; `default` comes back as it is on a new cluster", remove),
        ("gc", "remove what nobody uses any more: folders of earlier envs, old copies of runkit, wheels", collect),
    ):
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument("name", metavar="NAME", help="the cluster's name, or `here`")
        if name in ("show", "logs"):
            action.add_argument("env", metavar="ENV", help="the env")
        if name == "rm":
            action.add_argument("envs", metavar="ENV", nargs="+", help="the envs")
        if name == "logs":
            clusters.add_log_options(action)
        else:
            action.add_argument("--json", action="store_true", help="as JSON, with everything there is")
        if name == "gc":
            action.add_argument("--dry-run", action="store_true", help="only say what would be removed")
            action.add_argument("--all", action="store_true", help="also what was used within the last week")
        action.set_defaults(run=run)


def list_envs(given: Namespace) -> int:
    """Print the envs."""
    from runkit.client import env_status  # noqa: PLC0415  (`runkit server …` needs none of the client)

    with server_of(cluster_of(given.name)) as api:
        if api is None:
            return _down(given)
        said = api.json("GET", "/v1/envs?sizes=1", timeout=env_status.SIZES_S)["envs"]
    if given.json:
        print(json.dumps(said, indent=2))
        return 0
    for env in env_status.read(said):
        print(f"{env.title}: {', '.join(env.details())}")
    return 0


def show(given: Namespace) -> int:
    """Print one env."""
    from runkit.client import env_status, lock  # noqa: PLC0415  (as above)

    check_name("env", given.env)
    with server_of(cluster_of(given.name)) as api:
        if api is None:
            return _down(given)
        spec = api.json("GET", f"/v1/envs/{given.env}/spec")
        said = api.json("GET", f"/v1/envs?sizes=1&env={given.env}", timeout=env_status.SIZES_S)["envs"]
    env = next(one for one in env_status.read(said) if given.env in (one.name, one.alias))
    asked = {name: spec[name] for name in _ASKED if spec.get(name)}
    # The values of variables may be anything; a terminal is no place for them.
    asked["env_vars"] = sorted(spec.get("env_vars") or ())
    asked["secrets"] = sorted(spec.get("secrets") or ())
    if asked_conda := spec.get("conda"):
        asked["conda"] = {**asked_conda, "variables": sorted(asked_conda.get("variables") or ())}
    # Those of conda, too.
    packages = dict(lock.Lock.from_json(spec["lock"]).everything if spec.get("lock") else spec.get("packages") or ())
    if given.json:
        print(json.dumps({**said[env.name], "asked": asked, "installed": packages}, indent=2))
        return 0
    print(f"{env.title}: {', '.join(env.details())}")
    conda = _conda_lines(asked.pop("conda", {}))
    for name, value in {**asked, **conda}.items():
        if value:
            print(f"  {name:<12} {', '.join(map(str, value)) if isinstance(value, list) else value}")
    if packages:
        print("  installed    " + ", ".join(f"{name} {version}" for name, version in sorted(packages.items())))
    return 0


_ASKED = ("lines", "constraints", "python", "setup_cmds", "compute")


def _conda_lines(conda: Mapping[str, Any]) -> dict[str, Any]:
    """What a conda environment is asked to be, for people."""
    if "copy" in conda:
        return {"conda": f"a copy of the local environment {conda['name']}"}
    named = {"conda": "specs", "channels": "channels", "conda_vars": "variables"}
    return {name: conda.get(key) for name, key in named.items()}


def remove(given: Namespace) -> int:
    """Remove envs."""
    lost: dict[str, list[str]] = {}
    for env in given.envs:
        check_name("env", env)
    with server_of(cluster_of(given.name)) as api:
        if api is None:
            return _down(given)
        for env in given.envs:
            lost[env] = api.json("DELETE", f"/v1/envs/{quote(env)}", timeout=None)["lost"]
            if not given.json:
                keys = f"; objects that went with it: {', '.join(lost[env])}" if lost[env] else ""
                print(f"{env}: removed{keys}")
    if given.json:
        print(json.dumps({"removed": lost}, indent=2))
    return 0


def collect(given: Namespace) -> int:
    """Remove what nobody uses."""
    cluster = cluster_of(given.name)
    if cluster.host is None:  # on this machine it takes no server
        from runkit.client.leftovers import collect as of_client  # noqa: PLC0415  (as above)
        from runkit.server import gc  # noqa: PLC0415  (as above)

        found = gc.collect(places.home(), everything=given.all, dry_run=given.dry_run)
        removed = [one.as_json() for one in found] + of_client(places.home(), given.all, given.dry_run)
    else:
        with server_of(cluster) as api:
            if api is None:
                return _down(given)
            body = {"everything": given.all, "dry_run": given.dry_run}
            removed = api.json("POST", "/v1/gc", body, timeout=None)["removed"]
    size = sum(one["size"] for one in removed)
    if given.json:
        print(json.dumps({"removed": removed, "size": size, "dry_run": given.dry_run}, indent=2))
        return 0
    for one in removed:
        print(f"{one['kind']} {one['name']}: {one['size'] / 1e6:.1f} MB")
    print(f"{given.name}: {size / 1e6:.1f} MB {'would be' if given.dry_run else 'are'} free")
    return 0


def _down(given: Namespace) -> int:
    if given.json:
        raise ServerError(f"no server runs on cluster {given.name!r}")
    print(f"{given.name}: no server runs")
    return DOWN
