"""Environments on a cluster, as a user meets them."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import runkit as rk
from tests.calls import jobs
from tests.calls.clients import until
from tests.calls.projects import Project
from tests.hosts import Host


@pytest.fixture(autouse=True)
def emptied(cluster: rk.Cluster) -> Iterator[None]:
    yield
    cluster.clear()


def version_in(cluster: rk.Cluster, env: rk.Env | str | None, package: str) -> str:
    return rk.function(jobs.version_of).to(cluster, env=env)(package)


def test_conflicting_versions_side_by_side(cluster: rk.Cluster) -> None:
    old = rk.env(name="old", reqs=["six==1.16.0"], root_reqs=False)
    new = rk.env(name="new", reqs=["six==1.17.0"], root_reqs=False)
    assert (version_in(cluster, old, "six"), version_in(cluster, new, "six")) == ("1.16.0", "1.17.0")
    assert version_in(cluster, old, "six") == "1.16.0"
    assert version_in(cluster, "old", "six") == "1.16.0"
    pids = {rk.function(jobs.pid).to(cluster, env=env)() for env in (old, new, None)}
    assert len(pids) == 3


def test_code_runs_at_ordinary_priority(cluster: rk.Cluster) -> None:
    of_this_process = (os.PRIO_PROCESS, 0)
    assert rk.function(os.getpriority).to(cluster)(*of_this_process) == os.getpriority(*of_this_process)


def test_environment_variables(cluster: rk.Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def sent(**variables: str) -> rk.Env:
        return rk.env(name="vars", env_vars=variables, root_reqs=False)

    see = rk.function(jobs.seen_at_import).to(cluster, env=sent(SEEN_AT_IMPORT="yes", OTHER="1"))
    assert see() == "yes"
    cluster.put("k", 1, env="vars")
    assert sent(SEEN_AT_IMPORT="yes", OTHER="1").to(cluster).lost_keys == ()
    capsys.readouterr()
    assert sent(SEEN_AT_IMPORT="again").to(cluster).lost_keys == ("k",)
    said = capsys.readouterr().err
    assert "'k'" in said
    assert "replaced" in said
    assert see() == "again"
    environ = rk.function(jobs.environ).to(cluster, env="vars")
    assert environ("OTHER") is None  # not sent again: gone
    assert cluster.keys() == []
    file = tmp_path / ".env"
    file.write_text("# of the project\nexport SEEN_AT_IMPORT='from a file'\n")
    env = rk.env(name="vars", env_vars=str(file), root_reqs=False)
    env.to(cluster)
    assert see() == "from a file"
    file.write_text("OTHER=2\n")
    env.to(cluster)
    assert (see(), environ("OTHER")) == (None, "2")


def test_a_conflict_is_explained_before_anything_changes(cluster: rk.Cluster) -> None:
    before = cluster.status()["envs"]
    began = time.monotonic()
    with pytest.raises(rk.errors.ResolutionFailed) as caught:
        rk.env(name="conflict", reqs=["requests==2.31.0", "urllib3==1.20"], root_reqs=False).to(cluster)
    assert time.monotonic() - began < 20
    assert "requests==2.31.0" in str(caught.value)
    assert "urllib3==1.20" in str(caught.value)
    with pytest.raises(rk.errors.ResolutionFailed, match="no-such-package-of-runkit"):
        rk.env(name="conflict", reqs=["no-such-package-of-runkit"], root_reqs=False).to(cluster)
    with pytest.raises(rk.errors.ResolutionFailed, match="ray"):
        rk.function(jobs.add).to(cluster, env=["ray==2.9.0"])  # the default env has the cluster's own Ray
    after = cluster.status()["envs"]
    assert {name: env["build"] for name, env in after.items()} == {name: env["build"] for name, env in before.items()}
    assert "conflict" not in after
    assert rk.function(jobs.add).to(cluster)(1, 1) == 2


def test_a_failed_set_up_leaves_the_old_one(cluster: rk.Cluster, host: Host) -> None:
    env = rk.env(name="setup", reqs=["six==1.16.0"], setup_cmds=["touch ~/setup-ran"], root_reqs=False)
    assert version_in(cluster, env, "six") == "1.16.0"
    assert (host.home / "setup-ran").exists()
    cluster.put("k", 1, env="setup")
    wrong = rk.env(
        name="setup", reqs=["six==1.17.0"], setup_cmds=["echo looking for it; ls ~/not-there-yet"], root_reqs=False
    )
    with pytest.raises(rk.errors.InstallFailed, match="not-there-yet") as caught:
        wrong.to(cluster)
    assert "looking for it" in caught.value.output
    assert version_in(cluster, "setup", "six") == "1.16.0"
    assert cluster.get("k") == 1
    host.run("touch ~/not-there-yet")
    assert wrong.to(cluster).lost_keys == ("k",)
    assert version_in(cluster, "setup", "six") == "1.17.0"


def test_another_python(cluster: rk.Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """Its interpreter is found or brought there; by-value code is refused before anything happens."""
    other = "3.12" if sys.version_info[:2] != (3, 12) else "3.11"
    env = rk.env(name="other-python", python=other, root_reqs=False)
    x = 1
    with pytest.raises(rk.errors.PythonMismatch, match=r"travels by value.*python="):
        rk.function(lambda: x).to(cluster, env=env)
    assert "other-python" not in cluster.status()["envs"]
    capsys.readouterr()
    try:
        version = rk.function(jobs.python_version).to(cluster, env=env)
    except rk.errors.InterpreterNotFound as error:
        pytest.skip(str(error))  # which fails a run in CI
    assert version().startswith(other)
    assert capsys.readouterr().out.startswith(other)
    value, name, keys = rk.function(jobs.use_store).to(cluster, env=env)("from there")
    assert (value, name, keys) == ({"python": tuple(map(int, other.split(".")))}, "other-python", ["from there"])
    assert cluster.get("from there") == value
    assert rk.function(jobs.get_here).to(cluster)("from there") == value
    with pytest.raises(rk.errors.PythonMismatch, match="an argument of echo"):
        rk.function(jobs.echo).to(cluster, env=env)(lambda: x)
    with pytest.raises(rk.errors.PythonMismatch):
        rk.function(lambda: x).to(cluster, env="other-python")()
    with pytest.raises(rk.errors.PythonMismatch):
        cluster.put("by value", lambda: x, env=env)
    with pytest.raises(rk.errors.PythonMismatch, match="in both envs"):
        rk.function(lambda: rk.here.put("by value", lambda: x, env="other-python")).to(cluster)()
    assert "by value" not in cluster.keys()
    trainer = rk.module(jobs.Trainer).to(cluster, env=env)(0.5, name="t")
    assert trainer.step() == 5.0
    assert trainer.fetch().loss == 5.0
    [(code, out, _)] = cluster.run_python("import sys; print(sys.version_info[:2])", env=env, stream_logs=False)
    assert (code, out) == (0, f"({other.replace('.', ', ')})\n")
    with pytest.raises(rk.errors.InterpreterNotFound, match=r"3\.99"):
        rk.env(name="future", python="3.99", root_reqs=False).to(cluster)
    assert "future" not in cluster.status()["envs"]


def test_requirements_on_top_of_the_default_env(cluster: rk.Cluster) -> None:
    cluster.put("kept", [1])
    identity = rk.function(jobs.identity_of).to(cluster)("kept")
    assert version_in(cluster, ["six==1.16.0"], "six") == "1.16.0"
    assert version_in(cluster, rk.env(reqs=["iniconfig==2.0.0"], root_reqs=False), "iniconfig") == "2.0.0"
    assert version_in(cluster, None, "six") == "1.16.0"
    assert rk.function(jobs.identity_of).to(cluster)("kept") == identity
    assert rk.function(jobs.version_of).to(cluster)("ray") == cluster.status()["ray"]["version"]


def test_more_packages_keep_objects_other_versions_do_not(
    cluster: rk.Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    def env(*reqs: str) -> rk.Env:
        return rk.env(name="growing", reqs=list(reqs), root_reqs=False)

    assert version_in(cluster, env("six==1.16.0"), "six") == "1.16.0"
    cluster.put("k", 1, env="growing")
    pid = rk.function(jobs.pid).to(cluster, env="growing")
    first = pid()
    assert env("six==1.16.0", "iniconfig==2.0.0").to(cluster).lost_keys == ()
    assert version_in(cluster, "growing", "iniconfig") == "2.0.0"
    assert (cluster.get("k"), pid()) == (1, first)
    capsys.readouterr()
    assert env("six==1.17.0", "iniconfig==2.0.0").to(cluster).lost_keys == ("k",)
    assert "'k'" in capsys.readouterr().err
    assert version_in(cluster, "growing", "six") == "1.17.0"
    assert pid() != first


def test_ray_in_the_default_env(cluster: rk.Cluster) -> None:
    """It is this cluster's, found without an address; its tasks run in the same env."""
    found = rk.function(jobs.in_ray).to(cluster)()
    assert found["task"][0].endswith(cluster.status()["envs"]["default"]["build"])
    assert found["nodes"] == 1
    assert found["address"] == cluster.status()["ray"]["address"]


