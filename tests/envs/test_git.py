"""Packages from git: what names them, what is fetched, and what of it is installed. The repositories and servers are real."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from host import Host
from packages import BACKEND, Index

import runkit as rk
from runkit.client.asked import SyncedRoot
from runkit.client.deploy import Deployed, Deployer
from runkit.client.git import Git
from runkit.client.git_requirements import local_checkouts, pinned_env
from runkit.client.lock import Lock
from runkit.client.replicate import prepare
from runkit.errors import FetchFailed, LoginRefused, ResolutionFailed, RunkitError, SecretNotFound, UsageError
from tests.git_servers import Repository, git, serve

TOKEN = "s3@cr/t:w%th"


def project(name: str, version: str, requires: tuple[str, ...] = (), below: str = "") -> dict[str, str]:
    """The files of a package whose build needs nothing from an index."""
    stated = f'[project]\nname = "{name}"\nversion = "{version}"\ndependencies = {list(requires)}\n'
    system = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    backend = BACKEND.format(name=name, version=version, requires=list(requires), tag="py3-none-any", broken=False)
    return {f"{below}pyproject.toml": stated + system, f"{below}backend.py": backend, f"{below}{name}.py": "x = 1\n"}


@pytest.fixture(autouse=True)
def own_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The git settings of the machine's owner steer no test, and nothing fetched earlier is found."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("RUNKIT_HOME", str(tmp_path / "client"))


@pytest.fixture
def plum(tmp_path: Path) -> Repository:
    return Repository(tmp_path, "plum")


class Client:
    def __init__(self, host: Host, home: Path) -> None:
        self.host = host
        self.deployer = Deployer(host, host.status(), home=home)
        self.events: list[dict[str, Any]] = []

    def send(self, *reqs: Any, **options: Any) -> Deployed:
        return self.deployer.send(rk.env("e", reqs=list(reqs)), progress=self.events.append, **options)

    def version(self, name: str = "plum") -> str:
        return self.host.run("e", f"import {name}; print({name}.__version__)")


@pytest.fixture
def client(host: Host, tmp_path: Path) -> Client:
    return Client(host, tmp_path / "client")


def test_what_the_documentation_of_others_writes() -> None:
    package = rk.GitPackage(
        git_url="https://github.com/huggingface/diffusers.git", install_method="pip", revision="v0.11.1"
    )
    assert package == rk.GitPackage("huggingface/diffusers", revision="v0.11.1")
    assert package == rk.git_package(git_url=package.git_url, install_method="pip", revision="v0.11.1")
    assert repr(package) == "GitPackage('https://github.com/huggingface/diffusers.git', revision='v0.11.1')"
    assert rk.env(reqs=[package, "numpy"]).reqs[0] is package
    assert package in {pickle.loads(pickle.dumps(package))}


@pytest.mark.parametrize(
    ("line", "means"),
    [
        ("git+https://h.org/o/plum.git@v1#egg=plum&subdirectory=a/b", {"revision": "v1", "subdirectory": "a/b", "package_name": "plum"}),
        ("plum[x,a] @ git+https://h.org/o/plum.git@feature/y ; python_version > '3'",
         {"revision": "feature/y", "extras": ("a", "x"), "package_name": "plum", "marker": "python_version > '3'"}),
        ("git+https://me@h.org/o/plum.git", {"username": "me"}),
        ("git+https://h.org/o/plum.git#egg=plum[z]", {"extras": ("z",), "package_name": "plum"}),
    ],
)  # fmt: skip
def test_a_requirement_line_names_a_package(line: str, means: dict[str, Any]) -> None:
    package = rk.Package.from_string(line)
    assert package == rk.GitPackage("https://h.org/o/plum.git", **means)
    assert "me@" not in str(package)
    assert rk.Package.from_string(str(package)) == rk.GitPackage(
        "https://h.org/o/plum.git", **{**means, "username": None}
    )


def test_variables_in_a_line_stay_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "h.org")
    monkeypatch.setenv("TOKEN_OF_MINE", "hunter2")
    monkeypatch.setenv("ME", "jo")
    for login, user in (
        ("${ME}:${TOKEN_OF_MINE}", "jo"),
        ("${TOKEN_OF_MINE}", None),
        ("${TOKEN_OF_MINE}:x-oauth-basic", None),
    ):
        package = rk.Package.from_string(f"git+https://{login}@${{WHERE}}/o/plum.git@v1")
        assert isinstance(package, rk.GitPackage)
        assert package == rk.GitPackage("https://h.org/o/plum.git", revision="v1", username=user, token=package.token)
        assert package.token is not None
        assert pickle.loads(pickle.dumps(package)) == package
        # Percent-encoded as pip and uv need it, or as it is where no URL could have it so.
        for written, meant in (("hunter2", "hunter2"), ("hun%40ter%2f2", "hun@ter/2"), ("hun@ter%2", "hun@ter%2")):
            monkeypatch.setenv("TOKEN_OF_MINE", written)
            assert package.token.value() == meant
        monkeypatch.setenv("TOKEN_OF_MINE", "hunter2")
        assert "hunter2" not in f"{package!r}{package}{pickle.dumps(package)!r}"
    with pytest.raises(UsageError, match="password"):
        rk.Package.from_string("git+https://${ME}:literal@h.org/o/plum.git")


@pytest.mark.parametrize("url", ["git@h.org:o/plum.git", "ssh://git@h.org/o/plum.git", "ssh://h.org:29/plum"])
def test_addresses_for_ssh(url: str) -> None:
    assert rk.GitPackage(url).git_url == url
    assert rk.GitPackage.from_string(f"git+{url}@v1") == rk.GitPackage(url, revision="v1")
    if "://" not in url:
        assert rk.Package.from_string(f"{url}@v1") == rk.GitPackage(url, revision="v1")
    with pytest.raises(UsageError, match="https"):
        rk.GitPackage(url, token=rk.Secret("t", env="T"))


@pytest.mark.parametrize(
    "login", ["me:hunter2", "me:hun@ter2", "me:hun/ter2", "me:%3Ahunter2", "me%3Ahunter2", "ghp_hunter2", "x:hunter2/y:z@w", ":hunter2"]
)  # fmt: skip
def test_a_password_in_a_url_is_refused_and_not_repeated(login: str, tmp_path: Path) -> None:
    url = f"https://{login}@h.org/o/plum.git"
    listed = tmp_path / "requirements.txt"
    listed.write_text(f"plum @ git+{url}@main\n")
    limits = tmp_path / "limits.txt"
    limits.write_text(f"-c more.txt\nplum @ git+{url}\n")
    (tmp_path / "more.txt").touch()
    ways = [
        lambda: rk.GitPackage(url),
        lambda: rk.GitPackage(git_url=f"git+{url}", revision="v1"),
        lambda: rk.Package.from_string(f"git+{url}@v1"),
        lambda: rk.env(reqs=[f"plum @ git+{url}"]),
        lambda: rk.env(reqs=[f"reqs:{listed}"]).requirements(),
        lambda: rk.env(reqs=[f"-c {limits}", "plum"]).requirements(),
    ]
    for way in ways:
        with pytest.raises(UsageError) as caught:
            way()
        shown = f"{caught.value!s}{caught.value!r}{caught.value.__cause__!r}{caught.value.__context__!r}"
        assert "password" in shown
        assert not any(part in shown for part in ("hunter2", "hun@", "hun/", "ter2"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"git_url": ""},
        {"git_url": "plum"},
        {"git_url": "ftp://h.org/plum"},
        {"git_url": "https://h.org/plum?x=1"},
        {"git_url": "--upload-pack=x"},
        {"git_url": "ext::sh -c x"},
        {"revision": "--output=x"},
        {"revision": "a b"},
        {"install_method": "conda"},
        {"subdirectory": "../x"},
        {"token": "ghp_hunter2"},
        {"extras": "gpu"},
        {"package_name": "a b"},
    ],
)
def test_a_wrong_part_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        rk.GitPackage(**{"git_url": "https://h.org/o/plum.git", **wrong})
    assert "hunter2" not in str(caught.value)


def test_a_branch_a_tag_a_commit_and_the_default(client: Client, plum: Repository) -> None:
    first = plum.commit(project("plum", "1.0"), "v1.0")
    second = plum.commit(project("plum", "2.0"))
    git(plum.work, "checkout", "-q", "-b", "feature/x", first)
    branch = plum.commit(project("plum", "3.0"))
    url = str(plum.bare)
    for revision, version in (
        (None, "2.0"),
        ("v1.0", "1.0"),
        ("feature/x", "3.0"),
        (second[:9], "2.0"),
        (first, "1.0"),
    ):
        client.send(rk.GitPackage(url, revision=revision))
        assert client.version() == version
    assert client.host.plans["e"]["spec"]["lines"] == (f"@git/{first}/plum @ {url}",)
    with pytest.raises(ResolutionFailed, match=r"no branch, tag or commit 'gone'; it has .*feature/x"):
        client.send(rk.GitPackage(url, revision="gone"))
    with pytest.raises(ResolutionFailed, match="no commit"):
        client.send(rk.GitPackage(url, revision="0" * 40))
    assert branch not in str(client.host.plans)


def test_a_branch_that_moved_is_followed_and_one_that_did_not_costs_nothing(client: Client, plum: Repository) -> None:
    plum.commit(project("plum", "1.0"))
    package = rk.GitPackage(str(plum.bare), revision="main")
    client.send(package)
    assert not client.send(package).changed
    plum.commit(project("plum", "2.0"))
    assert client.send(package).changed
    assert client.version() == "2.0"


def test_a_commit_that_was_fetched_needs_no_server(
    client: Client, plum: Repository, host: Host, tmp_path: Path
) -> None:
    commit = plum.commit(project("plum", "1.0"))
    with serve(plum.bare.parent, password=TOKEN) as server:
        package = rk.GitPackage(f"{server.url}/plum.git", revision=commit, token=rk.Secret("t", env="NOT_SET"))
        with pytest.raises(SecretNotFound, match="NOT_SET"):
            client.send(package)
        client.send(rk.GitPackage(f"{server.url}/plum.git", revision=commit, token=rk.Secret("t", value=lambda: TOKEN)))
        asked = len(server.requests)
    other = Client(Host(tmp_path / "second"), tmp_path / "client")
    assert other.send(package).changed
    assert len(server.requests) == asked


@pytest.mark.parametrize("kind", ["smart", "dumb"])
def test_a_private_server_and_its_errors(kind: str, client: Client, plum: Repository) -> None:
    plum.commit(project("plum", "1.0"), "v1.0")
    with serve(plum.bare.parent, kind, TOKEN) as server:
        url = f"{server.url}/plum.git"
        token = rk.Secret("mine", value=lambda: TOKEN)
        with pytest.raises(LoginRefused, match="wants a login"):
            client.send(rk.GitPackage(url))
        wrong = rk.Secret("wrong", value=lambda: "wr@ng/:%")
        with pytest.raises(LoginRefused, match=r"refused the token of Secret\('wrong'") as caught:
            client.send(rk.GitPackage(url, token=wrong))
        assert "wr@ng" not in f"{caught.value}{caught.value.output}"
        assert server.refused[0] == "wr@ng/:%"
        with pytest.raises(ResolutionFailed, match="does not exist"):
            client.send(rk.GitPackage(f"{server.url}/none.git", token=token))
        client.send(rk.GitPackage(url, revision="v1.0", username="jo@x", token=token))
        assert client.version() == "1.0"
        assert server.users == {"git", "jo@x"}
    with pytest.raises(FetchFailed, match="cannot be reached from this machine"):
        client.send(rk.GitPackage(url, token=token))


def test_the_users_own_credential_helper_counts_unless_there_is_a_token(
    client: Client, plum: Repository, tmp_path: Path
) -> None:
    plum.commit(project("plum", "1.0"))
    with serve(plum.bare.parent, password=TOKEN) as server:
        helper = tmp_path / "helper"
        helper.write_text(f"#!/bin/sh\necho asked >> {tmp_path}/asked\necho username=me\necho 'password={TOKEN}'\n")
        helper.chmod(0o755)
        (tmp_path / "gitconfig").write_text(f"[credential]\n\thelper = {helper}\n")
        client.send(rk.GitPackage(f"{server.url}/plum.git"))
        assert server.users == {"me"}
        (tmp_path / "asked").unlink()
        with pytest.raises(LoginRefused):
            client.send(rk.GitPackage(f"{server.url}/plum.git", token=rk.Secret("t", value=lambda: "no")))
        assert not (tmp_path / "asked").exists()


def test_a_token_is_for_its_own_server(client: Client, plum: Repository, tmp_path: Path) -> None:
    """A submodule on another server does not get it."""
    other = Repository(tmp_path / "other", "inner")
    other.commit({"a.txt": "a"})
    with serve(plum.bare.parent, password=TOKEN) as server, serve(other.bare.parent, password="else") as foreign:
        files = project("plum", "1.0")
        files[".gitmodules"] = f'[submodule "inner"]\n\tpath = inner\n\turl = {foreign.url}/inner.git\n'
        plum.commit(files)
        commit = git(other.work, "rev-parse", "HEAD")
        git(plum.work, "update-index", "--add", "--cacheinfo", f"160000,{commit},inner")
        git(plum.work, "commit", "-qm", "a submodule")
        plum.push()
        with pytest.raises(LoginRefused):
            client.send(rk.GitPackage(f"{server.url}/plum.git", token=rk.Secret("t", value=lambda: TOKEN)))
        assert foreign.requests
        assert foreign.refused == []
        foreign.password = None


def test_each_repository_of_a_server_has_its_token(client: Client, plum: Repository, tmp_path: Path) -> None:
    jam = Repository(tmp_path / "more", "jam")
    jam.commit(project("jam", "1.0"))
    jam.bare.rename(plum.bare.parent / "jam.git")
    plum.commit(project("plum", "1.0"))
    tokens = {"plum.git": "one", "jam.git": "another"}
    with serve(plum.bare.parent, password=tokens) as server:
        client.send(
            *(
                rk.GitPackage(f"{server.url}/{name}", token=rk.Secret("t", value=lambda t=t: t))
                for name, t in tokens.items()
            )
        )
    assert (client.version("plum"), client.version("jam")) == ("1.0", "1.0")


def test_submodules_come_along(plum: Repository, tmp_path: Path) -> None:
    inner = Repository(tmp_path / "more", "inner")
    commit = inner.commit({"a.txt": "from inside"})
    inner.bare.rename(plum.bare.parent / "inner.git")
    plum.commit({".gitmodules": '[submodule "inner"]\n\tpath = inner\n\turl = ../inner.git\n'})
    git(plum.work, "update-index", "--add", "--cacheinfo", f"160000,{commit},inner")
    git(plum.work, "commit", "-qm", "a submodule")
    plum.push()
    for kind, place in (("path", str(plum.bare)), ("server", "")):
        with serve(plum.bare.parent, password=TOKEN) as server:
            token = None if kind == "path" else rk.Secret("t", value=lambda: TOKEN)
            folder = Git().checkout(rk.GitPackage(place or f"{server.url}/plum.git", token=token))
            assert (folder / "inner" / "a.txt").read_text() == "from inside"


def test_what_packages_from_git_need_from_git(
    client: Client, plum: Repository, tmp_path: Path, shop: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A private package that depends on another one, in a folder of a second repository on the same server.

    The user's credential helper, which would keep the token, is not told it by uv's git either.
    """
    (tmp_path / "gitconfig").write_text(f"[credential]\n\thelper = store --file={tmp_path}/stored\n")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{plum.bare.parent.as_uri()}/.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "nowhere:")
    jam = Repository(tmp_path / "more", "jam")
    jam.commit({**project("jam", "7.0", ("apple<2",), below="python/"), "README": ""}, "v7")
    jam.bare.rename(plum.bare.parent / "jam.git")
    with serve(plum.bare.parent, password=TOKEN) as server:
        plum.commit(project("plum", "1.0", (f"jam @ git+{server.url}/jam.git@v7#subdirectory=python",)))
        client.send(rk.GitPackage(f"{server.url}/plum.git", token=rk.Secret("t", value=lambda: TOKEN)))
    assert not (tmp_path / "stored").exists()
    assert client.version("jam") == "7.0"
    assert client.version("apple") == "1.0"


