"""Package, Env and what they read: the errors a user gets before anything happens, and the content that counts."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from packages import sdist, wheel

from runkit.errors import InvalidName, UsageError
from runkit.model.dotenv import read_dotenv
from runkit.model.env import as_env, env
from runkit.model.env_request import merge
from runkit.model.package import Package
from runkit.model.package_sync import PackageSync
from runkit.model.requirements import Requirements, read


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "kind", "target"),
    [
        ("numpy", "requirement", "numpy"),
        ("pip:numpy", "requirement", "numpy"),
        (" pip: numpy >= 1 ", "requirement", "numpy >= 1"),
        ("numpy>=1,<3 ; python_version < '3.13'", "requirement", "numpy>=1,<3 ; python_version < '3.13'"),
        ("uvicorn[standard]", "requirement", "uvicorn[standard]"),
        ("x @ https://example.org/x-1-py3-none-any.whl", "requirement", "x @ https://example.org/x-1-py3-none-any.whl"),
        ("https://example.org/x-1-py3-none-any.whl", "requirement", "https://example.org/x-1-py3-none-any.whl"),
        ("--extra-index-url https://example.org/simple", "requirement", "--extra-index-url https://example.org/simple"),
    ],
)
def test_requirement_lines_pass_unchanged(here: Path, text: str, kind: str, target: str) -> None:
    (here / "numpy").mkdir()  # a folder of that name changes nothing
    package = Package.from_string(text)
    assert (package.kind, package.target) == (kind, target)


def test_paths_are_folders_files_or_requirements(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "numpy").mkdir()
    (here / "requirements.txt").touch()
    own = wheel(here, "quince", "1.0")
    source = sdist(here, "rye", "1.0")
    monkeypatch.setenv("HOME", str(here))
    for text in (
        "./numpy",
        "local:numpy",
        "~/numpy",
        str(here / "numpy"),
        "pip:./numpy",
        f"file://{here}/numpy",
        "./numpy/../numpy/",
    ):
        assert Package.from_string(text).kind == "folder"
        assert Package.from_string(text).target == str(here / "numpy")
    assert Package.from_string("./numpy[fast,big]").extras == ("big", "fast")
    assert Package.from_string(".").target == str(here)
    assert Package.from_string("reqs:./").target == str(here / "requirements.txt")
    assert Package.from_string("reqs:requirements.txt").target == str(here / "requirements.txt")
    assert Package.from_string(f"./{own.name} ; sys_platform == 'linux'").marker == "sys_platform == 'linux'"
    assert Package.from_string(f"./{source.name}").kind == "file"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no package"),
        ("pip:", "names no package"),
        ("./nowhere", "does not exist"),
        ("acme/plum", r"does not exist; .* rk.GitPackage\('acme/plum'\)"),
        ("req:./", "req: is not known"),
        ("npm:x", "npm: is not known"),
        ("ssh://git@h.org/o/plum.git", r"'git\+https:"),
        ("https://github.com/acme/plum", r"'git\+https:"),
        ("https://h.org/o/plum.git@v1", r"'git\+https:"),
        ("local:nowhere", "no folder"),
        ("reqs:./nowhere", "no file"),
        ("./notes.txt", "reqs:./notes.txt"),
        ("hg+https://example.org/x", "only those from git"),
        ("x @ svn+ssh://me@example.org/x", "only those from git"),
        ("conda:", "names no package"),
    ],
)
def test_a_bad_package_is_refused_at_once(here: Path, text: str, said: str) -> None:
    (here / "notes.txt").touch()
    with pytest.raises(UsageError, match=said):
        env(reqs=[text])


def test_a_password_in_a_git_url_is_not_shown() -> None:
    with pytest.raises(UsageError) as caught:
        Package.from_string("git+https://me:hunter2@example.org/x")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"reqs": "numpy"}, r"reqs=\['numpy'\]"),
        ({"reqs": [3]}, "not by int"),
        ({"reqs": {"numpy": "1"}}, "not dict"),
        ({"env_vars": {"1A": "b"}}, "1A"),
        ({"env_vars": {"A": 1}}, "A must be a string, not int 1"),
        ({"env_vars": ["A"]}, "mapping"),
        ({"env_vars": "./nowhere.env"}, "cannot be read"),
        ({"working_dir": "./nowhere"}, "no folder"),
        ({"setup_cmds": [1]}, "setup_cmds"),
        ({"setup_cmds": [" "]}, "setup_cmds"),
        ({"python": 3.10}, "3.10 would be 3.1"),
        ({"python": "three"}, "no version"),
        ({"python": ">=3.10"}, "no version"),
        ({"python": "3.8"}, "too old"),
        ({"compute": {"CPUs": 1}}, "did you mean 'CPU'"),
        ({"compute": {"gpu": 1}}, "did you mean 'GPU'"),
        ({"compute": {"CPU": "one"}}, "CPU must be a number"),
        ({"compute": {"CPU": -1}}, "not negative"),
        ({"compute": {"GPU": 1.5}}, "whole"),
        ({"compute": {"memory": "2 apples"}}, "2GiB"),
        ({"compute": ["CPU"]}, "mapping"),
        ({"root_reqs": "no"}, "root_reqs"),
        ({"install_timeout": 0}, "seconds above 0"),
        ({"install_timeout": float("nan")}, "seconds above 0"),
        ({"install_timeout": float("inf")}, "seconds above 0"),
        ({"install_timeout": "10"}, "seconds above 0"),
    ],
)
def test_a_bad_env_is_refused_at_once(here: Path, arguments: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        env(name="e", **arguments)


@pytest.mark.parametrize("name", ["", "a b", "../x", "base", "-x", 3, "a" * 101])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        env(name=name)


def test_paths_start_where_env_was_called_and_are_read_when_sent(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "requirements.txt").write_text("apple\n")
    (here / ".env").write_text("A=1\n")
    asked = env(reqs=["reqs:./"], env_vars=".env", working_dir="./")
    (here / "requirements.txt").write_text("pear\n")
    (here / ".env").write_text("A=2\n")
    monkeypatch.chdir("/")
    assert asked.requirements().lines == ("pear",)
    assert asked.variables() == {"A": "2"}
    assert asked.working_dir == str(here)


def test_an_env_is_a_value(here: Path) -> None:
    made = env(
        "e",
        ["numpy", "local:./"],
        env_vars={"TOKEN": "hunter2"},
        compute={"memory": "1.5GiB", "tpu": 1},
        setup_cmds="make",
        python="3.12.1",
    )
    assert made == pickle.loads(pickle.dumps(made))
    assert hash(made)
    assert dict(made.compute) == {"memory": 1.5 * 2**30, "tpu": 1}
    for shown in (repr(made), made._repr_html_()):
        assert "numpy" in shown
        assert "TOKEN" in shown
        assert "hunter2" not in shown
    assert as_env(["numpy"]) == env(reqs=["numpy"])
    assert as_env(None) == env()
    assert as_env(made) is made
    with pytest.raises(UsageError, match="sent to a cluster"):
        made.to("box")


def test_nested_requirements_files(here: Path) -> None:
    (here / "a").mkdir()
    (here / "links").mkdir()
    (here / "a" / "base.txt").write_text("-c ../limits.txt\n-f ../links\nidna\n-r base.txt\n")
    (here / "limits.txt").write_text("six<2  # not yet\n-r more-limits.txt\n")
    (here / "more-limits.txt").write_text("idna<4\n")
    (here / "requirements.txt").write_text(
        "six>=1 \\\n  ,!=1.1  # why\n# gone\n-r a/base.txt\n--requirement=a/base.txt\nsix>=1 ,!=1.1\n"
    )
    found = read([Package.from_string("reqs:.")])
    assert found.lines == ("six>=1 ,!=1.1", f"--find-links {here}/links", "idna")
    assert found.constraints == ("six<2", "idna<4")
    assert found.origins[2] == f"{here}/a/base.txt, line 3"


def test_folders_bring_their_requirements(here: Path) -> None:
    for name in ("listed", "stated", "computed", "file"):
        (here / name).mkdir()
    (here / "listed" / "requirements.txt").write_text("apple\n-e ../stated[x]\n")
    (here / "stated" / "pyproject.toml").write_text(
        '[project]\nname = "stated"\ndependencies = ["pear"]\n[project.optional-dependencies]\nx = ["stated[y] ; python_version > \'3\'"]\n'
        'y = ["Stated[w]; python_version < \'3\'", "stated [v]>=1", "stated"]\nv = ["plum"]\nw = ["grape"]\n'
    )
    (here / "computed" / "pyproject.toml").write_text('[project]\nname = "c"\ndynamic = ["dependencies"]\n')
    (here / "file" / "pyproject.toml").write_text(
        '[project]\nname = "f"\ndynamic = ["dependencies"]\n[tool.setuptools.dynamic]\ndependencies = {file = "deps.in"}\n'
    )
    (here / "file" / "deps.in").write_text("fig\n")
    found = env(reqs=["local:listed", "./computed", "./file"]).requirements()
    assert found.lines == ("apple", "pear", "plum", "fig")
    assert found.folders == tuple(str(here / name) for name in ("listed", "stated", "computed", "file"))
    assert len(found.notes) == 1
    assert "computed" in found.notes[0]
    with pytest.raises(UsageError, match="no extra 'z'"):
        env(reqs=["./stated[z]"]).requirements()
    for scheme in ("reqs", "local"):
        with pytest.raises(UsageError, match=rf"rk\.GitPackage\(.*install_method='{scheme}'"):
            env(reqs=[f"{scheme}:git+https://example.org/o/r"])


def test_dependencies_of_a_folder_that_are_not_read_are_told(here: Path) -> None:
    for name in ("old", "poetic", "bare", "computed"):
        (here / name).mkdir()
    (here / "old" / "setup.py").write_text("setup(name='old', install_requires=['apple'])\n")
    (here / "poetic" / "pyproject.toml").write_text('[tool.poetry.dependencies]\npython = "^3.10"\napple = "*"\n')
    (here / "bare" / "setup.py").write_text("setup(name='bare')\n")
    (here / "bare" / "pyproject.toml").write_text('[tool.poetry.dependencies]\npython = "^3.10"\n')
    (here / "computed" / "pyproject.toml").write_text(
        '[project]\nname = "c"\ndynamic = ["optional-dependencies"]\n'
        '[tool.setuptools.dynamic.optional-dependencies]\nbig = {file = ["big.in"]}\n'
    )
    (here / "computed" / "big.in").write_text("pear\n")
    found = env(reqs=["./old", "./poetic", "./bare", "./computed[big,small]"]).requirements()
    assert found.lines == ("pear",)
    said = [note.removeprefix(str(here)) for note in found.notes]
    assert [note.partition(";")[0] for note in said] == [
        "/old: the dependencies that setup.py names are not installed",
        "/poetic: the dependencies that [tool.poetry.dependencies] names are not installed",
        "/computed: its pyproject.toml computes the extra 'small'",
    ]


@pytest.mark.parametrize("line", ["-r gone.txt", "./gone.whl", "-e gone", "x @ ./gone", "./requirements.txt"])
def test_a_path_that_leads_nowhere_is_named_with_its_line(here: Path, line: str) -> None:
    (here / "requirements.txt").write_text(f"six\n{line}\n")
    with pytest.raises(UsageError, match=r"requirements\.txt, line 2: "):
        env(reqs=["reqs:./"]).requirements()


def test_dotenv_files(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTSIDE", "out")
    (here / ".env").write_text(
        r"""
