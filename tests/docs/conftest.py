"""What README and docs show runs on the embedded cluster of this run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conda import channel, module


@pytest.fixture(scope="package", autouse=True)
def embedded_cluster() -> Iterator[None]:
    """Pages and the main job use `rk.here`; what they started ends with them."""
    import runkit as rk

    yield
    rk.here.stop_server()


@pytest.fixture(scope="package", autouse=True)
def conda_forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A small channel in place of conda-forge, by the means that a user has for a mirror: `.condarc`."""
    folder = tmp_path_factory.mktemp("conda")
    with (
        channel(folder / "channel", below="/conda-forge", python="3.12") as made,
        pytest.MonkeyPatch.context() as patch,
    ):
        made.add("numpy", "1.26.4", module("numpy", "1.26.4"), noarch="python", depends=["python"])
        (folder / "condarc").write_text(f"channel_alias: {made.url.removesuffix('/conda-forge')}\n")
        patch.setenv("CONDARC", str(folder / "condarc"))
        yield