def test_lines_of_requirements_files(client: Client, plum: Repository, tmp_path: Path) -> None:
    files = {**project("plum", "1.0", below="src/plum/"), "README": ""}
    files["src/plum/backend.py"] = "open('../../README').close()\n" + files["src/plum/backend.py"]
    first = plum.commit(files, "v1")
    listed = tmp_path / "requirements.txt"
    listed.write_text(f"git+file://{plum.bare}@v1#egg=plum&subdirectory=src/plum\n")
    client.send(f"reqs:{listed}")
    assert client.version() == "1.0"
    assert client.host.plans["e"]["spec"]["lines"] == (f"@git/{first}/plum @ file://{plum.bare}#subdirectory=src/plum",)
    listed.write_text(f"-e git+file://{plum.bare}@v1#egg=plum&subdirectory=src/plum\n")
    assert not client.send(f"reqs:{listed}").changed
    listed.write_text(f"plum @ git+file://{plum.bare}@v1#subdirectory=src/plum ; python_version > '3'\n")
    client.send(f"reqs:{listed}")
    with pytest.raises(UsageError, match="hg"):
        client.send("hg+https://h.org/x")


def test_a_lock_names_the_commit_wherever_it_is_installed_from(
    client: Client, plum: Repository, tmp_path: Path
) -> None:
    commit = plum.commit(project("plum", "1.0", below="python/"), "v1")
    client.send(rk.GitPackage(str(plum.bare), revision="v1", subdirectory="python"))
    kept = tmp_path / "pylock.toml"
    lock = Lock.from_json(client.host.plans["e"]["spec"]["lock"])
    kept.write_text(lock.text(kept=tmp_path / "client" / "wheels"))
    assert f'path = "{plum.bare}", commit-id = "{commit}", subdirectory = "python"' in kept.read_text()
    replica = prepare(rk.env("again", lock=kept), client.host, with_ray=False)
    assert replica is not None
    client.deployer.send(replica.env, resolve=replica.solver)
    assert client.host.run("again", "import plum; print(plum.__version__)") == "1.0"
    assert client.host.plans["again"]["build"] == client.host.plans["e"]["build"]