# comment
PLAIN=a b # comment
HASH=a#b
export EXPORTED = yes
SINGLE='lite$ral ${OUTSIDE} # \n'
DOUBLE="tab\tquote\" \${no} ${OUTSIDE}" # comment
LINES="one
two"
EMPTY=
CHAIN=${PLAIN}-${MISSING:-none}
URL=postgres://me:p=x@host/db?a=b
"""
    )
    assert read_dotenv(here / ".env") == {
        "PLAIN": "a b",
        "HASH": "a#b",
        "EXPORTED": "yes",
        "SINGLE": "lite$ral ${OUTSIDE} # \\n",
        "DOUBLE": 'tab\tquote" ${no} out',
        "LINES": "one\ntwo",
        "EMPTY": "",
        "CHAIN": "a b-none",
        "URL": "postgres://me:p=x@host/db?a=b",
    }
    (here / "bad.env").write_text("A=1\nno sign\n")
    with pytest.raises(UsageError, match="line 2: expected NAME=value"):
        read_dotenv(here / "bad.env")
    (here / "bad.env").write_text("A-B=1\n")
    with pytest.raises(UsageError, match="A-B"):
        env(env_vars=here / "bad.env")


def test_merging_requirements_as_pip_would() -> None:
    kept = Requirements(("six==1.16", "idna", "fig[a]"), origins=("", "", ""))
    installed = {"six": "1.16", "idna": "3.7", "fig": "1.0"}

    def merged(*lines: str) -> tuple[str, ...]:
        return merge(kept, Requirements(lines, origins=lines), installed).lines

    assert merged("six", "idna>=3", "Fig[a]") == kept.lines
    assert merged("six>1.16") == ("idna", "fig[a]", "six>1.16")
    assert merged("fig[b]") == ("six==1.16", "idna", "fig[b]")
    # Nothing that is added together is lost, though one of it is satisfied: they contradict each other.
    assert merged("idna<3", "idna>3") == ("six==1.16", "fig[a]", "idna<3", "idna>3")
    assert merged("six==1.16", "six>1.16") == ("idna", "fig[a]", "six==1.16", "six>1.16")
    assert merged("--pre", "plum") == (*kept.lines, "--pre", "plum")


def test_large_files_are_hashed_once(here: Path) -> None:
    own = wheel(here, "quince", "1.0")
    first = env(reqs=[str(own)]).requirements()
    wheel(here, "quince", "1.0", body="changed = True\n")
    os.utime(own)
    assert env(reqs=[str(own)]).requirements().lines != first.lines


def test_the_extras_of_a_folder_s_own_extras_are_its_own(here: Path) -> None:
    (here / "pyproject.toml").write_text(
        '[project]\nname = "jam"\nversion = "1"\n[project.optional-dependencies]\nsweet = ["honey"]\nsour = ["lemon"]\n'
        "all = [\"jam[sweet] ; python_version > '3'\", \"jam [sour]; sys_platform == 'win32'\"]\n"
    )
    assert env(reqs=["./[all]"]).requirements().lines == ("honey",)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("setup.py", "from setuptools import setup\nsetup(name='jam', install_requires=['honey'])\n"),
        ("setup.cfg", "[options]\ninstall_requires = honey\n"),
        ("pyproject.toml", "[tool.poetry.dependencies]\npython = '^3.10'\nhoney = '*'\n"),
    ],
)
def test_dependencies_that_are_not_read_are_told(here: Path, file: str, content: str) -> None:
    (here / file).write_text(content)
    asked = env(reqs=["./"]).requirements()
    assert asked.lines == ()
    assert "list them in a requirements.txt" in asked.notes[0]
    (here / "requirements.txt").write_text("honey\n")
    assert env(reqs=["./"]).requirements().notes == ()


def test_conda_packages_are_no_extras_of_a_venv() -> None:
    with pytest.raises(UsageError, match="conda:orange"):
        PackageSync(extras=["conda:orange"])
