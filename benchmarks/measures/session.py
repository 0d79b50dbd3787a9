"""A cluster on the benchmark's SSH host, and the functions of the 1,000-file root."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy

import runkit as rk
from benchmarks.place import make_root
from tests.hosts import Host

ENV = "bench"


def cluster_on(host: Host, name: str = "bench") -> Any:
    """The cluster object for a host of `tests.hosts`."""
    return rk.cluster(
        name, host=host.address, ssh_port=host.port, ssh_creds=host.ssh_creds, server_port=host.server_port
    )


def numpy_env() -> Any:
    """The env of the calls: this side's own numpy, so that arrays load on both sides."""
    return rk.env(name=ENV, reqs=[f"numpy=={numpy.__version__}"])


@dataclass
class Session:
    """A warm cluster with an env, and what was sent to it."""

    host: Host
    root: Path = field(default_factory=lambda: make_root("runkit"))
    cluster: Any = None
    env: Any = None
    functions: ModuleType | None = None

    def open(self) -> Session:
        sys.path.insert(0, str(self.root))
        self.functions = importlib.import_module("benchfns")
        self.cluster = cluster_on(self.host).up_if_not()
        self.env = numpy_env()
        return self

    def send(self, name: str = "echo") -> Callable[..., Any]:
        """`.to()` one of the root's functions."""
        sent: Callable[..., Any] = rk.function(getattr(self.functions, name)).to(self.cluster, env=self.env)
        return sent
