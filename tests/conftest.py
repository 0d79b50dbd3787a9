"""Fixtures that every part shares: SSH hosts (see hosts.py) and a client state of the tests' own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts import Host, hosts
from tests.watchdog import watched_folder

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # a shell started this run in the background, and children inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    if os.getuid() == 0:
        return "hosts: network namespaces of their own"
    return "hosts: one sshd each on 127.0.0.1; passwords, cables and other users, which need root, are skipped"


@pytest.fixture(scope="session", autouse=True)
def client_state() -> Iterator[Path]:
    """runkit's state and known_hosts of this test run, for the whole session; what still runs under it afterwards is ended."""
    folder = watched_folder("rkt")
    settings = {
        "RUNKIT_HOME": folder / "home",
        "RUNKIT_RUNTIME_DIR": folder / "run",
        "RUNKIT_KNOWN_HOSTS": folder / "known_hosts",
        "PIP_CONFIG_FILE": os.devnull,  # the machine's own indexes steer no test
    }
    settings |= dict.fromkeys(("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"), "")
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update({name: str(value) for name, value in settings.items()})
    yield folder
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="session")
def all_hosts() -> Iterator[list[Host]]:
    """Two ordinary hosts and a bare one, on one network."""
    with hosts(n=3, bare={2}) as made:
        yield made


@pytest.fixture(scope="session")
def host(all_hosts: list[Host]) -> Host:
    """A host with Python 3 and rsync, shared by the whole session: leave it running and reachable."""
    return all_hosts[0]


@pytest.fixture(scope="session")
def hosts2(all_hosts: list[Host]) -> list[Host]:
    """Two hosts that reach each other; the first is `host`."""
    return all_hosts[:2]


@pytest.fixture(scope="session")
def bare_host(all_hosts: list[Host]) -> Host:
    """A host with sshd and a POSIX shell: no Python, rsync, sftp, uv, curl or git."""
    return all_hosts[2]
