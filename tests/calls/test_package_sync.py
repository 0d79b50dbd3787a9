"""The environment of this very process, replicated on a real cluster."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uv

import runkit as rk
from runkit.cli.__main__ import main

BACKEND = """
import os, zipfile
def build_editable(folder, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(os.path.join(folder, "orchard-1.0-py3-none-any.whl"), "w") as wheel:
        info = "orchard-1.0.dist-info"
        wheel.writestr("orchard.pth", os.path.abspath("src") + "\\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: orchard\\nVersion: 1.0\\nRequires-Dist: iniconfig\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/entry_points.txt", "[console_scripts]\\norchard = orchard.fruit:main\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return "orchard-1.0-py3-none-any.whl"
"""


@pytest.fixture
def orchard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project that this process has as an editable install."""
    folder = tmp_path / "orchard"
    (folder / "src/orchard").mkdir(parents=True)
    (folder / "backend.py").write_text(BACKEND)
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "orchard"\nversion = "1.0"\n'
    )
    (folder / "src/orchard/__init__.py").write_text("")
    (folder / "src/orchard/fruit.py").write_text(
        "from orchard import tree\ndef count():\n    return tree.COUNT\ndef main():\n    print('picked', tree.COUNT)\n"
    )
    (folder / "src/orchard/tree.py").write_text("COUNT = 1\n")
    site = tmp_path / "lib" / "site-packages"
    install = [uv.find_uv_bin(), "pip", "install", "-q", "--python", sys.executable, "--no-deps", "--target", str(site)]
    subprocess.run([*install, "-e", str(folder)], check=True)
    monkeypatch.syspath_prepend(str(folder / "src"))
    monkeypatch.syspath_prepend(str(site))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "orchard"]:
        del sys.modules[name]


def test_an_edit_of_an_editable_install_runs_at_the_next_to(orchard: Path, cluster: rk.Cluster) -> None:
    env = rk.env(name="replicated", package_sync=rk.PackageSync(only=["orchard"]))
    count: Callable[[], int] = importlib.import_module("orchard.fruit").count
    remote = rk.function(count).to(cluster, env=env)
    assert remote() == 1
    cluster.put("kept", "here", env=env)
    (orchard / "src/orchard/tree.py").write_text("COUNT = 2\n")
    assert rk.function(count).to(cluster, env=env)() == 2
    (orchard / "src/orchard/tree.py").rename(orchard / "src/orchard/bush.py")
    (orchard / "src/orchard/fruit.py").write_text(
        "from orchard import bush\ndef count():\n    return open(bush.__file__).read()\n"
    )
    assert rk.function(count).to(cluster, env=env)() == "COUNT = 2\n"
    assert cluster.get("kept") == "here"

    def about() -> list[object]:
        import importlib.metadata as metadata

        import iniconfig  # what the editable install needs

        listed = sorted(one.metadata["Name"].lower() for one in metadata.distributions())
        try:
            import orchard.tree  # type: ignore[import-not-found]  # noqa: F401
        except ImportError as error:
            return [metadata.version("orchard"), iniconfig.__name__, listed, str(error)]
        return []

    version, needed, listed, gone = rk.function(about).to(cluster, env=env)()
    assert (version, needed) == ("1.0", "iniconfig")
    assert {"cloudpickle", "iniconfig", "orchard"} <= set(listed)  # type: ignore[call-overload]
    assert "pytest" not in listed  # type: ignore[operator]
    assert "orchard.tree" in str(gone)


def test_the_commands_of_an_editable_install_run(orchard: Path, cluster: rk.Cluster) -> None:
    env = rk.env(name="replicated", package_sync=rk.PackageSync(only=["orchard"]))
    [(code, out, err)] = cluster.run("orchard", env=env, stream_logs=False)
    assert (code, out) == (0, "picked 1\n"), err


def test_verify_compares_what_is_there_with_what_is_here(
    orchard: Path, cluster: rk.Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    env = rk.env(name="verified", package_sync=rk.PackageSync(only=["orchard"]))
    placed = env.to(cluster)
    cluster.save()
    verify = ["sync", "verify", "box", "verified", "--only", "orchard"]
    assert main(verify) == 0
    assert "is as it is here" in capsys.readouterr().out
    (orchard / "src/orchard/tree.py").write_text("COUNT = 7\n")
    assert main([*verify, "--extra", "numpy"]) == 1
    assert capsys.readouterr().out == f"{orchard} is not there as it is here\n"
    assert {"orchard", "cloudpickle"} <= {
        line.split('"')[1] for line in placed.lock().splitlines() if line.startswith("name = ")
    }
    assert env.lock(cluster) == placed.lock()