def test_ray_in_a_named_env(cluster: rk.Cluster) -> None:
    version = cluster.status()["ray"]["version"]
    env = rk.env(name="with-ray", reqs=[f"ray=={version}"], env_vars={"FOR_RAY": "yes"}, root_reqs=False)
    found = rk.function(jobs.in_ray).to(cluster, env=env)()
    assert found["task"] == found["here"]
    assert found["here"][1] == "yes"


def test_compute(cluster: rk.Cluster) -> None:
    env = rk.env(name="computing", compute={"CPU": 1}, root_reqs=False)
    assert rk.function(jobs.add).to(cluster, env=env)(1, 2) == 3
    assert cluster.status()["envs"]["computing"]["compute"] == {"CPU": 1}
    with pytest.raises(rk.errors.UsageError, match=r"CPU: 1000 asked for"):
        rk.env(name="greedy", compute={"CPU": 1000}, root_reqs=False).to(cluster)
    assert "greedy" not in cluster.status()["envs"]
    rk.env(name="computing", root_reqs=False).to(cluster)  # gives the CPU back


def test_an_env_by_its_name(cluster: rk.Cluster) -> None:
    with pytest.raises(rk.errors.EnvNotFound, match=r"no env 'typo'.*rk\.env"):
        rk.function(jobs.add).to(cluster, env="typo")
    with pytest.raises(rk.errors.EnvNotFound, match="typo"):
        cluster.run("true", env="typo")
    before = cluster.status()["envs"]["default"]
    assert rk.function(jobs.which_env).to(cluster, env="default")() == "default"
    assert cluster.status()["envs"]["default"]["request"] == before["request"]


