"""The cluster's default env: given with the cluster, used by whatever names no env, kept by the server and by `save()`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import runkit as rk
from tests.calls import jobs
from tests.hosts import Host


@pytest.fixture(scope="module")
def place(cluster: rk.Cluster, host: Host) -> Iterator[dict[str, object]]:
    """The shared host; its default env is reset afterwards."""
    yield host.place
    cluster.remove_env("default")


@pytest.fixture
def default() -> rk.Env:
    return rk.env(name="cluster_default", reqs=["six==1.16.0"], env_vars={"OF_DEFAULT": "yes"}, root_reqs=False)


def version(cluster: rk.Cluster, package: str, env: object = None) -> str:
    return rk.function(jobs.version_of).to(cluster, env=env)(package)  # type: ignore[arg-type]


def test_what_names_no_env_runs_in_it(
    place: dict[str, object], default: rk.Env, cluster: rk.Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.put("before", 1)
    with rk.cluster("box", **place, default_env=default) as box:  # type: ignore[arg-type]
        assert "'before'" in capsys.readouterr().err  # what went with the process of the one before
        assert version(box, "six") == "1.16.0"
        assert rk.function(jobs.environ).to(box)("OF_DEFAULT") == "yes"
        assert box.run("echo $OF_DEFAULT", stream_logs=False) == [(0, "yes\n", "")]
        assert version(box, "ray") == box.status()["ray"]["version"]
        # On top of it
        box.put("k", 1)
        assert version(box, "iniconfig", ["iniconfig==2.0.0"]) == "2.0.0"
        assert version(box, "six", rk.env(name="default", reqs=["iniconfig==2.0.0"], root_reqs=False)) == "1.16.0"
        assert box.get("k") == 1
        # By its own name, as object and as text; no second env comes of it.
        for env in (default, "cluster_default", "default"):
            assert version(box, "six", env) == "1.16.0"
            assert box.keys(env=env) == ["k"]
        assert "cluster_default" not in box.status()["envs"]
        assert (box.status()["envs"]["default"]["alias"], box.get("k")) == ("cluster_default", 1)
    # A client that gives none uses what is there, by whatever name.
    assert version(cluster, "iniconfig") == "2.0.0"
    assert version(cluster, "six", "cluster_default") == "1.16.0"
    assert cluster.keys(env="cluster_default") == ["k"]
    assert version(cluster, "six", rk.env(reqs=["six"], root_reqs=False)) == "1.16.0"
    assert cluster.get("k") == 1


def test_another_one_takes_its_place(
    place: dict[str, object], default: rk.Env, cluster: rk.Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    box = rk.cluster("box", **place, default_env=default)  # type: ignore[arg-type]
    assert version(box, "iniconfig", ["iniconfig==2.0.0"]) == "2.0.0"
    box.put("k", 1)
    other = rk.cluster("box", **place, default_env=rk.env(reqs=["six==1.17.0"], root_reqs=False))  # type: ignore[arg-type]
    capsys.readouterr()
    assert version(other, "six") == "1.17.0"
    said = capsys.readouterr().err
    for words in ("'cluster_default' is replaced", "iniconfig==2.0.0", "'k'"):
        assert words in said
    assert rk.function(jobs.environ).to(other)("OF_DEFAULT") is None
    # A client without one may change it by the name it was given.
    box.up_if_not()
    rk.env(name="cluster_default", reqs=["six==1.17.0"], root_reqs=False).to(cluster)
    assert "cluster_default" not in cluster.status()["envs"]
    assert version(cluster, "six") == "1.17.0"
    # What cannot be made leaves it as it is.
    wrong = rk.cluster("box", **place, default_env=["six==1.16.0", "six==1.17.0"])  # type: ignore[arg-type]
    with pytest.raises(rk.errors.ResolutionFailed, match="six"):
        wrong.up_if_not()
    assert version(cluster, "six") == "1.17.0"
    for one in (box, other, wrong):
        one.disconnect()


def test_another_python(place: dict[str, object], cluster: rk.Cluster) -> None:
    other = "3.12" if sys.version_info[:2] != (3, 12) else "3.11"
    with pytest.raises(rk.errors.PythonMismatch, match="by value"):
        rk.function(lambda: 1).to(rk.cluster("box", **place, default_env=rk.env(python=other)))  # type: ignore[arg-type]
    try:
        with rk.cluster("box", **place, default_env=rk.env(python=other, root_reqs=False)) as box:  # type: ignore[arg-type]
            [(code, out, _)] = box.run_python("import ray, sys; print(sys.version_info[:2])", stream_logs=False)
    except rk.errors.InterpreterNotFound as error:
        pytest.skip(str(error))  # which fails a run in CI
    assert (code, out) == (0, f"({other.replace('.', ', ')})\n")


def test_its_folder_and_its_file_follow_edits(place: dict[str, object], cluster: rk.Cluster, tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    module, file = tmp_path / "tools/helper_of_default.py", tmp_path / ".env"
    module.write_text("WORD = 'one'\n")
    file.write_text("OF_FILE=one\n")
    env = rk.env(reqs=[str(tmp_path / "tools")], env_vars=str(file), root_reqs=False)
    look = ["import os, helper_of_default", "print(helper_of_default.WORD, os.environ['OF_FILE'])"]
    with rk.cluster("box", **place, default_env=env) as box:  # type: ignore[arg-type]
        assert box.run_python(look, stream_logs=False)[0][1] == "one one\n"
        assert version(box, "six", rk.env(reqs=["six==1.16.0"], root_reqs=False)) == "1.16.0"
        module.write_text("WORD = 'two'\n")
        assert box.run_python(look, stream_logs=False)[0][1] == "two one\n"
        assert version(box, "six") == "1.16.0"
        file.write_text("OF_FILE=two\n")
        assert box.run_python(look, stream_logs=False)[0][1] == "two two\n"


def test_saved_with_the_cluster(place: dict[str, object], default: rk.Env, tmp_path: Path) -> None:
    rk.cluster("with-default", **place, default_env=default).save()  # type: ignore[arg-type]
    assert rk.cluster("with-default").default_env == default
    assert rk.cluster("with-default", default_env=["six"]).default_env == rk.env(reqs=["six"])
    whole = rk.env(
        reqs=["numpy>=1 ; python_version > '3'", str(tmp_path)], working_dir=tmp_path, setup_cmds=["true"], python="3.12",
        compute={"CPU": 1}, install_timeout=10,
    )  # fmt: skip
    rk.cluster("with-default", **place, default_env=whole).save()  # type: ignore[arg-type]
    assert rk.cluster("with-default").default_env == whole
    secret = rk.cluster("leaky", **place, default_env=["x @ https://me:hidden@example.org/x.whl"])  # type: ignore[arg-type]
    with pytest.raises(rk.errors.UsageError, match="password") as caught:
        secret.save()
    assert "hidden" not in str(caught.value)
    with pytest.raises(rk.errors.UsageError, match="default_env is an Env"):
        rk.cluster("x", host="h", default_env="name")  # type: ignore[arg-type]
