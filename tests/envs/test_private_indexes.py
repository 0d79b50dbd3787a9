"""Private indexes: uv's and pip's own settings say where packages come from and who to be; all of that stays on this side."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from host import Host
from internet import internet
from packages import BACKEND, Index, index, wheel

from runkit.client.deploy import Deployer
from runkit.client.pip_settings import for_uv, pip_settings
from runkit.client.uvtool import index_settings, uv_binary
from runkit.errors import EnvError, ResolutionFailed, UsageError
from runkit.model.env import env

PASSWORD = "p@ss:/%w"


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """An index that wants a login, with medlar 1.0, and nothing else that could be resolved from."""
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RUNKIT_HOME", str(tmp_path / "runkit"))
    monkeypatch.delenv("XDG_CONFIG_HOME")
    for name in ("SSL_CERT_DIR", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    with index(tmp_path / "private-index", login=("me", PASSWORD)) as made:
        made.add(wheel(tmp_path / "files", "medlar", "1.0"))
        yield made


@pytest.fixture
def keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A `keyring` program that knows one service, and writes down what it was asked."""

    def make(service: str) -> Path:
        folder = tmp_path / "programs"
        folder.mkdir()
        log = tmp_path / "asked.log"
        program = folder / "keyring"
        program.write_text(
            f"""#!/bin/sh
echo "$*" >> {log}
[ "$2" = "{service}" ] || exit 1
[ "$3" = --mode ] && echo me
[ "$3" = me ] || [ "$3" = --mode ] && printf '%s\\n' '{PASSWORD}'
"""
        )
        program.chmod(0o755)
        import os

        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return log

    return make


def send(host: Host, client: Path, reqs: list[str]) -> None:
    Deployer(host, host.status(), home=client).send(env("e", reqs))
    assert host.run("e", "import medlar; print(medlar.__version__)") == "1.0"
    assert any(call.startswith("PUT /v1/wheels/") for call in host.calls)
    assert not any(call.endswith("/reachable") for call in host.calls)
    for path in [*host.home.rglob("*"), *client.rglob("*")]:
        content = b"" if path.is_dir() else path.read_bytes()
        assert PASSWORD.encode() not in content
        assert b"p%40ss" not in content


@pytest.mark.parametrize(
    ("place", "section"),
    [
        (".config/pip/pip.conf", "global"),
        (".pip/pip.conf", "install"),
        ("named", "global"),
        ("venv", "global"),
        ("variable", ""),
    ],
)
def test_an_index_of_pip_counts(
    place: str, section: str, private: Index, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "variable":
        monkeypatch.setenv("PIP_INDEX_URL", private.with_login())
    else:
        path = tmp_path / "home" / place
        if place == "named":
            path = tmp_path / "own.conf"
            monkeypatch.setenv("PIP_CONFIG_FILE", str(path))
        elif place == "venv":
            path = tmp_path / "venv" / "pip.conf"
            monkeypatch.setenv("VIRTUAL_ENV", str(path.parent))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"[{section}]\nindex-url = {private.with_login()}\n")
    send(host, tmp_path / "client", ["medlar"])


