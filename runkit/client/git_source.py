"""Code that a cluster installs from git and imports from there: nothing of this machine is sent, so what differs here is told."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from runkit.client.cluster import Cluster
from runkit.client.connected import PlacedCode
from runkit.client.envs import EnvLike
from runkit.client.git import Git
from runkit.client.invoke import Invoker
from runkit.client.programs import run
from runkit.client.progress import Progress
from runkit.client.roots import is_installed
from runkit.client.session import Target
from runkit.client.set_up import SetUp
from runkit.errors import EnvError, UsageError
from runkit.model.env import Env, as_env
from runkit.model.git_package import GitPackage

_SHOWN = 5


def check_importable(thing: Any, package: GitPackage) -> None:
    """Whether a function or class can be what an installed package has.

    Raises:
        UsageError: it cannot be imported by a name, or the package is not installed.
    """
    module, qualname = (getattr(thing, name, None) for name in ("__module__", "__qualname__"))
    if not isinstance(module, str) or not isinstance(qualname, str):
        raise UsageError(f"{thing!r} has no name by which it could be imported from {package}")
    if module in ("__main__", "__mp_main__"):
        raise UsageError(
            f"{qualname} is defined in __main__, and source= is {package}: it can only be imported from there if it is in a module of it"
        )
    if "<" in qualname:
        raise UsageError(
            f"{qualname} has no name in its module {module!r} by which it could be imported from {package}"
        )
    if package.install_method == "reqs":
        raise UsageError(
            f'{package} has install_method="reqs", which installs what it needs and not itself: leave it "pip"'
        )


def from_git(
    cluster: Cluster, thing: Any, package: GitPackage, env: EnvLike, label: str
) -> tuple[Target, Callable[..., PlacedCode]]:
    """How the worker is told of code in a package from git, and what sends the env that has the package.

    What sends it raises ResolutionFailed, LoginRefused or FetchFailed where the revision cannot be told.
    """
    pinned: list[GitPackage] = []

    def send(force: bool = False) -> PlacedCode:
        known = env if isinstance(env, str) else as_env(env)
        name, seconds = (known, None) if isinstance(known, str) else (known.target, known.install_timeout)
        with SetUp(name, seconds):
            if not pinned:  # where it is sent again, it is what it was
                pinned.append(_pinned(cluster, thing, package, label))
            wanted = known if isinstance(known, str) else _with(known, pinned[0])
            placed = cluster.place(wanted, None, force=force)
        _check(cluster, placed.env, thing, package)
        return placed

    return Target({"ref": [thing.__module__, thing.__qualname__], "apart": True}), send


def _pinned(cluster: Cluster, thing: Any, package: GitPackage, label: str) -> GitPackage:
    """The package at the commit that its revision stands for now; what is different here is told."""
    with Progress(cluster.name) as progress:
        exact = package.at(Git([package], progress).commit(package))
        for difference in _differences(thing, package, str(exact.revision)):
            progress({"warning": f"{label}: {difference}"})
    return exact


def _with(env: Env, package: GitPackage) -> Env:
    """The env with the package among its requirements, in the place of the same one at another revision."""
    same = (package.git_url, package.subdirectory)
    others = (one for one in env.reqs if not (isinstance(one, GitPackage) and (one.git_url, one.subdirectory) == same))
    return replace(env, reqs=(*others, package))


def _check(cluster: Cluster, env: str, thing: Any, package: GitPackage) -> None:
    find = Invoker(cluster, env, "find", Target({"ref": ["runkit.wire.installed", "find"], "roots": []}))
    found = find(thing.__module__, thing.__qualname__)
    if missing := found.get("missing"):
        raise EnvError(f"{package}, as installed in env {env!r}, does not have {missing}")
    if broken := found.get("broken"):
        raise EnvError(f"the module {thing.__module__!r} of {package} cannot be imported in env {env!r}: {broken}")


def _differences(thing: Any, package: GitPackage, commit: str) -> Iterator[str]:
    """What the checkout that this code was imported from has, and the cluster will not."""
    file = getattr(sys.modules.get(thing.__module__), "__file__", None)
    if not isinstance(file, str) or is_installed(file):
        return
    folder = os.path.dirname(os.path.abspath(file))
    top = _git(folder, "rev-parse", "--show-toplevel")
    head = _git(folder, "rev-parse", "HEAD")
    if not top or not head or not _is_of(package, top, commit):
        return
    changed = [
        line[3:] for line in (_git(top, "status", "--porcelain", "--", package.subdirectory or ".") or "").splitlines()
    ]
    if changed:
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        yield f"uncommitted changes in {top} do not go along: {', '.join(changed[:_SHOWN])}{more}"
    if head != commit:
        pushed = "" if _git(top, "branch", "--remotes", "--contains", head) else ", which is not pushed"
        revision = f"{package.revision!r} is " if package.revision and package.revision != commit else ""
        yield f"{top} is at commit {head[:10]}{pushed}; what runs over there is another: {revision}{commit[:10]}"


def _is_of(package: GitPackage, top: str, commit: str) -> bool:
    """Whether a local checkout is one of the package's repository."""
    if _git(top, "cat-file", "-e", f"{commit}^{{commit}}") is not None:
        return True
    remotes = (_git(top, "remote", "--verbose") or "").splitlines()
    return _place(package.git_url) in {_place(line.split()[1]) for line in remotes if len(line.split()) > 1}


def _place(url: str) -> str:
    """Host and path of a repository, however it is reached."""
    if "://" not in url and not url.startswith(("/", ".", "~")):
        url = url.replace(":", "/", 1)  # user@host:path
    plain = re.sub(r"^(\w+://)?([^/@]*@)?", "", url).rstrip("/").removesuffix(".git")
    return str(Path(plain).expanduser()) if url.startswith(("/", "~")) else re.sub(r"^([^/:]+):\d+/", r"\1/", plain)


def _git(folder: str, *arguments: str) -> str | None:
    try:
        done = run(["git", *arguments], folder, {**os.environ, "GIT_OPTIONAL_LOCKS": "0"})
    except OSError:
        return None
    return done.stdout.rstrip("\n") if done.returncode == 0 else None
