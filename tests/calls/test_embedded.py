"""The embedded cluster of this machine, beside a Ray of somebody else; and a host that has next to nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import runkit as rk
from tests.calls import jobs
from tests.hosts import Host

OTHER_RAY = """
import ray, sys
ray.init(num_cpus=1, include_dashboard=False, _temp_dir=sys.argv[1], log_to_driver=False, address="local")
@ray.remote
class Counter:
    def __init__(self): self.n = 0
    def add(self):
        self.n += 1
        return self.n
counter = Counter.remote()
print(ray.get(counter.add.remote()), flush=True)
sys.stdin.readline()
print(ray.get(counter.add.remote()), len([n for n in ray.nodes() if n["Alive"]]), flush=True)
"""

SESSION = """
import os, sys
import runkit as rk
import helper
assert rk.here.is_up() is False
remote = rk.function(helper.work).to(rk.here)
print(remote(3))
print(rk.here, rk.here.server_port)
kept = rk.module(helper.Kept).to(rk.here, env=rk.env(name="own"))(name="kept")
print(kept.add(2), rk.here.keys(), kept.env)
print(rk.here.run("echo $((1 + 1))", stream_logs=False))
print(rk.cluster("here") is rk.here)
print(sorted(rk.here.status()["envs"]))
"""


@pytest.fixture
def somebody_else(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A Ray that runs on this machine already, started the usual way, with an actor."""
    folder = tempfile.mkdtemp(prefix="other-ray", dir="/tmp")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with subprocess.Popen(
        [sys.executable, "-c", OTHER_RAY, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        cwd=tmp_path,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        yield process
        process.kill()


def test_the_embedded_cluster(somebody_else: subprocess.Popen[str], tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "requirements.txt").write_text("six==1.17.0\n")
    (project / "helper.py").write_text(
        "import os\n"
        "def work(x):\n    import six\n    print('working')\n    return x * 2, six.__version__, os.environ.get('VIRTUAL_ENV')\n"
        "class Kept:\n    n = 0\n    def add(self, k):\n        self.n += k\n        return self.n\n"
    )
    with tempfile.TemporaryDirectory(prefix="rke", dir="/tmp") as folder:
        environment = {**os.environ, "RUNKIT_HOME": f"{folder}/home", "RUNKIT_RUNTIME_DIR": f"{folder}/run"}

        def run(code: str) -> list[str]:
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=project, env=environment, capture_output=True, text=True, timeout=200
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout.splitlines()

        try:
            lines = run(SESSION)
            assert lines[:2] == ["working", "(6, '1.17.0', None)"]
            assert lines[2].startswith("<Cluster 'here' at this machine (connected)>")
            assert lines[3:] == ["2 ['kept'] own", "[(0, '2\\n', '')]", "True", "['default', 'own']"]
            again = run("import runkit as rk\nprint(rk.here.is_up(), rk.here.get('kept', remote=True).add(3))")
            assert again == ["True 5"]  # another session, the same cluster
        finally:
            run("import runkit as rk\nrk.here.stop_server()\nprint(rk.here.is_up())")
        left = [pid for pid in os.listdir("/proc") if pid.isdigit() and _mentions(pid, folder)]
        assert left == []
    assert somebody_else.stdin is not None
    assert somebody_else.stdout is not None
    somebody_else.stdin.write("go on\n")
    somebody_else.stdin.flush()
    assert somebody_else.stdout.readline() == "2 1\n"


def _mentions(pid: str, text: str) -> bool:
    try:
        return text.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_a_bare_host(bare_host: Host) -> None:
    """No Python, no rsync, no curl, no internet: everything comes from here."""
    assert bare_host.run("command -v python3 || command -v rsync", check=False).returncode != 0
    with rk.cluster("bare", host=bare_host.address, ssh_port=bare_host.port, ssh_creds=bare_host.ssh_creds,
                    server_port=bare_host.server_port) as bare:  # fmt: skip
        try:
            assert rk.function(jobs.add).to(bare)(2, 3) == 5
            offset = 5
            assert rk.function(lambda x: x + offset).to(bare)(1) == 6  # the same minor version of Python
            env = rk.env(name="packaged", reqs=["six==1.17.0"], root_reqs=False)
            assert rk.function(jobs.version_of).to(bare, env=env)("six") == "1.17.0"
            bare.rsync(__file__, "~/sent.py")
            assert bare.run("ls ~/sent.py", stream_logs=False)[0][0] == 0
        finally:
            bare.stop_server()
