"""What README and docs show runs on the embedded cluster of this run."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from tests.conda import channel, module
from tests.git_servers import Repository, package, serve


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


@pytest.fixture(scope="package")
def gits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The git servers that pages name, on this machine; variables with which git finds them here, and the token for one."""
    token = f"{secrets.token_hex(8)}@/:%"
    public, private = (tmp_path_factory.mktemp(name) for name in ("public", "private"))
    Repository(public, "plum").commit(package("plum", "1.0"), "v1.0")
    Repository(private, "recipes").commit(package("recipes", "2.1", below="python/"), "v2.1")
    with serve(public / "served") as github, serve(private / "served", password=token) as own:
        settings = public / "gitconfig"
        settings.write_text(
            f'[url "{github.url}/"]\n\tinsteadOf = https://github.com/acme/\n'
            f'[url "{own.url}/"]\n\tinsteadOf = https://git.acme.dev/team/\n'
        )
        yield {"GIT_CONFIG_GLOBAL": str(settings), "ACME_TOKEN": token}
