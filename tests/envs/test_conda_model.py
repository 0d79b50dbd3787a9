"""What `conda_env=` takes, and what it is asked for in the end; nothing is solved here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import runkit as rk
from runkit.client import conda
from runkit.client.lock import Artifact
from runkit.model import conda_local


@pytest.fixture(autouse=True)
def nobodys_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The `.condarc` of these tests; the machine's owner has no say."""
    monkeypatch.setenv("CONDARC", str(tmp_path / "condarc"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "condarc"


def asked(conda_env: Any = None, **options: Any) -> dict[str, Any]:
    found = conda.request(rk.conda_env(conda_env=conda_env, **options))
    assert found is not None
    return found


def test_the_forms_of_runhouse() -> None:
    content = {"name": "new-conda-env", "channels": ["defaults"], "dependencies": ["pip", {"pip": "diffusers"}]}
    env = rk.env(conda_env=content, reqs=["accelerate"])
    assert (type(env), env.name) == (rk.CondaEnv, "new-conda-env")
    assert env.requirements().lines == ("diffusers", "accelerate")
    assert rk.env(name="other", conda_env=content).name == "other"
    assert repr(rk.conda_env(reqs=["numpy", "diffusers"], name="new_env")) == (
        "CondaEnv(name='new_env', reqs=['numpy', 'diffusers'], conda_env=<conda: python>)"
    )
    plain = rk.env(reqs=[rk.Package.from_string("conda:torch>=2"), "einops"])
    assert isinstance(plain, rk.CondaEnv)
    assert plain.name is None  # on top of the default env
    own = rk.conda_env(reqs=["conda:torch>=2", "einops"])
    assert own.name == rk.conda_env(reqs=["conda:torch>=2", "einops"]).name
    assert own.name != rk.conda_env(reqs=["conda:torch"]).name
    assert plain.requirements().lines == ("einops",)
    found = conda.request(plain)
    assert found is not None
    assert found["specs"] == ["torch>=2"]
    assert type(rk.env(reqs=["numpy"])) is rk.Env
    assert isinstance(rk.env(name="top", base=plain, reqs=["six"]), rk.CondaEnv)
    below = rk.conda_env(conda_env={"dependencies": ["python=3.10"]}, name="below")
    assert rk.conda_env(conda_env={"dependencies": ["python=3.12"]}, name="top", base=below).python == "3.12"
    assert rk.env(name="top", base=below, reqs=["conda:numpy"]).python == "3.10"


@pytest.mark.parametrize(
    ("spec", "python"),
    [
        ("python=3.10", "3.10"),
        ("python==3.10.4", "3.10.4"),
        ("python 3.11.*", "3.11"),
        ("conda-forge::python=3.12", "3.12"),
        ("python=3.12=*_cpython", "3.12"),
        ("python>=3.10,<3.11", "3.10"),
        ("python[version='>=3.12,<3.13']", "3.12"),
        ("python>=3.10", None),
        ("python", None),
        ("python-dateutil=3.10", None),
    ],
)
def test_the_python_of_a_spec_is_the_envs(spec: str, python: str | None) -> None:
    assert rk.conda_env(conda_env={"dependencies": [spec]}, name="e").python == python
    assert rk.conda_env(reqs=[f"conda:{spec}"], name="e").python == python


def test_pythons_may_not_contradict_each_other() -> None:
    content = {"dependencies": ["python=3.10"]}
    assert rk.conda_env(conda_env=content, python="3.10.4").python == "3.10.4"
    with pytest.raises(rk.errors.UsageError, match=r"python='3\.12' contradicts .* Python 3\.10"):
        rk.conda_env(conda_env=content, python="3.12")
    with pytest.raises(rk.errors.UsageError, match="too old"):
        rk.conda_env(conda_env={"dependencies": ["python=3.7"]})
    assert asked({"dependencies": ["numpy"]}, name="e", python="3.12")["specs"] == ["numpy", "python=3.12"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("missing.yml", r"missing\.yml is not there"),
        ("./folder", "no conda-meta"),
        ("broken.yml", r"broken\.yml is no YAML"),
        ("text.yml", "describes no conda environment"),
        ("folder", r"no conda environment 'folder'.*conda_env='\./folder'"),
        ("", "is empty"),
        (3, "not int"),
        ({"dependencies": "numpy", "channels": 4}, "`channels` is a list, not int"),
        ({"dependencies": {"numpy": "1"}}, "`dependencies` is a list, not dict"),
        ({"dependencies": [3.1]}, "a line of text, not 3.1"),
        ({"dependencies": [{"npm": ["x"]}]}, "can only be `pip`, not npm"),
        ({"dependencies": ["=1.0"]}, "names no conda package"),
        ({"dependencies": [], "variables": ["A"]}, "`variables` is a mapping"),
        ({"dependencies": [], "variables": {"A B": "c"}}, "cannot be the name"),
        ({"name": 3}, "`name` is a text"),
    ],
)
def test_bad_input_is_named(given: Any, said: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken.yml").write_text("a: [b\n")
    (tmp_path / "text.yml").write_text("numpy\n")
    with pytest.raises(rk.errors.UsageError, match=said):
        rk.env(conda_env=given)


def test_what_means_nothing_is_told(tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text("name: e\ndependency: [numpy]\nprefix: /opt/conda\n")
    env = rk.conda_env(conda_env="e.yaml")
    assert env.conda is not None
    assert [note.partition(": ")[2].split(" means")[0] for note in env.conda.notes] == ["'dependency'"]


def test_variables_are_what_a_shell_would_see() -> None:
    found = asked({"variables": {"A": 3, "B": True, "C": None, "D": "text"}}, name="e")["variables"]
    assert found == {"A": "3", "B": "true", "C": "", "D": "text"}


def test_channels_are_addresses(nobodys_settings: Path) -> None:
    forge = "https://conda.anaconda.org/conda-forge"
    assert asked(name="e")["channels"] == [forge]
    assert asked({"channels": ["conda-forge", "nodefaults"]}, name="e")["channels"] == [forge]
    main = ["https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r"]
    assert asked({"channels": ["defaults"]}, name="e")["channels"] == main
    of_package = asked({"channels": ["conda-forge"], "dependencies": ["pytorch::torch=2"]}, name="e")
    assert of_package["channels"] == [forge, "https://conda.anaconda.org/pytorch"]
    assert of_package["specs"] == ["https://conda.anaconda.org/pytorch::torch=2"]
    nobodys_settings.write_text(
        """
        channels: ours
        channel_alias: https://mirror.example.org/t/secret-token/
        custom_channels: {ours: "https://me:hidden@conda.example.org"}
        default_channels: [https://mirror.example.org/main]
        channel_priority: strict
        """
    )
    found = asked(name="e")
    assert found["channels"] == ["https://conda.example.org/ours"]
    assert asked({"channels": ["x"]}, name="e")["channels"] == ["https://mirror.example.org/x"]
    assert found["priority"] == "strict"
    assert asked({"channels": ["defaults"]}, name="e")["channels"] == ["https://mirror.example.org/main"]
    assert asked({"channels": ["./local"]}, name="e")["channels"] == [(nobodys_settings.parent / "local").as_uri()]


def test_what_pip_installed_comes_again_from_where_pip_had_it(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    (tmp_path / "conda-meta").mkdir()
    (tmp_path / "conda-meta" / "history").write_text("# update specs: ['python=3.11']\n")
    vcs = {"vcs": "git", "commit_id": "a" * 40}
    for name, origin in {
        "plain": None,
        "secret": {"url": "https://me:hunter2@git.example.org/r", "vcs_info": vcs, "subdirectory": "sub"},
        "sent": {"url": "https://example.org/sent.zip", "archive_info": {"hash": f"sha256={'0' * 64}"}},
        "linked": {"url": tmp_path.as_uri(), "dir_info": {"editable": True}},
    }.items():
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n\n")
        (info / "INSTALLER").write_text("pip\n")
        if origin:
            (info / "direct_url.json").write_text(json.dumps(origin))
    (site / "empty.egg-link").touch()
    assert conda_local.requested(tmp_path)[2] == [
        "plain==1.0",
        f"secret @ git+https://git.example.org/r@{'a' * 40}#subdirectory=sub",
        f"sent @ https://example.org/sent.zip#sha256={'0' * 64}",
    ]
    built = {"url": (tmp_path / "built").as_uri(), "dir_info": {}}
    (site / "plain-1.0.dist-info" / "direct_url.json").write_text(json.dumps(built))
    with pytest.raises(rk.errors.UsageError, match="plain was installed from .*/built by pip"):
        conda_local.requested(tmp_path)


def test_settings_of_the_installation_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, home = tmp_path / "root", tmp_path / "home"
    for name in ("CONDARC", "CONDA_PREFIX", "CONDA_EXE", "MAMBA_EXE", "MAMBA_ROOT_PREFIX", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("CONDA_ROOT", str(root))
    (root / "condarc.d").mkdir(parents=True)
    home.mkdir()
    (root / ".condarc").write_text("channels: [https://example.org/ours]\n")
    assert asked(name="e")["channels"] == ["https://example.org/ours"]
    (root / "condarc.d" / "a.yml").write_text("channels: [https://example.org/part]\nchannel_priority: strict\n")
    assert asked(name="e")["channels"] == ["https://example.org/part"]
    (home / ".condarc").write_text("channels: [https://example.org/mine]\n")
    found = asked(name="e")
    assert (found["channels"], found["priority"]) == (["https://example.org/mine"], "strict")
    (root / ".condarc").write_text("channels: [https://example.org/active]\n")
    monkeypatch.setenv("CONDA_PREFIX", str(root))
    assert asked(name="e")["channels"] == ["https://example.org/part"]


def test_a_wrong_file_of_a_channel_in_a_folder_is_left_there(tmp_path: Path) -> None:
    own = tmp_path / "x.conda"
    for url, stays in ((None, True), ("https://example.org/x.conda", False)):
        own.write_text("x")
        with pytest.raises(rk.errors.InstallFailed, match="MD5"):
            conda._check_md5(Artifact("x.conda", "s", url, str(own)), {"md5": "0" * 32})
        assert own.exists() == stays


def test_the_name_does_not_change_what_is_solved() -> None:
    one, other = (asked({"dependencies": ["numpy"]}, name=name) for name in ("a", "b"))
    assert one.pop("name") == "a"
    assert other.pop("name") == "b"
    assert one == other
