"""Envs on a real server: made, sent again, broken, ended; their kept plans. Without packages, so that nothing is fetched."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import uv

from runkit.client.deploy import Deployer
from runkit.client.set_up import SetUp
from runkit.errors import EnvNotFound, InstallTimeout, InvalidName, UsageError
from runkit.model.env import env
from runkit.servlet.actor import EnvServlet
from runkit.servlet.processes import ProcessId
from tests.server.running import REPOSITORY, Server, eventually, plan

EMPTY_LOCK = 'lock-version = "1.0"\ncreated-by = "test"\nrequires-python = ">=3.9"\npackages = []\n'


def send(server: Server, wanted: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Send a plan; the last event and those before it."""
    events = list(server.api.events("PUT", f"/v1/envs/{wanted['name']}", wanted))
    return events[-1], events[:-1]


def test_made_and_asked_again(server: Server) -> None:
    done, before = send(server, plan("one", env_vars={"A": "b"}))
    assert done["done"]["created"] in (True, False)
    assert not done["done"]["replaced_worker"]
    assert any("worker" in event.get("phase", "") for event in before)
    assert server.api.json("POST", "/v1/ensure", {"env": {"name": "one", "request": "1"}})["env"] == "ready"
    assert server.api.json("GET", "/v1/envs/one/spec") == {"asked": "one"}
    with server.stream("one") as stream:
        assert stream.call("os", "getenv", "A") == "b"
        assert stream.call("os", "getenv", "RAY_AUTH_MODE") == "token"  # ray.init() in it joins this cluster
    kept = server.lasting / "envs" / "one.json"
    assert kept.stat().st_mode & 0o077 == 0
    assert json.loads(kept.read_text())["name"] == "one"


def test_two_envs_do_not_touch_each_other(server: Server) -> None:
    send(server, plan("one"))
    send(server, plan("two"))
    before = server.env("two")["worker"]["pid"]
    with server.stream("one") as one, server.stream("two") as two:
        assert one.call("os", "_exit", 1)["exitcode"] == 1
        assert two.call("math", "sqrt", 4) == 2.0
    assert server.env("two")["worker"]["pid"] == before


def test_changed_variables_replace_the_worker_and_say_what_was_lost(server: Server) -> None:
    send(server, plan("one", env_vars={"A": "1", "B": "2"}))
    with server.stream("one") as stream:
        stream.call("builtins", "exec", "from runkit.worker import here\nhere.Here().put('model', 1)", {})
    eventually(lambda: server.env("one")["keys"] == ["model"])
    done, _ = send(server, plan("one", env_vars={"A": "3"}, request="2"))
    assert done["done"]["replaced_worker"]
    assert done["done"]["lost"] == ["model"]
    with server.stream("one") as stream:
        assert stream.call("os", "getenv", "A") == "3"
        assert stream.call("os", "getenv", "B") is None


def test_more_packages_switch_the_worker_and_keep_objects(server: Server) -> None:
    send(server, plan("grow", build="grow-1", packages=[["a", "1"]], lock=EMPTY_LOCK))
    worker = server.env("grow")["worker"]["pid"]
    wanted = plan("grow", build="grow-2", packages=[["a", "1"], ["b", "1"]], lock=EMPTY_LOCK, request="2")
    site = server.lasting.parents[1] / "envs" / "grow-2"
    done, _ = send(server, wanted)
    assert not done["done"]["replaced_worker"], done
    assert server.env("grow")["worker"]["pid"] == worker
    with server.stream("grow") as stream:
        path = stream.call("builtins", "eval", "__import__('sys').path")
        assert any(entry.startswith(str(site)) for entry in path)
    done, _ = send(server, plan("grow", build="grow-3", packages=[["a", "2"]], lock=EMPTY_LOCK, request="3"))
    assert done["done"]["replaced_worker"]


def test_failed_install_leaves_the_env_as_it_was_and_is_tried_again(server: Server, tmp_path: Path) -> None:
    send(server, plan("firm"))
    worker = server.env("firm")["worker"]["pid"]
    broken = plan("firm", build="firm-2", request="2", setup_cmds=[f"echo hello && ls {tmp_path}/present"])
    failed, before = send(server, broken)
    assert failed["error"]["type"] == "InstallFailed"
    assert "present" in failed["error"]["output"]
    assert {"log": "hello"} in before
    assert server.env("firm")["worker"]["pid"] == worker
    assert server.api.json("POST", "/v1/ensure", {"env": {"name": "firm", "request": "1"}})["env"] == "ready"
    (tmp_path / "present").touch()
    done, _ = send(server, broken)
    assert done["done"]["created"]


