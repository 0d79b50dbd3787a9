"""An env that is sent again asking for something else: all of it is noticed, and what was lost is said."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import runkit as rk
from tests.calls import jobs
from tests.envs.packages import wheel
from tests.hosts import Host

LOOK = "import os, importlib.util as u; print(os.path.exists('of_work.py'), u.find_spec('of_tools') is not None)"


def sent(cluster: rk.Cluster, **asked: Any) -> tuple[str, ...]:
    """Send the env, with an object in it before and after; the keys that were lost."""
    lost = rk.env(name="resent", root_reqs=False, **asked).to(cluster).lost_keys
    cluster.put("k", 1, env="resent")
    return lost


def test_every_part_is_noticed(cluster: rk.Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("work", "tools"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"of_{name}.py").write_text("")
    cluster.delete("k")
    assert sent(cluster) == ()
    capsys.readouterr()
    for asked in ({"env_vars": {"A": "1"}}, {"env_vars": {"A": "2"}}, {"compute": {"CPU": 1}}, {"compute": {"CPU": 0}},
                  {"setup_cmds": ["true"]}, {"setup_cmds": ["true", "true"]}, {}):  # fmt: skip
        assert sent(cluster, **asked) == ("k",), asked
        assert "'k'" in capsys.readouterr().err
        assert sent(cluster, **asked) == ()
    # What the process can take up as it runs costs nothing.
    for asked in ({"working_dir": tmp_path / "work"}, {"reqs": [str(tmp_path / "tools")]}, {}):
        assert sent(cluster, **asked) == (), asked
        [(_, out, _)] = cluster.run_python(LOOK, env="resent", stream_logs=False)
        assert out == f"{'working_dir' in asked} {'reqs' in asked}\n"


def test_another_file_of_the_same_version(cluster: rk.Cluster, tmp_path: Path) -> None:
    for number in (1, 2):
        wheel(tmp_path / str(number), "of_two_kinds", "1.0", body=f"NUMBER = {number}\n")
    for number in (1, 2):
        [file] = (tmp_path / str(number)).glob("*.whl")
        lost = sent(cluster, reqs=[str(file)])
        [(code, out, err)] = cluster.run_python(
            "import of_two_kinds; print(of_two_kinds.NUMBER)", env="resent", stream_logs=False
        )
        assert (code, out) == (0, f"{number}\n"), err
    assert lost == ("k",)


def test_more_than_there_is_just_now(cluster: rk.Cluster) -> None:
    """Giving up while it waits for it leaves the old process as it was; once there is enough the old one makes room."""
    many = cluster.status()["host"]["cpus"]
    if many < 2:
        pytest.skip("needs two CPUs")
    sent(cluster, compute={"CPU": 1})
    rk.env(name="holds", compute={"CPU": many - 1}, root_reqs=False).to(cluster)
    before = rk.function(jobs.pid).to(cluster, env="resent")()
    with pytest.raises(rk.errors.InstallTimeout, match="CPU"):
        rk.env(name="resent", compute={"CPU": many}, root_reqs=False, install_timeout=3).to(cluster)
    assert cluster.get("k") == 1
    assert rk.function(jobs.pid).to(cluster, env="resent")() == before
    cluster.remove_env("holds")
    assert sent(cluster, compute={"CPU": many}) == ("k",)
    cluster.remove_env("resent")


def test_two_clients_at_once(cluster: rk.Cluster, host: Host, tmp_path: Path) -> None:
    """Both get the one build."""
    program = tmp_path / "client.py"
    program.write_text(f"""
import sys
import runkit as rk
box = rk.cluster("box", **{host.place!r})
box.up_if_not()
print("up", flush=True)
input()
env = rk.env(name="twin", reqs=["six==1.16.0"], setup_cmds=["echo built >>~/builds-of-twin; sleep 1"], root_reqs=False)
print(env.to(box).status().pid)
""")
    clients = [
        subprocess.Popen(
            [sys.executable, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=tmp_path, env={**os.environ, "RUNKIT_HOME": str(tmp_path / str(number)), "PYTHONPATH": os.getcwd()},
        )
        for number in range(2)
    ]  # fmt: skip
    for client in clients:
        assert client.stdout is not None
        assert client.stdout.readline() == "up\n", client.communicate()
    for client in clients:
        assert client.stdin is not None
        client.stdin.write("go\n")
        client.stdin.flush()
    said = [client.communicate(timeout=120) for client in clients]
    assert [client.returncode for client in clients] == [0, 0], said
    assert {out for out, _ in said} == {f"{cluster.env_status('twin').pid}\n"}
    assert host.run("cat ~/builds-of-twin").stdout == "built\n"
    assert sum("wait for another" in err for _, err in said) == 1
    cluster.remove_env("twin")
