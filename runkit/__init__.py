"""runkit: run your own Python on machines you own or rent, as if they were local.

import runkit as rk

cluster = rk.cluster("box", host="gpu.example.org", ssh_creds={"ssh_user": "me"})
env = rk.env(name="np_env", reqs=["numpy"])
remote_sum = rk.function(np_sum).to(cluster, env=env)
remote_sum(2, 3)
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

# Names are loaded when they are first used: `import runkit` has to be cheap, also inside every worker.
_PLACES = {
    "cluster": "runkit.client.cluster",
    "Cluster": "runkit.client.cluster",
    "function": "runkit.client.function",
    "Function": "runkit.client.function",
    "module": "runkit.client.module",
    "Module": "runkit.client.module",
    "fetch": "runkit.client.remote",
    "RemoteObject": "runkit.client.remote",
    "Call": "runkit.client.call",
    "env": "runkit.model.env",
    "Env": "runkit.model.env",
    "conda_env": "runkit.model.env",
    "CondaEnv": "runkit.model.env",
    "Package": "runkit.model.package",
    "package": "runkit.model.package",
    "GitPackage": "runkit.model.git_package",
    "git_package": "runkit.model.git_package",
    "Secret": "runkit.model.secret",
    "PackageSync": "runkit.model.package_sync",
}

__all__ = [
    "Call",
    "Cluster",
    "CondaEnv",
    "Env",
    "Function",
    "GitPackage",
    "Module",
    "Package",
    "PackageSync",
    "RemoteObject",
    "Secret",
    "cluster",
    "conda_env",
    "env",
    "errors",
    "fetch",
    "function",
    "git_package",
    "here",
    "module",
    "package",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runkit import errors
    from runkit.client.call import Call
    from runkit.client.cluster import Cluster, cluster
    from runkit.client.function import Function, function
    from runkit.client.module import Module, module
    from runkit.client.remote import RemoteObject, fetch
    from runkit.model.env import CondaEnv, Env, conda_env, env
    from runkit.model.git_package import GitPackage, git_package
    from runkit.model.package import Package, package
    from runkit.model.package_sync import PackageSync
    from runkit.model.secret import Secret

    here: Cluster


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        value = globals()[name] = getattr(importlib.import_module(_PLACES[name]), name)
        return value
    if name == "errors":
        return importlib.import_module("runkit.errors")
    if name == "here":
        # Inside a worker this is the cluster the code runs on; elsewhere the embedded one.
        inside = importlib.import_module("runkit.wire.handles").resolver
        if inside is not None:
            return importlib.import_module("runkit.worker.here").Here()
        return importlib.import_module("runkit.client.cluster").here()
    raise AttributeError(f"module 'runkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
