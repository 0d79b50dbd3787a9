"""Mirrors of folders of this machine on a cluster: which an env has, and how one is brought up to date."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from runkit.client.api import Api
from runkit.client.git_requirements import local_checkouts, pinned_env
from runkit.client.manifest import Manifest
from runkit.client.progress import Report
from runkit.client.roots import Root, root_at
from runkit.client.set_up import together
from runkit.client.upload import upload
from runkit.model.env import Env
from runkit.model.git_package import GitPackage


def own_roots(env: Env) -> tuple[list[Root], str | None]:
    """An env's own roots, its working dir and its local folders, and the id of the first of these."""
    roots = [root_at(env.working_dir)] if env.working_dir is not None else []
    working_dir = roots[0].id if roots else None
    # In a thread, for what it may fetch from file storage: that ends when no time is left.
    (folders,) = together(Env.local_folders, [env], 1)
    return roots + [root_at(folder) for folder in folders], working_dir


def has_checkouts(env: Env) -> bool:
    """Whether it has packages from git that are synced instead of installed."""
    return any(isinstance(one, GitPackage) and one.install_method == "local" for one in env.reqs)


def with_checkouts(env: Env, progress: Report) -> tuple[Env, list[Root]]:
    """The env with its packages from git at the commits they stand for now, and the checkouts to be synced among them."""
    env = pinned_env(env, progress)
    return env, [_importable(root_at(folder)) for folder in local_checkouts(env, progress)]


def _importable(root: Root) -> Root:
    """A checkout's root, with what lies below `src/` importable where that is its layout."""
    src = root.path / "src"
    return replace(root, paths=("src", *root.paths)) if src.is_dir() and not (src / "__init__.py").exists() else root


def bring(api: Api, root: Root, manifest: Manifest | None, progress: Report) -> None:
    """Bring the mirror of one root up to date."""
    address = f"/v1/roots/{root.id}"

    def apply(pieces: Iterator[bytes], length: int) -> dict[str, Any]:
        answer = api.upload("POST", f"{address}/apply", pieces, length)
        for path in answer.get("aside", ()):
            progress({"warning": f"{path} stood over there where a synced file belongs; it was set aside, not deleted"})
        return answer

    progress({"phase": f"sync {root.path.name}"})
    upload(
        root,
        lambda body: api.json("POST", f"{address}/plan", body)["need"],
        apply,
        manifest,
        lambda what, done, total: progress({"phase": f"sync {root.path.name}", "done": done, "total": total}),
    )
