"""`runkit sync plan|verify`: what becomes of the local environment on a cluster, and whether an env there is still like it."""

from __future__ import annotations

import json
import re
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from runkit.cli.clusters import cluster_of, server_of
from runkit.errors import EnvNotFound, ServerError, UsageError
from runkit.wire import places
from runkit.wire.names import DEFAULT_ENV, check_name

if TYPE_CHECKING:
    from runkit.client.api import Api
    from runkit.client.replicate import Plan, Replica

_PLATFORM = re.compile(r"(?P<machine>x86_64|aarch64)(-manylinux_(?P<major>2)_(?P<minor>\d+)|-unknown-linux-gnu|)")
_GLIBC = [2, 28]


def add_to(actions: Any, add_python: Any) -> None:
    """Add the actions; `add_python` adds the option that names an interpreter."""
    text = "what becomes of each package on a cluster, and why"
    plan = actions.add_parser("plan", help=text, description=f"{text[0].upper()}{text[1:]}; nothing is changed.")
    plan.add_argument("name", metavar="NAME", nargs="?", help="a cluster that is up (default: a machine like this one)")
    plan.add_argument("--platform", help="instead of a cluster: x86_64, aarch64, x86_64-manylinux_2_28, …")
    plan.add_argument("--python-version", metavar="X.Y.Z", help="the Python over there (default: the one here)")
    how = plan.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="as JSON, with everything there is")
    how.add_argument("--pylock", action="store_true", help="as a pylock.toml (PEP 751)")
    _add_levels(plan)
    add_python(plan)
    plan.set_defaults(run=print_plan)
    text = "how an env on a cluster differs from what is here; exit status 1 if it does"
    verify = actions.add_parser("verify", help=text, description=f"{text[0].upper()}{text[1:]}.")
    verify.add_argument("name", metavar="NAME", help="the cluster's name, or `here`")
    verify.add_argument("env", metavar="ENV", nargs="?", default=DEFAULT_ENV, help="the env (default: %(default)s)")
    verify.add_argument("--json", action="store_true", help="as JSON")
    _add_levels(verify)
    add_python(verify)
    verify.set_defaults(run=print_differences)


def _add_levels(parser: Any) -> None:
    level = parser.add_mutually_exclusive_group()
    level.add_argument("--strict", action="store_true", help="whatever differs is an error")
    level.add_argument(
        "--as-is", action="store_true", help="the versions that are here, also where they contradict each other"
    )
    for name, text in (
        ("ignore", "a package that is not replicated"),
        ("only", "a package to replicate, with what it needs, and no others"),
        ("extra", "a requirement for the cluster alone"),
        ("critical", "a package that has to match exactly"),
    ):
        parser.add_argument(f"--{name}", action="append", default=[], metavar="PACKAGE", help=f"{text} (repeatable)")


def print_plan(given: Namespace) -> int:
    """Print what becomes of each package."""
    replica = _replica(given, _host(given))
    lock = replica.solver(
        replica.env.requirements(),
        replica.plan.target,
        cwd=".",
        prefer=(),
        cache=places.home() / "locks",
        upgrade=False,
    )
    plan = replica.plan
    for note in plan.notes:
        print(f"runkit: {note}", file=sys.stderr)
    if given.pylock:
        sys.stdout.write(lock.text(kept=places.home() / "wheels"))
    elif given.json:
        print(json.dumps(_as_json(plan, replica), indent=2))
    else:
        print("\n".join(describe(plan, replica)))
    return 0


def describe(plan: Plan, replica: Replica) -> list[str]:
    """A solved plan for people."""
    from runkit.cli.sync import table  # noqa: PLC0415  (which has this file's actions among its own)

    rows = [
        (entry.name, entry.version or "-", entry.there or "-", entry.level, entry.why)
        for entry in (*plan.entries, *plan.added)
    ]
    lines = [f"Python {plan.python} here, {plan.where} there", ""]
    lines += table(("package", "here", "there", "level", "why"), rows)
    if replica.roots:
        folders = [(str(root.path), ", ".join(path or "." for path in root.paths)) for root in replica.roots]
        lines += ["", *table(("synced", "importable from"), folders)]
    return lines


def _as_json(plan: Plan, replica: Replica) -> dict[str, Any]:
    packages = [
        {name: value for name, value in asdict(entry).items() if name != "local"}
        for entry in (*plan.entries, *plan.added)
    ]
    return {
        "python": plan.python,
        "target": asdict(plan.target),
        "packages": packages,
        "roots": [{"path": str(root.path), "paths": list(root.paths)} for root in replica.roots],
        "deviations": plan.deviations(),
        "notes": list(plan.notes),
    }