def test_an_env_that_several_projects_use(tmp_path: Path, cluster: rk.Cluster) -> None:
    """Each project's requirements.txt is installed; none takes another's away, nor does sending the env by itself."""
    code = """
        import runkit as rk
        from box import c
        from {name}_pkg import f
        env = rk.env(name="shared", reqs=["packaging"])
        print(rk.function(f).to(c, env=env)(), c.keys(env="shared"))
        c.put("of {name}", 1, env=env)
        print(env.to(c).lost_keys, c.run_python("import iniconfig, packaging", env=env, stream_logs=False)[0][0])
    """
    for name, line, keys in (("one", "iniconfig==2.0.0", []), ("two", "six==1.17.0", ["of one"])):
        source = f"from importlib.metadata import version\ndef f():\n    return version({line.split('==')[0]!r})\n"
        files = {"requirements.txt": line + "\n", f"{name}_pkg.py": source, "run.py": code.format(name=name)}
        printed = Project(tmp_path / name, cluster).write(files).run("run.py")
        assert printed == [f"{line.split('==')[1]} {keys}", "() 0"]
    assert cluster.keys(env="shared") == ["of one", "of two"]


def test_others_go_on_while_an_env_is_installed(cluster: rk.Cluster, host: Host) -> None:
    slow = rk.env(name="slow", setup_cmds=["touch ~/begun; n=0; until [ -e ~/go ]; do sleep 0.1; n=$((n + 1)); [ $n -lt 300 ]; done"],
                  root_reqs=False)  # fmt: skip
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(slow.to, cluster)
        try:
            assert until(lambda: (host.home / "begun").exists(), 60)
            cluster.put("k", 1)
            assert rk.function(jobs.add).to(cluster, env=rk.env(name="meanwhile", root_reqs=False))(1, 2) == 3
        finally:
            host.run("touch ~/go")
        sending.result(60)
    assert cluster.status()["envs"]["slow"]["state"] == "ready"


def test_how_much_is_told(
    cluster: rk.Cluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {}
    for number, level in enumerate(("debug", "info", "warning")):
        monkeypatch.setenv("RUNKIT_LOG", level)
        rk.env(name="told", setup_cmds=[f"echo line of {number}"], root_reqs=False).to(cluster)
        told[level] = capsys.readouterr().err
    assert re.search(r"find Python .* took \d+\.\d\d s", told["debug"])
    assert not re.search(r"took \d+\.\d", told["info"])
    assert "box: find Python" in told["info"]
    assert "line of 1" in told["info"]
    assert told["warning"] == ""