def test_first_install_that_fails_leaves_nothing(server: Server) -> None:
    failed, _ = send(server, plan("never", build="never-1", setup_cmds=["exit 3"]))
    assert failed["error"]["type"] == "InstallFailed"
    assert "never" not in server.api.json("GET", "/v1/envs")["envs"]
    with pytest.raises(EnvNotFound):
        server.api.json("GET", "/v1/envs/never/spec")
    assert not list((server.lasting.parents[1] / "envs").glob("never-1"))


def test_set_up_commands_see_what_the_worker_sees(server: Server) -> None:
    """And not what Ray sets for its own workers."""
    seen = ("OMP_NUM_THREADS", "RAY_ADDRESS", "RAY_RAYLET_PID", "PYTHONUNBUFFERED", "LD_LIBRARY_PATH")
    command = "; ".join(f"echo {name}=${name}" for name in seen)
    _, before = send(server, plan("seeing", build="seeing-1", setup_cmds=[command]))
    with server.stream("seeing") as stream:
        for name in seen:
            assert {"log": f"{name}={stream.call('os', 'getenv', name, '')}"} in before
    server.api.json("DELETE", "/v1/envs/seeing")


def test_events_come_as_they_happen(server: Server) -> None:
    import time

    seen = []
    for event in server.api.events(
        "PUT", "/v1/envs/live", plan("live", build="live-1", setup_cmds=["echo a; sleep 1; echo b"])
    ):
        seen.append((time.monotonic(), event))
    times = {event["log"]: when for when, event in seen if "log" in event}
    assert times["b"] - times["a"] > 0.7


def test_resources_that_are_not_there(server: Server) -> None:
    failed, _ = send(server, plan("big", compute={"GPU": 64}))
    assert failed["error"]["type"] == "UsageError"
    assert "64" in failed["error"]["message"]
    send(server, plan("cpu", compute={"CPU": 1}))
    assert server.env("cpu")["compute"] == {"CPU": 1}
    worker = server.env("cpu")["worker"]["pid"]
    failed, _ = send(server, plan("cpu", compute={"CPU": 10_000}, request="2"))
    assert "error" in failed
    assert server.env("cpu")["worker"]["pid"] == worker
    done, _ = send(server, plan("cpu", compute={"CPU": 0.5}, request="3"))
    assert done["done"]["replaced_worker"]
    server.api.json("DELETE", "/v1/envs/cpu")


def test_waits_for_resources_and_says_so(server: Server) -> None:
    import threading

    cpus = server.api.json("GET", "/v1/status")["host"]["cpus"]
    send(server, plan("holder", compute={"CPU": cpus}))
    events: list[dict[str, Any]] = []
    waiting = threading.Thread(
        target=lambda: events.extend(server.api.events("PUT", "/v1/envs/waiter", plan("waiter", compute={"CPU": 1})))
    )
    waiting.start()
    waiting.join(4)
    assert waiting.is_alive()
    server.api.json("DELETE", "/v1/envs/holder")
    waiting.join(30)
    assert "done" in events[-1]
    assert any("CPU" in event.get("phase", "") for event in events)
    server.api.json("DELETE", "/v1/envs/waiter")


def test_build_is_ended_when_its_client_goes(server: Server, tmp_path: Path) -> None:
    send(server, plan("patient"))
    worker = server.env("patient")["worker"]["pid"]
    for name, lasting in (("hanging", False), ("patient", True)):
        hanging = plan(name, build=f"{name}-2", setup_cmds=[f"sleep 600 & echo $! > {tmp_path}/{name}; echo on; wait"])
        events = server.api.events("PUT", f"/v1/envs/{name}", hanging)
        while next(events) != {"log": "on"}:
            pass
        events.close()
        done, _ = send(server, plan(name, request="2"))
        assert "done" in done
        eventually(lambda: ended(int((tmp_path / name).read_text())))
        assert not (server.lasting.parents[1] / "envs" / f"{name}-2").exists()
        assert not lasting or server.env(name)["worker"]["pid"] == worker
        server.api.json("DELETE", f"/v1/envs/{name}")