def test_local_is_the_checkout_and_reqs_what_it_asks_for(
    client: Client, plum: Repository, shop: Index, tmp_path: Path
) -> None:
    commit = plum.commit({**project("plum", "1.0"), "requirements.txt": "apple==1.0\n"})
    client.send(rk.GitPackage(str(plum.bare), install_method="reqs"))
    assert client.version("apple") == "1.0"
    assert "plum" not in dict(client.host.plans["e"]["packages"])
    plum.commit({"requirements.txt": "apple==2.0\n"})
    asked = pinned_env(rk.env("e", reqs=[rk.GitPackage(str(plum.bare), install_method="local")]), print)
    (folder,) = local_checkouts(asked, print)
    assert (folder / "plum.py").read_text() == "x = 1\n"
    client.deployer.send(asked, [SyncedRoot("plum-1", "d", str(folder))])
    assert client.version("apple") == "2.0"
    assert [line.partition("/plum @")[0] for line in client.host.plans["e"]["spec"]["lines"]] == [
        f"@git/{asked.reqs[0].revision}/local:plum @ {plum.bare}".partition("/plum @")[0],
        "apple==2.0",
    ]
    assert commit not in str(client.host.plans["e"]["spec"]["lines"])


def test_a_version_made_of_tags(client: Client, plum: Repository) -> None:
    """The commit itself is fetched alone first; the history comes when the version turns out to be made of it."""
    files = project("plum", "0")
    files["pyproject.toml"] = files["pyproject.toml"].replace('version = "0"', 'dynamic = ["version"]')
    describe = "import subprocess\nVERSION = subprocess.check_output(['git', 'describe', '--tags', '--abbrev=0'], text=True).strip()\n"
    files["backend.py"] = files["backend.py"].replace("def metadata", describe + "def metadata", 1)
    plum.commit({**files, "setup.cfg": "# setuptools_scm\n"}, "2.5")
    plum.commit({"plum.py": "later = 1\n"})
    with serve(plum.bare.parent, password=TOKEN) as server:
        client.send(rk.GitPackage(f"{server.url}/plum.git", token=rk.Secret("t", value=lambda: TOKEN)))
    assert client.version() == "2.5"


def test_two_at_once_make_one_checkout(plum: Repository) -> None:
    plum.commit(project("plum", "1.0"))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: Git().checkout(rk.GitPackage(str(plum.bare))), range(4)))
    assert len(set(found)) == 1
    assert [path.name for path in found[0].parent.iterdir()] == [found[0].name]


@pytest.fixture
def no_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def test_a_wrong_name_is_told_beside_the_right_one(client: Client, plum: Repository) -> None:
    plum.commit({"pyproject.toml": '[project]\nname = "plum"\nversion = "1.0"\n'})
    with pytest.raises(UsageError, match="asked for as 'pear', and the project there is called 'plum'"):
        client.send(rk.GitPackage(str(plum.bare), package_name="pear"))


def test_it_is_stored_nowhere_else(plum: Repository) -> None:
    with pytest.raises(UsageError, match="stays in its repository"):
        rk.GitPackage(str(plum.bare)).to("memory://packages")


def test_a_machine_without_git_says_so(client: Client, no_git: None) -> None:
    with pytest.raises(RunkitError, match="need git on this machine"):
        client.send(rk.GitPackage("huggingface/diffusers"))
