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
