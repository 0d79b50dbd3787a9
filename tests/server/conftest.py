"""One server for the tests of this folder; those that end it or its Ray say so, and it is up again for the next."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.running import Server, free_ports


@pytest.fixture(scope="session")
def the_server(client_state: Path) -> Iterator[Server]:
    """The server, not necessarily up."""
    server = Server(free_ports())
    yield server
    server.stop()
    assert server.processes() == []


@pytest.fixture
def server(the_server: Server) -> Server:
    """The server, up."""
    the_server.start()
    return the_server
