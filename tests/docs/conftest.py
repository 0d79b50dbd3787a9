"""What README and docs show runs on the embedded cluster of this run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def embedded_cluster() -> Iterator[None]:
    """Pages and the main job use `rk.here`; what they started ends with them."""
    import runkit as rk

    yield
    rk.here.stop_server()