def test_a_setting_of_uv_wins_over_the_same_of_pip(
    private: Index, shop: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runkit.client.host_platform import Platform
    from runkit.client.resolve import resolve

    monkeypatch.setenv("PIP_INDEX_URL", private.with_login())
    with pytest.raises(ResolutionFailed):
        resolve(env(reqs=["medlar"]).requirements(), Platform("x86_64", (2, 36), "3.11"))
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", private.with_login())  # uv has a default index, and no other
    wanted = env(reqs=["medlar", "apple<2"]).requirements()
    lock = resolve(wanted, Platform("x86_64", (2, 36), "3.11"))
    assert lock.pairs == [["apple", "1.0"], ["medlar", "1.0"]]
    monkeypatch.setenv("UV_EXTRA_INDEX_URL", shop.url)
    with pytest.raises(ResolutionFailed):
        resolve(env(reqs=["medlar"]).requirements(), Platform("x86_64", (2, 36), "3.11"))


def test_a_requirements_file_wins_over_pip_conf(
    private: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runkit.client.host_platform import Platform
    from runkit.client.resolve import resolve

    monkeypatch.setenv("PIP_NO_INDEX", "1")
    target = Platform("x86_64", (2, 36), "3.11")
    with pytest.raises(ResolutionFailed):
        resolve(env(reqs=["medlar"]).requirements(), target)
    lock = resolve(env(reqs=["medlar", f"-i {private.with_login()}"]).requirements(), target)
    assert lock.pairs == [["medlar", "1.0"]]
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    lock = resolve(env(reqs=["medlar", f"-i {private.with_login()}"]).requirements(), target)
    assert lock.pairs == [["medlar", "1.0"]]


def test_the_best_version_of_all_indexes_of_pip_is_taken(
    shop: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An extra index of pip's adds to the other; by uv's own rule it would hide it."""
    from runkit.client.host_platform import Platform
    from runkit.client.resolve import resolve

    monkeypatch.delenv("UV_DEFAULT_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", shop.url)
    (tmp_path / "wheels").mkdir()
    wheel(tmp_path / "wheels", "plum", "1.0")
    with index(tmp_path / "more") as more:
        more.add(wheel(tmp_path, "apple", "1.5"))
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", more.url)
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
        lock = resolve(env(reqs=["apple", "plum"]).requirements(), Platform("x86_64", (2, 36), "3.11"))
    assert lock.pairs == [["apple", "2.0"], ["plum", "1.0"]]


def test_pip_conf_files_override_each_other_as_in_pip(private: Index, tmp_path: Path) -> None:
    home, venv, named = tmp_path / "home", tmp_path / "venv", tmp_path / "named.conf"
    for path, name in (
        (home / ".pip" / "pip.conf", "legacy"),
        (home / ".config" / "pip" / "pip.conf", "user"),
        (venv / "pip.conf", "site"),
        (named, "named"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"[global]\nindex-url = http://{name}/simple\nextra-index-url =\n  http://a/\n  http://b/\n")
    base = {"HOME": str(home), "VIRTUAL_ENV": str(tmp_path), "XDG_CONFIG_DIRS": str(tmp_path)}

    def url(**more: str) -> str | None:
        return pip_settings({**base, **more}).get("index-url")

    assert url() == "http://user/simple"
    assert url(VIRTUAL_ENV=str(venv)) == "http://site/simple"
    assert url(PIP_INDEX_URL="http://variable/") == "http://variable/"
    assert url(PIP_INDEX_URL="") == "http://user/simple"
    assert url(PIP_CONFIG_FILE="/dev/null") is None
    assert pip_settings(base)["extra-index-url"].split() == ["http://a/", "http://b/"]
    (home / ".config" / "pip" / "pip.conf").unlink()
    assert url() == "http://legacy/simple"
    named.write_text("[global]\nno-index = true\n[install]\nindex-url = http://installing/simple\n")
    assert url(PIP_CONFIG_FILE=str(named)) == "http://installing/simple"
    named.write_text("index-url\n")
    with pytest.raises(UsageError, match="named.conf"):
        url(PIP_CONFIG_FILE=str(named))


def test_a_relative_certificate_is_one_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    variables, _ = for_uv([], environment={"PIP_CERT": "ca.pem", "HOME": str(tmp_path)})
    assert variables["SSL_CERT_FILE"] == str(tmp_path / "ca.pem")


@pytest.mark.parametrize("way", ["user name", "always", "pip", "host"])
def test_the_keyring_is_asked_as_uv_asks_it(
    way: str,
    private: Index,
    host: Host,
    keyring: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    named = private.url.replace("http://", "http://me@")
    asked = keyring(private.url if way != "host" else private.url.split("/")[2])
    if way == "always":
        project = tmp_path / "project"
        project.mkdir()
        monkeypatch.chdir(project)
        (project / "uv.toml").write_text(
            f'keyring-provider = "subprocess"\n[[index]]\nname = "shop"\nurl = "{private.url}"\nauthenticate = "always"\n'
        )
    elif way == "pip":
        monkeypatch.setenv("PIP_KEYRING_PROVIDER", "subprocess")
        monkeypatch.setenv("PIP_INDEX_URL", named)
    else:
        monkeypatch.setenv("UV_KEYRING_PROVIDER", "subprocess")
        monkeypatch.setenv("UV_DEFAULT_INDEX", named)
    send(host, tmp_path / "client", ["medlar"])
    assert asked.read_text()


@pytest.mark.parametrize("way", ["cert", "trusted-host"])
def test_a_certificate_that_pip_was_told_about_is_taken(
    way: str, private: Index, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    for name in ("NO_PROXY", "no_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    with internet(tmp_path / "world", ["packages.example.org", "files.example.org"]) as world:
        made = wheel(tmp_path / "files", "medlar", "1.0")
        world.offer("packages.example.org/simple", made, files="files.example.org")
        monkeypatch.setenv("HTTPS_PROXY", world.proxy)
        monkeypatch.setenv("PIP_INDEX_URL", "https://packages.example.org/simple")
        host.online = False
        deployer = Deployer(host, host.status(), home=tmp_path / "client")
        with pytest.raises(EnvError, match="ertificate"):
            deployer.send(env("e", ["medlar"]))
        if way == "cert":
            monkeypatch.setenv("PIP_CERT", str(world.certificate))
        else:
            monkeypatch.setenv("PIP_TRUSTED_HOST", "packages.example.org files.example.org")
        deployer.send(env("e", ["medlar"]))
    assert host.run("e", "import medlar; print(medlar.__version__)") == "1.0"


def test_what_uv_was_logged_in_with_counts(
    private: Index, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_CREDENTIALS_DIR", str(tmp_path / "credentials"))
    login = [uv_binary(), "auth", "login", private.url, "--username", "me", "--password", PASSWORD]
    subprocess.run(login, check=True, capture_output=True)
    monkeypatch.setenv("UV_DEFAULT_INDEX", private.url)
    send(host, tmp_path / "client", ["medlar"])


def test_a_pyproject_without_a_table_for_uv_does_not_hide_the_one_above(
    private: Index, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "project" / "inner"
    inner.mkdir(parents=True)
    (inner / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "1"\n')
    (tmp_path / "project" / "uv.toml").write_text(f'[[index]]\nurl = "{private.with_login()}"\ndefault = true\n')
    monkeypatch.chdir(inner)
    send(host, tmp_path / "client", ["medlar"])


def test_a_change_of_pip_s_index_is_a_change_and_of_its_password_is_not(
    private: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = index_settings(tmp_path)
    monkeypatch.setenv("PIP_INDEX_URL", "https://me:one@example.org/simple")
    first = index_settings(tmp_path)
    assert first != before
    monkeypatch.setenv("PIP_INDEX_URL", "https://me:two@example.org/simple")
    assert index_settings(tmp_path) == first


@pytest.mark.parametrize("way", ["line", "pip", "folder"])
def test_what_a_build_needs_comes_from_the_index_of_the_requirements(
    way: str, private: Index, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backend of a source distribution is only there; PyPI is not asked."""
    code = BACKEND.format(name="medlar", version="1.0", requires=[], tag="py3-none-any", broken=False, body="")
    private.add(wheel(tmp_path / "files", "oven", "1.0", body=code))
    project = tmp_path / "medlar-1.0"
    project.mkdir()
    (project / "pyproject.toml").write_text('[build-system]\nrequires = ["oven"]\nbuild-backend = "oven"\n')
    (project / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: medlar\nVersion: 1.0\n")
    archive = tmp_path / "files" / "medlar-1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(project, project.name)
    (tmp_path / "private-index" / "simple" / "medlar" / "medlar-1.0-py3-none-any.whl").unlink()
    (tmp_path / "private-index" / "simple" / "medlar" / "index.html").unlink()
    private.add(archive)
    reqs = ["medlar"]
    if way == "line":
        reqs.append(f"--index-url {private.with_login()}")
    elif way == "pip":
        monkeypatch.setenv("PIP_INDEX_URL", private.with_login())
    else:
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        reqs.append(f"--find-links {tmp_path / 'files'}")
        (tmp_path / "files" / "medlar-1.0-py3-none-any.whl").unlink()
    send(host, tmp_path / "client", reqs)
