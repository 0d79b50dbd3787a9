"""The keeper: a worker is started, its end is noticed and told, the next one comes. No Ray."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runkit.errors import EnvError
from runkit.servlet.keeper import Keeper
from runkit.servlet.processes import ProcessId, end, marked, of_session
from runkit.servlet.spawn import WorkerSpec, clean_environment
from tests.calls import jobs
from tests.calls.bare import Client
from tests.server.running import REPOSITORY, eventually


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rkk", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def spec(folder: Path) -> WorkerSpec:
    return WorkerSpec(
        env="np_env",
        mark=f"{folder}:np_env",
        python=sys.executable,
        boot=str(REPOSITORY / "runkit/worker/boot.py"),
        sockets=str(folder),
        control="",
        log=str(folder / "log" / "np_env.log"),
        environment=clean_environment(os.environ),
        env_vars={"A": "b"},
        roots_home=str(folder / "roots"),
    )


@pytest.fixture
def keeper(spec: WorkerSpec) -> Iterator[Keeper]:
    keeper = Keeper(spec, generation=5)
    keeper.start()
    yield keeper
    keeper.stop()
    assert marked(spec.mark) == []


def test_start_gives_a_worker_that_listens(keeper: Keeper, spec: WorkerSpec) -> None:
    worker = keeper.state()["worker"]
    assert worker["generation"] == 5
    assert Path(worker["socket"]).is_socket()
    assert Path(worker["socket"]).stat().st_mode & 0o077 == 0
    assert worker["rss"] > 1_000_000
    environment = Path(f"/proc/{worker['pid']}/environ").read_bytes().split(b"\0")
    assert b"A=b" in environment
    assert not any(entry.startswith(b"PYTHON") for entry in environment)


def test_death_by_signal(keeper: Keeper) -> None:
    pid = keeper.state()["worker"]["pid"]
    time.sleep(1)  # in the middle of its first imports the kept last lines would be frames of those
    os.kill(pid, signal.SIGSEGV)
    death = keeper.death(5, 5.0)
    assert death is not None
    assert (death["pid"], death["signal"], death["exitcode"], death["reason"]) == (pid, "SIGSEGV", None, "died")
    assert "Segmentation fault" in death["stderr"] or "Current thread" in death["stderr"]
    fresh = eventually(lambda: keeper.state()["worker"])
    assert fresh["generation"] == 6
    assert keeper.state()["restarts"] == 1


def test_a_fresh_worker_comes_at_once(keeper: Keeper) -> None:
    time.sleep(2.1)  # one that lived for a while is replaced without a pause
    began = time.monotonic()
    os.kill(keeper.state()["worker"]["pid"], signal.SIGKILL)
    eventually(lambda: (keeper.state()["worker"] or {}).get("generation") == 6)
    assert time.monotonic() - began < 2.0  # a tenth of a second on an idle machine


def test_death_is_unknown_while_it_runs(keeper: Keeper) -> None:
    assert keeper.death(5, 0.1) is None
    assert keeper.death(1, 0.1) is None


def test_replace_says_so(keeper: Keeper) -> None:
    before = keeper.state()["worker"]
    after = keeper.replace("tests want it")["worker"]
    assert after["generation"] == before["generation"] + 1
    assert not ProcessId(before["pid"], 0).alive()
    death = keeper.death(before["generation"])
    assert death is not None
    assert death["reason"] == "replaced"
    assert not Path(before["socket"]).exists()


def test_replace_only_that_generation(keeper: Keeper) -> None:
    assert keeper.replace("late", generation=4)["worker"]["generation"] == 5


def test_replacement_that_does_not_start_leaves_the_old_one(keeper: Keeper, spec: WorkerSpec, folder: Path) -> None:
    broken = folder / "boot.py"
    broken.write_text("import sys; print('no such thing', file=sys.stderr); sys.exit(4)")
    with pytest.raises(EnvError, match=r"exit code 4[\s\S]*no such thing"):
        keeper.replace("a new env", spec.but(boot=str(broken)))
    assert keeper.state()["worker"]["generation"] == 5
    os.kill(keeper.state()["worker"]["pid"], signal.SIGKILL)  # and the next one is of the old kind again
    assert eventually(lambda: (keeper.state()["worker"] or {}).get("generation", 0) > 5)


def test_interpreter_that_is_not_there(spec: WorkerSpec) -> None:
    with pytest.raises(EnvError, match="does not start"):
        Keeper(spec.but(python="/no/such/python")).start()


def test_worker_that_keeps_dying_is_not_started_in_a_loop(spec: WorkerSpec, folder: Path) -> None:
    boot = folder / "boot.py"
    boot.write_text(
        "import json, os, sys, time\n"
        "config = json.load(sys.stdin)\n"
        f"open({str(folder / 'starts')!r}, 'a').write('x')\n"
        "os.write(config['ready_fd'], b'{}\\n')\n"
        "os._exit(7)\n"
    )
    keeper = Keeper(spec.but(boot=str(boot)))
    keeper.start()
    time.sleep(1.5)
    keeper.stop()
    assert 2 <= len((folder / "starts").read_text()) < 15
    death = keeper.death(1)
    assert death is not None
    assert death["exitcode"] == 7


def test_children_go_with_their_worker(spec: WorkerSpec, folder: Path) -> None:
    boot = folder / "boot.py"
    boot.write_text(
        "import json, os, subprocess, sys, time\n"
        "config = json.load(sys.stdin)\n"
        "child = subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"  # a daemon, out of every group
        "os.write(config['ready_fd'], b'{}\\n')\n"
        "time.sleep(1000)\n"
    )
    keeper = Keeper(spec.but(boot=str(boot)))
    pid = keeper.start()["worker"]["pid"]
    eventually(lambda: len(marked(spec.mark)) == 2)  # a process that has just been started shows no environment yet
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: keeper.death(1))
    eventually(lambda: len(marked(spec.mark)) == 2 and keeper.state()["worker"])  # the next worker and its child
    keeper.stop()
    assert marked(spec.mark) == []


def test_what_an_earlier_keeper_left_is_ended(spec: WorkerSpec) -> None:
    import subprocess

    environment = {**os.environ, "RUNKIT_WORKER": f"{spec.mark}:3"}  # a child of a worker whose keeper was killed
    with subprocess.Popen(["sleep", "1000"], env=environment, start_new_session=True) as child:
        keeper = Keeper(spec, generation=9)
        keeper.start()
        try:
            assert child.poll() == -signal.SIGTERM
        finally:
            keeper.stop()


def test_what_the_dead_worker_wrote_last_is_not_lost(spec: WorkerSpec, folder: Path) -> None:
    boot = folder / "boot.py"
    boot.write_text(
        "import json, os, sys\n"
        "config = json.load(sys.stdin)\n"
        "os.write(config['ready_fd'], b'{}\\n')\n"
        "for n in range(100): print('line', n, file=sys.stderr)\n"
        "sys.stderr.flush(); os.abort()\n"
    )
    keeper = Keeper(spec.but(boot=str(boot)))
    keeper.start()
    death = eventually(lambda: keeper.death(1))
    keeper.stop()
    assert death["signal"] == "SIGABRT"
    assert death["stderr"].splitlines()[-1] == "line 99"
    assert 10 <= len(death["stderr"].splitlines()) <= 40
    assert "line 0\n" in Path(spec.log).read_text()


def test_worker_and_its_children_end_when_its_keeper_is_killed(spec: WorkerSpec, folder: Path) -> None:
    code = (
        "import sys, time\n"
        f"sys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from runkit.servlet.keeper import Keeper\n"
        "from runkit.servlet.conda import Activation\n"
        "from runkit.servlet.spawn import WorkerSpec\n"
        f"keeper = Keeper({spec!r})\n"
        "print(keeper.start()['worker']['pid'], flush=True); time.sleep(1000)\n"
    )
    import subprocess

    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        worker = ProcessId.of(int(holder.stdout.readline()))
        assert worker is not None
        [path] = folder.glob("*.sock")
        client = Client(str(path))
        client.call(jobs.spawn_sleeper, 1000)
        eventually(lambda: len(marked(spec.mark)) == 2)
        holder.kill()
        client.drop()
    assert worker.wait(5.0)
    eventually(lambda: marked(spec.mark) == [])


class TestProcessId:
    def test_a_number_alone_is_not_enough(self) -> None:
        import subprocess

        with subprocess.Popen(["sleep", "100"]) as sleeper:
            real = ProcessId.of(sleeper.pid)
            assert real is not None
            assert real.alive()
            other = ProcessId(real.pid, real.started - 1)  # an earlier process of the same number
            assert not other.alive()
            assert not other.signal(signal.SIGKILL)
            assert end([other]) == []
            assert sleeper.poll() is None
            assert real.signal(signal.SIGKILL)

    def test_json(self) -> None:
        me = ProcessId.of(os.getpid())
        assert me is not None
        assert ProcessId.from_json(me.as_json()) == me
        assert ProcessId.from_json({"pid": "x"}) is None
        assert ProcessId.from_json(None) is None

    def test_marks_are_not_prefixes_of_names(self, folder: Path) -> None:
        import subprocess

        with subprocess.Popen(["sleep", "100"], env={"RUNKIT_WORKER": f"{folder}:np_env:3"}) as sleeper:
            assert [one.pid for one in marked(f"{folder}:np_env")] == [sleeper.pid]
            assert [one.pid for one in marked(str(folder))] == [sleeper.pid]
            assert marked(f"{folder}:np") == []
            sleeper.kill()

    def test_session(self) -> None:
        import subprocess

        environment = {**os.environ, "OURS": "yes"}
        command = "sleep 100 & sleep 100 & OURS=no sleep 100 & wait"
        with subprocess.Popen(["sh", "-c", command], env=environment, start_new_session=True) as leader:
            me = ProcessId.of(leader.pid)
            assert me is not None
            eventually(lambda: len(of_session(me, "OURS=no")) == 1)
            found = of_session(me, "OURS=yes")
            assert len(found) == 3
            leader.kill()
            leader.wait()
            assert len(of_session(me, "OURS=yes")) == 2  # also when the leader has gone
            (other,) = of_session(me, "OURS=no")  # somebody who has the number by chance
            end(found)
            assert of_session(me, "OURS=yes") == []
            assert other.alive()
            end([other])

    def test_session_whose_number_is_somebody_elses(self) -> None:
        import subprocess

        environment = {**os.environ, "OURS": "yes"}
        with subprocess.Popen(["sleep", "100"], env=environment, start_new_session=True) as sleeper:
            real = ProcessId.of(sleeper.pid)
            assert real is not None
            eventually(lambda: of_session(real, "OURS=yes") == [real])  # a new process has its variables a moment later
            earlier = ProcessId(real.pid, real.started - 1)
            assert of_session(earlier, "OURS=yes") == []
            sleeper.kill()