def test_build_is_ended_by_ctrl_c(server: Server, tmp_path: Path) -> None:
    """The client has its exception in hand, as a notebook does, and sends the env again at once."""
    code = (
        "import pathlib, socket, sys\n"
        "from runkit.client.api import Api\n"
        "from runkit.client.deploy import Deployer\n"
        "from runkit.model.env import env\n"
        "port, token, pid = sys.argv[1:]\n"
        "api = Api(lambda: socket.create_connection(('127.0.0.1', port)), pathlib.Path(token).read_text())\n"
        "deployer = Deployer(api, api.json('GET', '/v1/status'))\n"
        "try:\n"
        "    deployer.send(env('pressed', setup_cmds=[f'echo $$ > {pid}; echo on; sleep 600']), progress=lambda event: print(event, flush=True))\n"
        "except KeyboardInterrupt:\n"
        "    print(deployer.send(env('pressed')).name, flush=True)\n"
    )
    arguments = [str(server.port), str(server.lasting / "token"), str(tmp_path / "pid")]
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout is not None
        while client.stdout.readline() != "{'log': 'on'}\n":
            assert client.poll() is None
        client.send_signal(signal.SIGINT)
        assert client.communicate(timeout=60)[0].splitlines()[-1] == "pressed"
    eventually(lambda: ended(int((tmp_path / "pid").read_text())))
    server.api.json("DELETE", "/v1/envs/pressed")


def test_build_is_ended_at_its_deadline(server: Server, tmp_path: Path) -> None:
    deployer = Deployer(server.api, server.api.json("GET", "/v1/status"))
    asked = env("late", setup_cmds=[f"echo $$ > {tmp_path}/begun; mv {tmp_path}/begun {tmp_path}/pid; sleep 600"])
    with SetUp("late", 4) as report, pytest.raises(InstallTimeout, match=r"env 'late' .* of 4 s"):
        deployer.send(asked, progress=report)
    eventually(lambda: not (tmp_path / "pid").exists() or ended(int((tmp_path / "pid").read_text())))
    assert "late" not in server.api.json("GET", "/v1/envs")["envs"]


def test_wait_for_another_change_ends_at_the_deadline(server: Server, tmp_path: Path) -> None:
    events = server.api.events(
        "PUT", "/v1/envs/taken", plan("taken", build="taken-1", setup_cmds=["echo on; sleep 600"])
    )
    while next(events) != {"log": "on"}:
        pass
    other = plan("taken", build="taken-2", install_timeout={"seconds": 60.0, "left": 0.5})
    failed, before = send(server, other)
    events.close()
    assert before == [{"phase": "wait for another change of the same env"}]
    assert failed["error"]["type"] == "InstallTimeout"
    assert "of 60 s: it had been at 'wait for another change of the same env' for 0" in failed["error"]["message"]


def test_build_is_ended_by_delete(server: Server, tmp_path: Path) -> None:
    hanging = plan("doomed", build="doomed-1", setup_cmds=[f"sleep 600 & echo $! > {tmp_path}/pid; echo on; wait"])
    events = server.api.events("PUT", "/v1/envs/doomed", hanging)
    while next(events) != {"log": "on"}:
        pass
    assert server.api.json("DELETE", "/v1/envs/doomed") == {"lost": []}
    assert list(events)[-1]["error"]["type"] == "InstallFailed"
    eventually(lambda: ended(int((tmp_path / "pid").read_text())))
    with pytest.raises(EnvNotFound):
        server.api.json("DELETE", "/v1/envs/doomed")


def test_wait_for_resources_is_ended_when_its_client_goes(server: Server) -> None:
    cpus = server.api.json("GET", "/v1/status")["host"]["cpus"]
    send(server, plan("holder", compute={"CPU": cpus}))
    events = server.api.events("PUT", "/v1/envs/waiter", plan("waiter", compute={"CPU": 1}))
    while "CPU" not in next(events).get("phase", ""):
        pass
    events.close()
    done, _ = send(server, plan("waiter"))
    assert "done" in done
    server.api.json("DELETE", "/v1/envs/waiter")
    server.api.json("DELETE", "/v1/envs/holder")


def test_two_clients_that_send_the_same_env_at_once(server: Server, tmp_path: Path) -> None:
    twin = plan("twin", build="twin-1", setup_cmds=[f"echo once >> {tmp_path}/count; sleep 1"])
    with ThreadPoolExecutor() as threads:
        both = [events[0]["done"] for events in threads.map(lambda _: send(server, twin), range(2))]
    assert sorted(done["created"] for done in both) == [False, True]
    assert both[0]["worker"]["pid"] == both[1]["worker"]["pid"]
    assert (tmp_path / "count").read_text() == "once\n"
    workers = [pid for pid in server.processes() if b":twin:" in Path(f"/proc/{pid}/environ").read_bytes()]
    assert workers == [both[0]["worker"]["pid"]]
    server.api.json("DELETE", "/v1/envs/twin")