def print_differences(given: Namespace) -> int:
    """Compare what is installed over there with what is here."""
    with _reached(given.name) as api:
        status = api.json("GET", "/v1/status")
        name = check_name("env", given.env)
        try:
            spec = api.json("GET", f"/v1/envs/{name}/spec")
        except EnvNotFound:
            raise EnvNotFound(f"cluster {given.name!r} has no env {name!r}") from None
        replica = _replica(given, status["host"])
        found = differences(replica.plan, spec) + _stale_roots(replica, api)
    if given.json:
        print(json.dumps({"env": name, "differences": found}, indent=2))
    elif found:
        print("\n".join(found))
    else:
        print(f"env {name!r} on {given.name} is as it is here")
    return 1 if found else 0


def differences(plan: Plan, spec: dict[str, Any]) -> list[str]:
    """How the packages that an env was made of differ from a plan, a line for each."""
    from runkit.client.replicate.levels import same  # noqa: PLC0415  (as in `sync scan`)

    there: dict[str, str] = dict(spec.get("packages") or ())
    found = []
    python = str(spec.get("python") or "")
    if python and python != plan.python and not plan.python.startswith(f"{python}."):
        found.append(f"Python is {plan.python} here and {python} there")
    for entry in plan.entries:
        version = there.pop(entry.name, "")
        if entry.line and not same(version, entry.version):
            found.append(f"{entry.name} is {entry.version} here and {version or 'missing'} there")
    known = {"ray", "runkit"}  # what the cluster brings itself
    found += [
        f"{name} is missing here and {version} there" for name, version in sorted(there.items()) if name not in known
    ]
    return found


def _stale_roots(replica: Replica, api: Api) -> list[str]:
    from runkit.client.manifest import scan  # noqa: PLC0415  (as in `sync scan`)
    from runkit.client.replicate.replica import without_metadata  # noqa: PLC0415

    held = {root.id: scan(root) for root in replica.roots}
    for root in replica.roots:
        if root.id not in replica.optional:
            held[root.id] = without_metadata(held[root.id], root)
    asked = {name: {"id": name, "digest": manifest.digest} for name, manifest in held.items()}
    current = api.json("POST", "/v1/ensure", {"roots": list(asked.values())})["roots"] if asked else {}
    return [f"{root.path} is not there as it is here" for root in replica.roots if not current.get(root.id)]


def _replica(given: Namespace, host: dict[str, Any]) -> Replica:
    from runkit.client.replicate import replicate  # noqa: PLC0415  (as in `sync scan`)
    from runkit.client.scan import scan  # noqa: PLC0415
    from runkit.model.env import env  # noqa: PLC0415
    from runkit.model.package_sync import AS_IS, PackageSync  # noqa: PLC0415

    sync = PackageSync(
        strict=AS_IS if given.as_is else given.strict,
        ignore=given.ignore,
        only=given.only,
        extras=given.extra,
        critical=given.critical,
    )
    asked = env(name="plan", package_sync=sync, python=getattr(given, "python_version", None))
    return replicate(asked, host, local=scan(given.python))


def _host(given: Namespace) -> dict[str, Any]:
    if given.name and given.platform:
        raise UsageError("a plan is for a cluster or for a --platform, not for both")
    if given.name:
        with _reached(given.name) as api:
            host: dict[str, Any] = api.json("GET", "/v1/status")["host"]
            return host
    if not given.platform:
        return _this_machine()
    found = _PLATFORM.fullmatch(given.platform)
    if found is None:
        raise UsageError(f"--platform is x86_64 or aarch64, with -manylinux_2_N or not, and not {given.platform!r}")
    glibc = [int(found["major"]), int(found["minor"])] if found["minor"] else _GLIBC
    return {"machine": found["machine"], "glibc": glibc}


def _this_machine() -> dict[str, Any]:
    import platform  # noqa: PLC0415

    name, version = platform.libc_ver()
    glibc = [int(part) for part in version.split(".")[:2]] if name == "glibc" else _GLIBC
    machine = platform.machine() if platform.system() == "Linux" else "x86_64"
    return {"machine": machine, "glibc": glibc}


@contextmanager
def _reached(name: str) -> Iterator[Api]:
    with server_of(cluster_of(name)) as api:
        if api is None:
            raise ServerError(f"no server runs on cluster {name!r}")
        yield api
