"""Conda environments on a real host, which reaches no channel: solved here, everything shipped, run by the real worker."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import runkit as rk
from runkit.cli.__main__ import main
from tests.calls import jobs
from tests.conda import Channel, channel
from tests.hosts import Host


@pytest.fixture(scope="module")
def orchard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Channel]:
    with channel(tmp_path_factory.mktemp("conda") / "channel") as made:
        yield made


def test_functions_and_commands_run_in_it(
    cluster: rk.Cluster, orchard: Channel, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {
        "name": "fruit",
        "channels": [orchard.url],
        "dependencies": [f"python={orchard.minor}", "orchard", "press"],
        "variables": {"OF_FILE": "hidden"},
    }
    env = rk.conda_env(conda_env=content, env_vars={"PRESS_VARIABLE": "mine"}, root_reqs=False)
    assert rk.function(jobs.python_version).to(cluster, env=env)().startswith(f"{orchard.minor}.")
    assert rk.function(jobs.version_of).to(cluster, env=env)("orchard") == "2.0"
    prefix = rk.function(jobs.environ).to(cluster, env=env)("CONDA_PREFIX")
    commands = ["echo $CONDA_DEFAULT_ENV $PRESS_HOME $PRESS_VARIABLE", "command -v python", "press"]
    expected = [f"fruit {prefix}/share/press mine\n", f"{prefix}/bin/python\n", f"press {prefix}\n"]
    assert [out for _, out, _ in cluster.run(commands, env="fruit", stream_logs=False)] == expected
    # A fresh process has the same variables, without a build.
    capsys.readouterr()
    with pytest.raises(rk.errors.WorkerDied):
        rk.function(jobs.die).to(cluster, env=env)("exit")
    assert [out for _, out, _ in cluster.run(commands, env="fruit", stream_logs=False)] == expected
    assert "solve" not in capsys.readouterr().err
    # A pip requirement more, and the process stays; another conda package, and it is replaced.
    pid = rk.function(jobs.pid).to(cluster, env=env)()
    more = rk.conda_env(conda_env=content, reqs=["six"], env_vars={"PRESS_VARIABLE": "mine"}, root_reqs=False)
    assert rk.function(jobs.pid).to(cluster, env=more)() == pid
    assert rk.function(jobs.version_of).to(cluster, env=more)("six")
    grown = rk.function(jobs.environ).to(cluster, env=more)("CONDA_PREFIX")
    assert grown != prefix
    expected = [f"fruit {grown}/share/press mine\n", f"{grown}/bin/python\n", f"press {grown}\n"]
    assert [out for _, out, _ in cluster.run(commands, env="fruit", stream_logs=False)] == expected
    other = {**content, "dependencies": [*content["dependencies"], "basket"]}
    more = rk.conda_env(conda_env=other, env_vars={"PRESS_VARIABLE": "mine"}, root_reqs=False)
    assert rk.function(jobs.pid).to(cluster, env=more)() != pid
    with pytest.raises(rk.errors.UsageError, match="conda"):
        more.lock(cluster)
    cluster.save()
    for options in ((), ("--json",)):
        assert main(["env", "show", "box", "fruit", *options]) == 0
        shown = capsys.readouterr().out
        assert "basket 1.0" in shown or '"basket": "1.0"' in shown
        assert ("OF_FILE" in shown, "hidden" in shown) == (True, False)
    cluster.clear()
    cluster.remove_env("fruit")


def test_code_by_value_wants_its_python(cluster: rk.Cluster, orchard: Channel) -> None:
    if orchard.minor == f"{sys.version_info[0]}.{sys.version_info[1]}":
        return
    env = rk.conda_env(conda_env={"channels": [orchard.url], "dependencies": [f"python={orchard.minor}"]}, name="other")
    with pytest.raises(rk.errors.PythonMismatch, match="by value"):
        rk.function(lambda: 1).to(cluster, env=env)


def test_a_default_env_of_conda(cluster: rk.Cluster, host: Host, orchard: Channel, tmp_path: Path) -> None:
    file = tmp_path / "environment.yml"
    file.write_text(f"name: main\nchannels: [{orchard.url}]\ndependencies: [python={orchard.minor}, press]\n")
    with rk.cluster("box", **host.place, default_env=rk.conda_env(conda_env=str(file), root_reqs=False)) as box:
        assert box.run("echo $CONDA_DEFAULT_ENV", stream_logs=False) == [(0, "main\n", "")]
        [(status, out, _)] = box.run("conda env list | grep '*'", stream_logs=False)  # the host has no conda
        assert (status, out.split()[:2]) == (0, ["main", "*"])
        [(status, _, error)] = box.run("conda install pear", stream_logs=False)
        assert status == 127
        assert "rk.conda_env" in error
        assert rk.function(jobs.python_version).to(box)().startswith(f"{orchard.minor}.")
        # On top of it
        assert rk.function(jobs.version_of).to(box, env=["six==1.16.0"])("six") == "1.16.0"
        assert rk.function(jobs.version_of).to(box, env=["conda:orchard<2"])("orchard") == "1.0"
        assert rk.function(jobs.version_of).to(box)("six") == "1.16.0"
        assert rk.function(jobs.environ).to(box)("PRESS_HOME")
        assert not [name for name in box.status()["envs"] if name.startswith("conda-")]
    cluster.remove_env("default")
    with pytest.raises(rk.errors.UsageError, match="orchard cannot be installed there by conda. Give the env a name"):
        rk.function(jobs.pid).to(cluster, env=["conda:orchard"])
