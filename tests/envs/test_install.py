"""The installer of the host, with real uv, in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import uv
from packages import Index, sdist, wheel

from runkit.client.host_platform import Platform
from runkit.client.lock import Lock
from runkit.client.resolve import resolve
from runkit.client.wheels import WheelStore
from runkit.errors import InstallFailed, InterpreterNotFound
from runkit.model.env import env
from runkit.servlet.install import Built, install, read_marker, site_packages


class Place:
    """A host's home, a plan made from requirements, and the events of its builds."""

    def __init__(self, home: Path, target: Platform) -> None:
        self.home = home
        self.target = target
        self.events: list[dict[str, Any]] = []

    def plan(self, build: str, reqs: list[str], *, ship: bool = True, **parts: Any) -> dict[str, Any]:
        lock = resolve(env(reqs=reqs).requirements(), self.target)
        shipped: set[str] = set()
        if ship:
            store = WheelStore(self.home / "wheels")
            shipped = {artifact.sha256 for artifact in store.fetch([package.artifact for package in lock.packages])}
            for package in lock.packages:
                if package.artifact.path:
                    store.add(Path(package.artifact.path))
        return self.of_lock(build, lock, shipped, **parts)

    def of_lock(self, build: str, lock: Lock, shipped: set[str], **parts: Any) -> dict[str, Any]:
        plan = {
            "build": build,
            "python": {"version": self.target.python, "path": sys.executable},
            "lock": lock.text(shipped),
            "packages": lock.pairs,
            "env_vars": {},
            "setup_cmds": [],
            "working_dir": None,
        }
        return {**plan, **parts}

    def install(self, plan: dict[str, Any], **options: Any) -> Built:
        place = {"home": self.home, "uv": Path(uv.find_uv_bin()), "environment": os.environ}
        return install(plan, **{**place, "emit": self.events.append, **options})

    @property
    def logs(self) -> list[str]:
        return [event["log"] for event in self.events if "log" in event]


@pytest.fixture
def place(tmp_path: Path, target: Platform) -> Place:
    return Place(tmp_path / "home", target)


