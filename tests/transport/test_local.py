"""This machine as a host."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from runkit.transport import Transport, make_transport
from tests.transport.conformance import TransportConformance


class TestLocal(TransportConformance):
    @pytest.fixture
    def transport(self) -> Iterator[Transport]:
        with make_transport(None) as transport:
            yield transport


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs as a number /etc/passwd does not have."""
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 54321)
    assert make_transport(None).description == "user 54321@this machine"
