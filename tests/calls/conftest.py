"""One cluster for all tests of calls: a real host, a real server, real workers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

import runkit as rk
from tests.hosts import Host


@pytest.fixture(scope="session")
def cluster(host: Host) -> Iterator[rk.Cluster]:
    """The cluster on the shared host."""
    found = rk.cluster("box", **host.place)
    found.up_if_not()
    yield found
    with contextlib.suppress(rk.errors.RunkitError):
        found.stop_server()


@pytest.fixture(scope="session")
def side(cluster: rk.Cluster) -> rk.Env:
    """A second env on it, with nothing installed: for tests that kill processes."""
    env = rk.env(name="side", root_reqs=False)
    env.to(cluster)
    return env


@pytest.fixture(scope="session")
def arrays(cluster: rk.Cluster) -> rk.Env:
    """An env that has numpy."""
    env = rk.env(name="arrays", reqs=["numpy"], root_reqs=False)
    env.to(cluster)
    return env
