"""What a line of a requirements file means to uv it means in an env; and no line is dropped without a word."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from host import Host
from packages import Index, index, sdist, wheel

import runkit as rk
from runkit.client.deploy import Deployer
from runkit.client.host_platform import Platform
from runkit.client.resolve import resolve
from runkit.client.set_up import SetUp
from runkit.errors import EnvError, ResolutionFailed, UsageError
from runkit.model.env import env
from runkit.model.package import Package
from runkit.model.urls import without_credentials


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RUNKIT_HOME", str(tmp_path / "runkit"))
    return folder


@pytest.fixture
def told() -> list[str]:
    return []


def locked(text: str, here: Path, target: Platform, told: list[str] | None = None) -> list[list[str]]:
    (here / "requirements.txt").write_text(text)

    def note(event: Any) -> None:
        if told is not None and "warning" in event:
            told.append(event["warning"])

    with SetUp(report=note):
        return resolve(env(reqs=["reqs:./"]).requirements(), target, cwd=here).pairs


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_options_extras_and_markers(here: Path, shop: Index, target: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    files = here / "files"
    body = "Provides-Extra: big\nRequires-Dist: plum; extra == 'big'\n"
    wheel(files, "fig", "1.0", [f"apple\n{body.strip()}"])
    wheel(files, "plum", "2.0rc1")
    wheel(files, "plum", "1.0")
    (here / "base.in").write_text("--find-links files\nfig[big] ; python_version >= '3' # why\n")
    (here / "limits.txt").write_text("apple \\\n  < 2\n")
    monkeypatch.setenv("WHERE", str(here))
    text = "-r ${WHERE}/base.in\n-c limits.txt\ncrumble ; sys_platform == 'win32'\n"
    assert locked(text, here, target) == [["apple", "1.0"], ["fig", "1.0"], ["plum", "1.0"]]
    assert locked(text + "--pre\n", here, target)[2] == ["plum", "2.0rc1"]
    assert locked("--no-index\n-f ${WHERE}/files\nplum\n", here, target) == [["plum", "1.0"]]
    with pytest.raises(ResolutionFailed, match="index lookups were disabled"):
        locked("--no-index\napple\n", here, target)


def test_indexes_named_in_a_file(here: Path, shop: Index, target: Platform, tmp_path: Path, monkeypatch: Any) -> None:
    with index(tmp_path / "more", login=("me", "p@ss")) as more:
        more.add(wheel(tmp_path, "medlar", "1.0"))
        monkeypatch.setenv("PASSWORD", "p%40ss")
        url = more.url.replace("http://", "http://me:${PASSWORD}@")
        (here / "requirements.txt").write_text(f"--extra-index-url {url}\nmedlar\napple<2\n")
        asked = env(reqs=["reqs:./"]).requirements()
        assert resolve(asked, target, cwd=here).pairs == [["apple", "1.0"], ["medlar", "1.0"]]
        assert "ss@" not in str(asked.portable())
        monkeypatch.delenv("UV_DEFAULT_INDEX")
        assert locked(f"--index-url={more.with_login()}\nmedlar\n", here, target) == [["medlar", "1.0"]]
        (here / "limits.txt").write_text(f"-i {more.with_login()}\nmedlar<2\n")
        assert locked("-c limits.txt\nmedlar\n", here, target) == [["medlar", "1.0"]]
    local = (tmp_path / "more" / "simple").rename(here / "simple")
    assert locked(f"--index-url ./{local.name}\nmedlar\n", here, target) == [["medlar", "1.0"]]


def test_binaries_and_sources(here: Path, shop: Index, target: Platform, tmp_path: Path) -> None:
    shop.add(sdist(tmp_path / "newer", "apple", "3.0"))
    assert locked("apple\n", here, target) == [["apple", "3.0"]]
    assert locked("--only-binary apple\napple\n", here, target) == [["apple", "2.0"]]
    assert locked("--only-binary=:all:\napple\n", here, target) == [["apple", "2.0"]]
    shop.add(sdist(tmp_path / "older", "pie", "0.9", ["apple<2"]))
    assert locked("--no-binary pie\npie\n", here, target) == [["apple", "1.0"], ["pie", "0.9"]]


def test_hashes(here: Path, shop: Index, target: Platform, tmp_path: Path) -> None:
    right, wrong = sha(tmp_path / "files" / "apple-1.0-py3-none-any.whl"), "0" * 64
    url = f"{shop.url}/apple/apple-1.0-py3-none-any.whl"
    own = wheel(here, "quince", "1.0")
    for line in (
        f"apple==1.0 \\\n    --hash=sha256:{wrong} \\\n    --hash=sha256:{right}",
        f"{url} --hash=sha256:{right}",
        f"apple @ {url}#sha256={right}",
        f"./{own.name} --hash=sha256:{sha(own)}",
        f"./{own.name} --hash=sha256:{wrong} --hash=sha512:{hashlib.sha512(own.read_bytes()).hexdigest()}",
    ):
        assert len(locked(f"--require-hashes\n{line}\n", here, target)) == 1
    for line in (f"apple==1.0 --hash=sha256:{wrong}", f"{url} --hash=sha256:{wrong}"):
        with pytest.raises(ResolutionFailed, match="hash|Hash"):
            locked(line, here, target)
    (here / "limits.txt").write_text(f"apple==1.0 --hash=sha256:{wrong}\n")
    with pytest.raises(ResolutionFailed, match="hash"):
        locked("-c limits.txt\napple\n", here, target)
    for kind in ("sha256", "sha512", "md5"):
        with pytest.raises(UsageError, match="--hash does not allow"):
            locked(f"./{own.name} --hash={kind}:{wrong}\n", here, target)
    with pytest.raises(UsageError, match="crc32 is no kind of hash"):
        locked(f"./{own.name} --hash=crc32:{wrong}\n", here, target)
    with pytest.raises(UsageError, match="sha256"):
        locked(f"apple --hash=sha512:{wrong}{wrong}\n", here, target)
    with pytest.raises(ResolutionFailed, match="have none: apple"):
        locked("--require-hashes\napple\n", here, target)


def test_files_named_by_url(here: Path, shop: Index, target: Platform, tmp_path: Path) -> None:
    folder = tmp_path / "index" / "lists"
    folder.mkdir()
    url = shop.url.replace("/simple", "/lists")
    wheel(folder, "quince", "1.0")
    (folder / "all.txt").write_text("-c limits.txt\n-r more.txt\n./quince-1.0-py3-none-any.whl\n--pre\n")
    (folder / "limits.txt").write_text("apple<2\n")
    right = sha(tmp_path / "files" / "apple-1.0-py3-none-any.whl")
    (folder / "more.txt").write_text(f"apple==1.0 \\\n  --hash=sha256:{right}\n")
    assert locked(f"-r {url}/all.txt\n", here, target) == [["apple", "1.0"], ["quince", "1.0"]]
    assert locked(f"-c {url}/limits.txt\napple\n", here, target) == [["apple", "1.0"]]
    (folder / "more.txt").write_text(f"apple==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(ResolutionFailed, match="has a hash that"):
        locked(f"-r {url}/all.txt\n", here, target)
    (folder / "more.txt").write_text("apple==7\n")
    with pytest.raises(ResolutionFailed, match="apple==7"):
        locked(f"-r {url}/all.txt\n", here, target)
    with pytest.raises(EnvError, match=r"gone\.txt"):
        locked(f"-r {url}/gone.txt?token=hunter2\n", here, target)


def test_paths_are_what_uv_takes_for_paths(here: Path, shop: Index, target: Platform) -> None:
    (here / "sub").mkdir()
    own = wheel(here / "sub", "quince", "1.0")
    wheel(here, "medlar", "1.0")
    for line in (
        f"sub/{own.name}",
        f"quince @ sub/{own.name}",
        f"quince @ file:sub/{own.name}",
        f"quince @ {own.as_uri()}",
    ):
        assert locked(line, here, target) == [["quince", "1.0"]]
    assert locked("medlar-1.0-py3-none-any.whl\n", here, target) == [["medlar", "1.0"]]
    (here / "apple").mkdir()
    assert locked("apple\n", here, target) == [["apple", "2.0"]]
    assert Package.from_string("apple").kind == "requirement"
    for text in ("apple/", "./apple", "sub/../apple"):
        assert (Package.from_string(text).kind, Package.from_string(text).target) == ("folder", str(here / "apple"))
    (here / "apple" / "pyproject.toml").write_text("[project]\nname='apple'\nversion='9'\ndependencies=['pie']\n")
    assert locked("-e ./apple ; python_version < '3'\n", here, target) == []
    assert locked("-e ./apple ; python_version > '3'\n", here, target) == [["apple", "1.0"], ["pie", "1.0"]]
    (here / "utf16.txt").write_text("apple<2\n", encoding="utf-16")
    assert locked("-r utf16.txt\n", here, target) == [["apple", "1.0"]]


def test_what_uv_does_not_know_is_told(here: Path, shop: Index, target: Platform, told: list[str]) -> None:
    text = "--prefer-binary\n--use-feature=fast-deps\n--trusted-host example.org\napple\n"
    assert locked(text, here, target, told) == [["apple", "2.0"]]
    assert len(told) == 2
    assert "--prefer-binary" in told[0]
    assert "--use-feature" in told[1]
    for line in ('apple --global-option="x"', "--frobnicate x", "apple --config-settings x=y"):
        with pytest.raises(ResolutionFailed, match="Expected `--hash`|Unexpected"):
            locked(line, here, target)


def test_a_variable_or_query_that_changes_is_a_change(
    here: Path, shop: Index, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Deployer(host, host.status(), home=tmp_path / "client")
    asked = env("e", ["apple @ " + shop.url + "/apple/apple-${VERSION}-py3-none-any.whl?token=hunter2&take=${VERSION}"])
    for version in ("1.0", "2.0"):
        monkeypatch.setenv("VERSION", version)
        assert client.send(asked).changed
        assert host.run("e", "import apple; print(apple.__version__)") == version
        assert not client.send(asked).changed
    renewed = env("e", [asked.reqs[0].target.replace("hunter2", "hunter3")])
    assert not client.send(renewed).changed
    assert client.send(renewed, force=True).changed
    for path in [*host.home.rglob("*"), *(tmp_path / "client").rglob("*")]:
        assert path.is_dir() or b"hunter" not in path.read_bytes()


def test_an_unnamed_env_with_a_private_index_can_be_sent_again(
    here: Path, shop: Index, host: Host, tmp_path: Path
) -> None:
    client = Deployer(host, host.status(), home=tmp_path / "client")
    with index(tmp_path / "more", login=("me", "p@ss")) as more:
        more.add(wheel(tmp_path, "medlar", "1.0"))
        line = f"--extra-index-url {more.with_login()}"
        client.send(env(reqs=[line, "medlar"]))
        assert not client.send(env(reqs=[line, "medlar"])).changed
        assert client.send(env(reqs=[line, "apple"])).changed
        assert client.send(env(reqs=["crumble"])).changed
    assert "p%40ss" not in str(host.plans)


def test_a_login_that_is_not_encoded_is_taken_where_it_can_be(
    here: Path, target: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    with index(tmp_path / "index", login=("me", "p@s:s%w")) as private:
        private.add(wheel(tmp_path, "medlar", "1.0"))
        url = private.url.replace("http://", "http://me:p@s:s%w@")
        assert locked(f"-i {url}\nmedlar\n", here, target) == [["medlar", "1.0"]]
        with pytest.raises(UsageError, match=r"line 1.*%2F") as caught:
            locked(f"-i {url.replace('p@s', 'p/s')}\nmedlar\n", here, target)
    assert "s:s" not in str(caught.value)


def test_a_package_out_of_parts(here: Path) -> None:
    (here / "own").mkdir()
    (here / "requirements.txt").touch()
    assert rk.package(path="own", install_method="local") == rk.Package.from_string("local:./own")
    assert rk.package(path="own") == rk.Package.from_string("./own")
    assert rk.package(name="x", install_method="pip", install_str="numpy>1") == rk.Package.from_string("numpy>1")
    assert rk.package(install_method="reqs", path="./") == rk.Package.from_string("requirements.txt")
    stored = f"bucket/own/{'0' * 64}/own.folder.tar.gz"
    assert rk.package(path=stored, system="s3").kind == "stored"
    with pytest.raises(UsageError, match="my-package"):
        rk.package(name="my-package")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:hunter2@example.org/simple", "https://example.org/simple"),
        ("https://me:hun%40ter%2F2@example.org/simple", "https://example.org/simple"),
        ("https://me:hun@ter2@example.org:80/simple", "https://example.org:80/simple"),
        ("https://me:h/un@t:er2%@127.0.0.1:80/simple", "https://127.0.0.1:80/simple"),
        ("https://me:hunter2/@box/simple", "https://box/simple"),
        ("https://hunter2@example.org/simple", "https://example.org/simple"),
        ("https://hun/ter2@example.org/simple", "https://example.org/simple"),
        ("https://:hunter2@[::1]:80/simple", "https://[::1]:80/simple"),
        (
            "x @ https://example.org/x.whl?X-Amz-Signature=hunter2#sha256=0 ; a",
            "x @ https://example.org/x.whl#sha256=0 ; a",
        ),
        ("git+https://me:hunter2@example.org/o/r.git@v1.0", "git+https://example.org/o/r.git@v1.0"),
        ("sftp://me:hunter2@box:22/p", "sftp://me@box:22/p"),
    ],
)
def test_no_login_is_shown(url: str, shown: str) -> None:
    assert without_credentials(f"see {url}") == f"see {shown}"
    try:
        said = repr(Package.from_string(url))
    except UsageError as error:  # a password in a URL of git or storage, or it is not clear where it ends
        said = str(error)
    assert "hun" not in said


@pytest.mark.parametrize(
    "url",
    [
        "https://cdn.example.org/npm/pkg@1.2.3/x.whl",
        "https://example.org/o/r/archive/pkg@1.2.3.tar.gz",
        "https://box/@scope/x.whl",
        "http://127.0.0.1:80/x@y",
        "git+ssh://git@example.org/o/r.git@v1.0",
        "git+https://box/r@feature/x",
        "file:///tmp/a@b/c.whl",
        "s3://bucket/a@b/c.whl",
    ],
)
def test_an_at_sign_that_is_no_login_stays(url: str) -> None:
    assert without_credentials(url) == url
