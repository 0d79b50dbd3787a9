"""A host of these tests' own, which they may cut off, kill and set up differently."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts import Host, hosts


@pytest.fixture(scope="session")
def spare() -> Iterator[Host]:
    with hosts(1) as (host,):
        yield host


@pytest.fixture
def own_host(spare: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """Whatever a test did to it, the next one finds it as it was, and does not know its key."""
    monkeypatch.setenv("RUNKIT_KNOWN_HOSTS", str(tmp_path / "own_known_hosts"))
    yield spare
    spare.kill()
    spare.start()
    spare.configure()
