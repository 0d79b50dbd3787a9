"""`env.to()` from end to end, except for the network between and the worker: see host.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from host import Host
from packages import Index, wheel

from runkit.client.asked import SyncedRoot
from runkit.client.deploy import Deployed, Deployer
from runkit.errors import InstallFailed, InterpreterNotFound, ResolutionFailed, UsageError
from runkit.model.env import Env, env


class Client:
    def __init__(self, host: Host, home: Path) -> None:
        self.host = host
        self.home = home
        self.events: list[Any] = []
        self.deployer = Deployer(host, host.status(), home=home)

    def send(self, asked: Env, **options: Any) -> Deployed:
        self.host.calls.clear()
        return self.deployer.send(asked, progress=self.events.append, **options)

    @property
    def warnings(self) -> list[str]:
        return [event["warning"] for event in self.events if "warning" in event]


@pytest.fixture
def client(host: Host, tmp_path: Path) -> Client:
    return Client(host, tmp_path / "client")


ONE_QUESTION = ["POST /v1/ensure"]


def test_an_unchanged_env_costs_one_question(client: Client, host: Host, shop: Index) -> None:
    first = client.send(env("e", ["pie"]))
    assert first.changed
    assert host.run("e", "import pie; print(pie.__version__)") == "1.0"
    again = client.send(env("e", ["pie"]))
    assert (again.changed, again.request) == (False, first.request)
    assert host.calls == ONE_QUESTION


def test_another_client_with_the_same_request_changes_nothing(
    client: Client, host: Host, shop: Index, tmp_path: Path
) -> None:
    client.send(env("e", ["apple"]))
    shop.add(wheel(tmp_path, "apple", "3.0"))
    other = Client(host, tmp_path / "other")
    assert not other.send(env("e", ["apple"])).changed
    other.send(env("e", ["apple"], env_vars={"A": "b"}))
    assert host.run("e", "import apple; print(apple.__version__)") == "2.0"
    other.send(env("e", ["apple", "sourdough"]))
    assert host.run("e", "import apple, sourdough; print(apple.__version__)") == "2.0"
    other.send(env("e", ["apple", "sourdough"]), force=True)
    assert host.run("e", "import apple; print(apple.__version__)") == "3.0"


def test_other_variables_or_resources_cost_no_build(client: Client, host: Host, shop: Index, tmp_path: Path) -> None:
    first = client.send(env("e", ["apple"]))
    second = client.send(env("e", ["apple"], env_vars={"A": "b"}, compute={"CPU": 1}))
    assert second.changed
    assert second.build == first.build
    assert (host.plans["e"]["env_vars"], host.plans["e"]["compute"]) == ({"A": "b"}, {"CPU": 1})
    client.send(env("e", ["apple"]))
    assert host.plans["e"]["env_vars"] == {}
    forced = client.send(env("e", ["apple"]), force=True)
    assert forced.build != first.build
    assert client.send(env("e", ["apple"], env_vars={"A": "c"})).build == forced.build


def test_other_set_up_commands_cost_a_build(client: Client, shop: Index) -> None:
    assert client.send(env("e", setup_cmds=["true"])).build != client.send(env("e", setup_cmds=["true", "true"])).build


def test_what_set_up_commands_see_costs_a_build(client: Client, host: Host, tmp_path: Path) -> None:
    """Two projects that both say `pip install -e .` must not share a folder, and a changed variable is a changed command."""
    commands = ["echo $FRUIT-$(basename $(dirname $PWD)) > $VIRTUAL_ENV/seen"]
    builds = set()
    for root, fruit in (("r1", "apple"), ("r2", "apple"), ("r2", "pear")):
        (host.home / "roots" / root / "tree").mkdir(parents=True, exist_ok=True)
        asked = env("e", setup_cmds=commands, env_vars={"FRUIT": fruit}, working_dir=str(tmp_path))
        build = client.send(asked, working_dir=root).build
        assert (host.home / "envs" / str(build) / "seen").read_text() == f"{fruit}-{root}\n"
        builds.add(build)
    assert len(builds) == 3
    assert not client.send(asked, working_dir="r2").changed


def test_the_content_of_files_counts(client: Client, host: Host, shop: Index, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("-r more.txt\n")
    (tmp_path / "more.txt").write_text("apple==1.0\n")
    own = wheel(tmp_path, "quince", "1.0")
    asked = env("e", [f"reqs:{tmp_path}", str(own)])
    client.send(asked)
    assert not client.send(asked).changed
    (tmp_path / "more.txt").write_text("# a comment costs nothing\napple==1.0\n")
    assert not client.send(asked).changed
    (tmp_path / "more.txt").write_text("apple==2.0\n")
    wheel(tmp_path, "quince", "1.0", body="new = True\n")
    assert client.send(asked).changed
    assert host.run("e", "import apple, quince; print(apple.__version__, quince.new)") == "2.0 True"


def test_a_conflict_changes_nothing(client: Client, host: Host, shop: Index) -> None:
    client.send(env("e", ["apple"]))
    with pytest.raises(ResolutionFailed):
        client.send(env("e", ["pie", "crumble"]))
    assert not any(call.startswith("PUT") for call in host.calls)
    assert not client.send(env("e", ["apple"])).changed


def test_two_envs_with_conflicting_versions_live_side_by_side(client: Client, host: Host, shop: Index) -> None:
    client.send(env("one", ["pie"]))
    client.send(env("two", ["crumble"]))
    assert host.run("one", "import apple; print(apple.__version__)") == "1.0"
    assert host.run("two", "import apple; print(apple.__version__)") == "2.0"


def test_a_failed_install_leaves_the_old_env_and_is_tried_again(
    client: Client, host: Host, shop: Index, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    client.send(env("e", ["apple<2"]))
    asked = env("e", ["apple"], setup_cmds=[f"echo checking; test -e {flag}"])
    with pytest.raises(InstallFailed, match="checking"):
        client.send(asked)
    assert host.run("e", "import apple; print(apple.__version__)") == "1.0"
    flag.touch()
    assert client.send(asked).changed


def test_a_host_without_internet_gets_everything_from_here(client: Client, host: Host, shop: Index) -> None:
    host.online = False
    client.send(env("e", ["pie", "sourdough"]))
    assert len([call for call in host.calls if call.startswith("PUT /v1/wheels/")]) == 3
    assert host.run("e", "import pie, sourdough; print(pie.__version__)") == "1.0"
    client.send(env("f", ["pie"]))
    assert not any(call.startswith("PUT /v1/wheels/") for call in host.calls)


def test_packages_of_a_folder_go_to_every_host(client: Client, host: Host, shop: Index, tmp_path: Path) -> None:
    wheel(tmp_path / "links", "quince", "1.0")
    asked = env("e", ["quince", f"--find-links {tmp_path / 'links'}"])
    client.send(asked)
    other = Host(tmp_path / "other-host")
    Client(other, client.home).send(asked)
    assert other.run("e", "import quince; print(quince.__version__)") == "1.0"


def test_a_host_that_cannot_fetch_after_all_gets_it_from_here(
    client: Client, host: Host, shop: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "blocked", True)
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    client.send(env("e", ["pie"]))
    assert "shipping it from here" in client.warnings[0]
    assert host.run("e", "import pie; print(pie.__version__)") == "1.0"


def test_unnamed_envs_add_up_on_the_default_env(client: Client, host: Host, shop: Index, tmp_path: Path) -> None:
    client.send(env(reqs=["apple<2"]))
    assert client.send(env(reqs=["pie"], env_vars={"A": "b"})).name == "default"
    assert host.plans["default"]["packages"] == [["apple", "1.0"], ["pie", "1.0"]]
    for asked in (["apple<2"], ["pie"], ["apple"], [], ["apple", "pie>=1"]):
        assert not client.send(env(reqs=asked)).changed
        assert host.calls == ONE_QUESTION
    other = Client(host, tmp_path / "other")
    other.send(env(reqs=["sourdough"]))
    assert client.send(env(reqs=[str(wheel(tmp_path, "quince", "1.0"))])).changed
    assert [name for name, _ in host.plans["default"]["packages"]] == ["apple", "pie", "quince", "sourdough"]
    assert host.plans["default"]["env_vars"] == {"A": "b"}
    with pytest.raises(UsageError, match="quince"):
        Client(host, tmp_path / "third").send(env(reqs=["crumble"]))


def test_an_unnamed_env_may_change_a_version_as_pip_would(client: Client, host: Host, shop: Index) -> None:
    client.send(env(reqs=["apple==1.0"]))
    client.send(env(reqs=["apple==2.0"]))
    assert host.plans["default"]["packages"] == [["apple", "2.0"]]
    assert host.plans["default"]["spec"]["lines"] == ("apple==2.0",)


def test_an_unnamed_env_cannot_have_another_python(client: Client, shop: Index) -> None:
    client.send(env(reqs=["apple"]))
    with pytest.raises(UsageError, match="give it a name"):
        client.send(env(python="3.9" if sys.version_info[:2] != (3, 9) else "3.10"))


def test_the_requirements_of_roots_and_local_folders_count(
    client: Client, host: Host, shop: Index, tmp_path: Path
) -> None:
    root, library = tmp_path / "root", tmp_path / "library"
    for folder in (root, library):
        folder.mkdir()
    (root / "requirements.txt").write_text("pie\n-e .\n")
    (root / "pyproject.toml").write_text('[project]\nname = "mine"\nversion = "1"\ndependencies = ["apple"]\n')
    (library / "pyproject.toml").write_text(
        '[project]\nname = "lib"\nversion = "1"\ndependencies = []\noptional-dependencies.all = ["sourdough"]\n'
    )
    roots = [SyncedRoot("r1", "d1", str(root)), SyncedRoot("r2", "d2", str(library))]
    synced: list[str] = []
    asked = env("e", [f"{library}[all]"])
    assert asked.local_folders() == [str(library)]
    client.send(asked, roots=roots, working_dir="r1", sync=lambda root: synced.append(root.id))
    assert [name for name, _ in host.plans["e"]["packages"]] == ["apple", "pie", "sourdough"]
    assert synced == ["r1", "r2"]
    client.send(env("f", [str(library)], root_reqs=False), roots=roots)
    assert host.plans["f"]["packages"] == []
    assert host.plans["f"]["roots"][1] == {"id": "r2", "digest": "d2", "paths": [""]}


def test_a_missing_interpreter_is_shipped(client: Client, host: Host, shop: Index) -> None:
    host.pythons.clear()
    client.send(env("e", ["apple"]))
    assert host.run("e", "import apple, ssl, sys; print(sys.base_prefix)").startswith(str(host.home))


def test_a_missing_interpreter_is_an_error_only_if_asked_for(
    client: Client, host: Host, shop: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InterpreterNotFound, match=r"3\.99"):
        client.send(env("e", ["apple"], python="3.99"))
    monkeypatch.setitem(host.pythons, "3.99", host.pythons.pop(f"{sys.version_info[0]}.{sys.version_info[1]}"))
    far = Deployer(host, {"host": {**host.status()["host"], "glibc": [2, 17]}}, home=client.home)
    far.send(env("e", setup_cmds=["true"]), progress=client.events.append)
    assert "3.99" in client.warnings[-1]


def test_passwords_do_not_leave_this_machine(client: Client, host: Host, tmp_path: Path) -> None:
    from packages import index

    with index(tmp_path / "private", login=("me", "hunter2")) as private:
        private.add(wheel(tmp_path, "medlar", "1.0"))
        client.send(env("e", ["medlar", f"--index-url {private.with_login()}"]))
    assert host.run("e", "import medlar; print(medlar.__version__)") == "1.0"
    assert "hunter2" not in str(host.plans) + str(host.logs) + str(client.events)
    for path in [*host.home.rglob("*"), *client.home.rglob("*")]:
        assert path.is_dir() or b"hunter2" not in path.read_bytes()