def run(built: Built, code: str) -> str:
    done = subprocess.run([built.python, "-I", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_shipped_wheels_are_installed_without_a_network(
    place: Place, shop: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = place.plan("b1", ["pie"])
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    shop.requests.clear()
    built = place.install(plan)
    assert built.created
    assert run(built, "import apple, pie; print(apple.__version__, pie.__version__)") == "1.0 1.0"
    assert shop.requests == []
    assert not list(site_packages(built.path).glob("*/direct_url.json"))
    assert " + pie==1.0" in [line.split(" (")[0] for line in place.logs]
    assert subprocess.check_output([built.path / "bin" / "pie-hello"], text=True) == "pie\n"


def test_the_marker_says_what_is_there(place: Place, shop: Index) -> None:
    built = place.install(place.plan("b1", ["apple"]))
    marker = json.loads((built.path / "runkit-env.json").read_text())
    assert set(marker) == {"packages", "python", "created"}
    assert marker["packages"] == [["apple", "2.0"]]
    assert marker["python"] == str(built.python)
    assert read_marker(built.path) == marker


def test_what_the_host_reaches_it_fetches_itself(place: Place, shop: Index) -> None:
    built = place.install(place.plan("b1", ["apple"], ship=False))
    assert run(built, "import apple; print(apple.__version__)") == "2.0"
    assert not list((place.home / "wheels").iterdir())


def test_a_second_install_finds_the_first(place: Place, shop: Index) -> None:
    plan = place.plan("b1", ["apple"])
    assert place.install(plan).created
    place.events.clear()
    assert not place.install(plan).created
    assert place.events == []


def test_two_at_once_make_one(place: Place, shop: Index) -> None:
    plan = place.plan("b1", ["apple"], setup_cmds=["echo once >> ../count; sleep 0.5"], working_dir=None)
    plan["setup_cmds"] = [f"echo once >> {place.home}/count; sleep 0.5"]
    built: list[Built] = []
    threads = [threading.Thread(target=lambda: built.append(place.install(plan))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.created for one in built) == [False, False, True]
    assert (place.home / "count").read_text() == "once\n"
    assert {"phase": "wait for another install of the same env"} in place.events


def test_a_build_that_was_cut_off_is_made_again(place: Place, shop: Index) -> None:
    plan = place.plan("b1", ["apple"])
    built = place.install(plan)
    (built.path / "runkit-env.json").unlink()
    (built.path / "leftover").touch()
    again = place.install(plan)
    assert again.created
    assert not (built.path / "leftover").exists()


def test_an_env_whose_interpreter_went_is_made_again(place: Place, shop: Index) -> None:
    plan = place.plan("b1", ["apple"])
    built = place.install(plan)
    built.python.unlink()
    built.python.symlink_to("/nowhere/python3")
    assert place.install(plan).created


def test_a_failing_command_takes_the_build_with_it_and_no_other(place: Place, shop: Index) -> None:
    working = place.install(place.plan("b1", ["apple<2"]))
    with pytest.raises(InstallFailed, match="exit code 3") as caught:
        place.install(place.plan("b2", ["apple"], setup_cmds=["echo on stdout; echo on stderr >&2; exit 3"]))
    assert caught.value.output == "on stdout\non stderr"
    assert not (place.home / "envs" / "b2").exists()
    assert run(working, "import apple; print(apple.__version__)") == "1.0"
    assert place.install(place.plan("b2", ["apple"])).created


def test_a_corrupted_wheel_is_not_installed(place: Place, shop: Index) -> None:
    plan = place.plan("b1", ["apple"])
    (kept,) = (place.home / "wheels").glob("*/apple-2.0-*.whl")
    kept.write_bytes(wheel(place.home / "evil", "apple", "2.0", body="evil = True\n").read_bytes())
    with pytest.raises(InstallFailed, match="Hash mismatch"):
        place.install(plan)
    assert not (place.home / "envs" / "b1").exists()


def test_a_build_on_the_host_that_fails_shows_its_output(place: Place, tmp_path: Path) -> None:
    plan = place.plan("b1", [str(sdist(tmp_path, "rye", "1.0", broken=True))])
    with pytest.raises(InstallFailed, match="no compiler for you"):
        place.install(plan)


def test_what_a_compiler_said_long_before_the_end_is_told(place: Place, shop: Index) -> None:
    report = 'echo "rye.c:1:2: error: no such thing"; for i in $(seq 200); do echo a report $i; done; exit 1'
    with pytest.raises(InstallFailed, match="error: no such thing\n\\.\\.\\.\n(?s:.*)a report 200"):
        place.install(place.plan("b1", [], setup_cmds=[report]))


def test_set_up_commands_run_in_the_env(place: Place, shop: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere/else")
    root = place.home / "roots" / "r1" / "tree"
    root.mkdir(parents=True)
    commands = [
        "echo $FRUIT",
        "pwd",
        "command -v python",
        "python -c 'import apple; print(apple.__version__)'",
        "echo p=$PYTHONPATH",
    ]
    built = place.install(place.plan("b1", ["apple"], env_vars={"FRUIT": "a b"}, setup_cmds=commands, working_dir="r1"))
    assert place.logs[-5:] == ["a b", str(root), str(built.path / "bin" / "python"), "2.0", "p="]
    assert {"phase": "set-up command: pwd"} in place.events


def test_pip_in_a_set_up_command_means_the_env(place: Place, shop: Index) -> None:
    built = place.install(place.plan("b1", ["apple"], setup_cmds=["pip install 'pie'"]))
    assert run(built, "import pie, apple; print(pie.__version__, apple.__version__)") == "1.0 1.0"


def test_output_arrives_while_the_command_runs(place: Place) -> None:
    times: list[tuple[float, str]] = []
    plan = place.of_lock("b1", resolve(env().requirements(), place.target), set())
    plan["setup_cmds"] = ["echo first; sleep 0.6; printf 'a\\rb\\n'; printf tail"]
    place.install(plan, emit=lambda event: times.append((time.monotonic(), event.get("log", ""))))
    lines = [(moment, line) for moment, line in times if line]
    assert [line for _, line in lines] == ["first", "a", "b", "tail"]
    assert lines[1][0] - lines[0][0] > 0.4


def test_a_background_process_of_a_command_is_not_waited_for(place: Place) -> None:
    plan = place.of_lock("b1", resolve(env().requirements(), place.target), set())
    start = time.monotonic()
    place.install({**plan, "setup_cmds": ["sleep 5 & echo done"]})
    assert time.monotonic() - start < 4
    assert place.logs[-1] == "done"


def test_what_is_given_up_ends_with_its_children(place: Place, tmp_path: Path) -> None:
    plan = place.of_lock("b1", resolve(env().requirements(), place.target), set())
    own = f"setsid sleep 60 & echo $! > {tmp_path}/own"  # in a session of its own
    plan["setup_cmds"] = [own, f"sleep 60 & echo $! > {tmp_path}/pid; echo started; wait"]
    given_up = threading.Event()

    def see(event: dict[str, Any]) -> None:
        if "log" in event:
            given_up.set()

    with pytest.raises(InstallFailed, match="nobody waits for it") as caught:
        place.install(plan, emit=see, given_up=given_up)
    assert caught.value.output == "started"
    for name in ("pid", "own"):
        pid = int((tmp_path / name).read_text())
        for _ in range(100):
            if not Path(f"/proc/{pid}").exists() or "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
                break
            time.sleep(0.05)
        else:
            os.kill(pid, 9)
            raise AssertionError("the child lives on")
    assert not (place.home / "envs" / "b1").exists()


def test_an_interpreter_that_does_not_start_is_named(place: Place, tmp_path: Path) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    plan = place.of_lock("b1", resolve(env().requirements(), place.target), set())
    with pytest.raises(InterpreterNotFound, match="no venv of Python"):
        place.install({**plan, "python": {"version": "3.11", "path": str(tmp_path / "python")}})
