"""The local environment replicated: real virtual environments, scanned, planned, installed on a host and compared there."""

from __future__ import annotations

import platform
from pathlib import Path

from host import Host
from packages import Index, wheel
from venvs import Client, Venv, project, versions

ONE_QUESTION = ["POST /v1/ensure"]


def test_what_is_here_is_there(replicating: Client, host: Host, shop: Index, venv: Venv, tmp_path: Path) -> None:
    mine = project(tmp_path / "mine", "mine", requires='["apple"]')
    venv.install("apple==1.0", "-e", str(mine))
    assert replicating.send(venv).changed
    assert versions(host) == {"apple": "1.0", "mine": "1.0"}
    assert host.plans["e"]["python"]["version"] == platform.python_version()
    [root] = replicating.replica.roots
    assert (root.path, root.paths[0]) == (mine, "src")
    assert replicating.warnings == []
    said = "import importlib.metadata as m; print(m.version('mine'), m.requires('mine'), m.entry_points(group='fruit')['sort'].value)"
    assert host.run("e", said) == venv.run(said) == "1.0 ['apple'] mine:VALUE"
    assert (host.home / "envs" / host.plans["e"]["build"] / "bin" / "mine-hello").exists()
    assert not replicating.send(venv).changed
    assert host.calls == ONE_QUESTION


def test_an_edit_of_an_editable_install_costs_no_build(
    replicating: Client, host: Host, venv: Venv, tmp_path: Path
) -> None:
    mine = project(tmp_path / "mine", "mine")
    venv.install("-e", str(mine))
    replicating.send(venv)
    (mine / "src/mine/__init__.py").write_text("VALUE = 2\n")
    (mine / "src/mine/data.json").write_text("{}")
    assert not replicating.send(venv).changed
    assert host.calls == ONE_QUESTION  # the root's digest goes with it
    (mine / "pyproject.toml").write_text((mine / "pyproject.toml").read_text().replace('"1.0"', '"1.1"'))
    venv.install("-e", str(mine))
    assert replicating.send(venv).changed
    assert host.run("e", "import importlib.metadata as m; print(m.version('mine'))") == "1.1"


def test_one_changed_package_travels_alone(
    replicating: Client, host: Host, shop: Index, venv: Venv, tmp_path: Path
) -> None:
    host.online = False
    shop.add(wheel(tmp_path, "quince", "1.0"))
    venv.install("apple==1.0", "quince")
    replicating.send(venv)
    assert len([call for call in host.calls if call.startswith("PUT /v1/wheels/")]) == 2
    venv.install("apple==2.0")
    replicating.send(venv)
    [sent] = [call for call in host.calls if call.startswith("PUT /v1/wheels/")]
    assert sent.endswith("apple-2.0-py3-none-any.whl")
    venv.uninstall("quince")
    replicating.send(venv)
    assert not any(call.startswith("PUT /v1/wheels/") for call in host.calls)
    assert versions(host) == {"apple": "2.0"}