def test_a_worker_is_replaced_for_a_call_while_its_env_is_being_changed(server: Server, tmp_path: Path) -> None:
    """Whoever ends that call does not wait for somebody else's build, which may take minutes."""
    send(server, plan("busy"))
    slow = plan("busy", build="busy-2", setup_cmds=["echo on", f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"])
    events = server.api.events("PUT", "/v1/envs/busy", slow)
    while next(events) != {"log": "on"}:
        pass
    with server.stream("busy") as stream:
        call = [stream.session, stream.start("time", "sleep", 60)]
        eventually(lambda: server.env("busy")["worker"]["running"] == 1)
        before = server.env("busy")["worker"]["generation"]
        body = {"generation": before, "only_call": call}
        with ThreadPoolExecutor() as threads:
            answer = threads.submit(server.api.json, "POST", "/v1/envs/busy/restart", body)
            try:
                assert answer.result(30)["replaced"]
            finally:
                (tmp_path / "go").touch()
    assert list(events)[-1]["done"]["replaced_worker"]
    with server.stream("busy") as stream:
        assert stream.call("math", "sqrt", 4) == 2.0
    server.api.json("DELETE", "/v1/envs/busy")


def ended(pid: int) -> bool:
    """Whether a process has gone; a zombie has."""
    found = ProcessId.of(pid)
    return found is None or not found.alive()


def test_deleted(server: Server) -> None:
    send(server, plan("gone"))
    pid = server.env("gone")["worker"]["pid"]
    assert server.api.json("DELETE", "/v1/envs/gone") == {"lost": []}
    assert "gone" not in server.api.json("GET", "/v1/envs")["envs"]
    assert not Path(f"/proc/{pid}").exists()
    assert not (server.lasting / "envs" / "gone.json").exists()


def test_kept_plan_is_built_again_when_asked_for(server: Server, tmp_path: Path) -> None:
    send(server, plan("later", env_vars={"A": "kept"}))
    hanging = plan("last", build="last-1", setup_cmds=[f"sleep 600 & echo $! > {tmp_path}/pid; echo on; wait"])
    events = server.api.events("PUT", "/v1/envs/last", hanging)
    while next(events) != {"log": "on"}:
        pass
    server.stop()
    eventually(lambda: ended(int((tmp_path / "pid").read_text())))  # a build ends with the server
    assert "error" in list(events)[-1]
    server.start()
    assert server.env("later")["state"] == "stopped"  # nothing is started that nobody uses
    with server.websocket() as client:  # one that goes before it is there
        client.send(json.dumps({"open": {"route": 1, "env": "later"}}))
        eventually(lambda: server.env("later")["state"] == "installing")
    assert server.api.json("POST", "/v1/ensure", {"env": {"name": "later", "request": "1"}})["env"] == "ready"
    with server.stream("later") as stream:
        assert stream.call("os", "getenv", "A") == "kept"


def test_keys_move_between_envs(server: Server) -> None:
    send(server, plan("one"))
    send(server, plan("two"))
    put = "from runkit.worker import here\nhere.Here().put('shared', {})"
    with server.stream("one") as one, server.stream("two") as two:
        one.call("builtins", "exec", put.format(1), {})
        assert server.api.json("GET", "/v1/keys")["keys"]["shared"] == "one"
        two.call("builtins", "exec", put.format(2), {})
        assert server.api.json("GET", "/v1/keys")["keys"]["shared"] == "two"
        assert "shared" not in server.api.json("GET", "/v1/keys?env=one")["keys"]
        look = "__import__('runkit.worker.here', fromlist=['x']).Here().get('shared')"
        assert one.call("builtins", "eval", look) == 2
        drop = "from runkit.worker import here\nhere.Here().delete('shared')"
        one.call("builtins", "exec", drop, {})
        assert "shared" not in server.api.json("GET", "/v1/keys")["keys"]


def test_a_key_has_left_its_env_once_another_one_has_it(server: Server) -> None:
    """Otherwise what is put back at once would be taken for the old object, and go with it."""
    send(server, plan("one"))
    send(server, plan("two"))
    put = "from runkit.worker import here\nhere.Here().put('ball', {})"
    slow = (
        "import threading\nfrom runkit.worker import here\nlock = here.worker.store._lock\n"
        "lock.acquire()\nthreading.Timer(0.5, lock.release).start()"
    )
    with server.stream("one") as one, server.stream("two") as two:
        two.call("builtins", "exec", put.format(1), {})
        two.call("builtins", "exec", slow, {})
        one.call("builtins", "exec", put.format(2), {})
        assert (
            two.call("builtins", "eval", "'ball' in __import__('runkit.worker.here', fromlist=['x']).worker.store")
            is False
        )
        two.call("builtins", "exec", put.format(3), {})
        look = "__import__('runkit.worker.here', fromlist=['x']).Here().get('ball')"
        assert one.call("builtins", "eval", look) == 3


def test_call_with_json(server: Server) -> None:
    with server.stream() as stream:
        code = "from runkit.worker import here\nimport collections\nhere.Here().put('counter', collections.Counter('abba'))"
        stream.call("builtins", "exec", code, {})
    api = server.api
    path = "/v1/envs/default/call/counter"
    assert api.json("POST", f"{path}/most_common", {"args": [1]})["result"] == [["a", 2]]
    code = "from runkit.worker import here\ndef up_to(n):\n  yield from range(n)\nhere.Here().put('up_to', up_to)"
    with server.stream() as stream:
        stream.call("builtins", "exec", code, {})
    for number in (2, 0):
        found = api.json("POST", "/v1/envs/default/call/up_to", {"args": [number]})
        assert found["result"] == list(range(number))
    assert api.json("POST", f"{path}/get", {"args": ["z"], "kwargs": {}})["result"] is None
    with pytest.raises(Exception, match=r"unhashable|TypeError"):
        api.json("POST", f"{path}/get", {"args": [[]]})
    with pytest.raises(KeyError):
        api.json("POST", "/v1/envs/default/call/nothing", {})
    with pytest.raises(Exception, match="list"):
        api.json("POST", f"{path}/get", {"args": "z"})


def test_env_whose_folder_was_removed_is_built_again(server: Server) -> None:
    import os
    import shutil

    # A copy of the interpreter, so that it goes with the folder.
    wanted = plan("fragile", build="fragile-1")
    send(server, wanted)
    shutil.rmtree(server.lasting.parents[1] / "envs" / "fragile-1")
    os.kill(server.env("fragile")["worker"]["pid"], 9)
    ask = {"env": {"name": "fragile", "request": "1"}}
    eventually(lambda: server.api.json("POST", "/v1/ensure", ask)["env"] == "changed")
    assert server.env("fragile")["state"] == "dead"
    done, _ = send(server, wanted)
    assert done["done"]["created"]
    assert server.api.json("POST", "/v1/ensure", ask)["env"] == "ready"


def test_builds_are_names(server: Server) -> None:
    for build in ("../x", "", "a/b", None):
        with pytest.raises(UsageError):
            list(server.api.events("PUT", "/v1/envs/one", plan("one", build=build)))


def test_reserved_names(server: Server) -> None:
    for name in ("runkit", "base", ".hidden"):
        with pytest.raises(InvalidName):
            list(server.api.events("PUT", f"/v1/envs/{name}", plan(name)))


def test_log_of_an_env(server: Server) -> None:
    send(server, plan("talker"))
    with server.stream("talker") as stream:
        for word in ("one", "two", "three"):
            stream.call("builtins", "print", word)
    found = server.api.json("GET", "/v1/envs/talker/log?lines=2")
    assert found["text"] == "two\nthree\n"
    with server.stream("talker") as stream:
        stream.call("builtins", "print", "four")
    more = server.api.json("GET", f"/v1/envs/talker/log?from={found['end']}&file={found['file']}")
    assert more["text"] == "four\n"


def test_a_build_is_given_up_before_it_begins(tmp_path: Path) -> None:
    """The order to end it may overtake it on their way through Ray."""
    folders = dict.fromkeys(("home", "runtime", "sockets", "mark"), str(tmp_path))
    place = {**folders, "uv": uv.find_uv_bin(), "variables": {}}
    servlet = EnvServlet(place, "early", 1)
    servlet.give_up("second")
    assert list(servlet.build(plan("early"), "first"))[-1][-1] == {"built": "test-early"}
    assert "was ended" in list(servlet.build(plan("early", build="other"), "second"))[-1][-1]["error"]["message"]
    assert not (tmp_path / "envs" / "other").exists()


def test_a_default_env_with_the_ray_of_an_earlier_runkit(server: Server) -> None:
    """Its tasks could not join this cluster: the next client makes it anew, also one that asks for nothing in it."""
    ask = {"env": {"name": "default", "request": None}}
    assert server.api.json("POST", "/v1/ensure", ask)["env"] == "ready"
    send(server, plan("default", packages=[["ray", "2.0.0"]], lock=EMPTY_LOCK))
    assert server.api.json("POST", "/v1/ensure", ask)["env"] == "changed"
    server.api.json("DELETE", "/v1/envs/default")
    assert server.api.json("POST", "/v1/ensure", ask)["env"] == "ready"
