"""How code gets there: synced, inline, or installed from git."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import runkit as rk
from tests.calls.projects import Project
from tests.git_servers import Repository, git

MakeProject = Callable[[str], Project]


@pytest.fixture
def project(tmp_path: Path, cluster: rk.Cluster) -> MakeProject:
    """Makes a project in a folder of that name."""
    return lambda name: Project(tmp_path / name, cluster)


def test_a_function_of_the_standard_library_is_there_already(cluster: rk.Cluster) -> None:
    assert rk.function(json.dumps, source="inline").to(cluster)([1]) == "[1]"


def test_inline_takes_along_what_it_uses_and_syncs_nothing(project: MakeProject) -> None:
    here = project("inlined").write(
        {
            "pyproject.toml": "",
            "requirements.txt": "six==1.16.0\n",
            "kit/__init__.py": "",
            "kit/helpers.py": "RATE = 3\ndef triple(x):\n    return RATE * x\n",
            "kit/more.py": "def one():\n    return 1\n",
            "kit/train.py": """
                import os
                from kit import more
                from kit.helpers import triple

                class Config:
                    def __init__(self, x): self.x = x
                    def bigger(self): return Config(triple(self.x) + more.one())

                def step(config):
                    return config.bigger(), sorted(os.listdir())

                class Counter:
                    def __init__(self, n): self.n = n
                    def add(self, k): self.n += triple(k); return self.n
            """,
            "run.py": """
                import runkit as rk
                from box import c
                from kit.train import Config, Counter, step

                env = rk.env(name="inlined")
                step = rk.function(step, source="inline").to(c, env=env)
                made, listed = step(Config(2))
                print(type(made) is Config, made.x, "kit" in listed)
                print(step.options(timeout=60)(Config(1))[0].x)
                print(rk.module(Counter, source="inline").to(c, env=env)(4).add(1))
                print(c.run_python("import six", env="inlined", stream_logs=False)[0][0])
            """,
        }
    )
    assert here.run("run.py") == ["True 7 False", "4", "7", "1"]


def test_what_makes_code_large_is_named(project: MakeProject) -> None:
    here = project("large").write(
        {
            "run.py": """
                import sys
                import runkit as rk
                from box import c

                TABLE = bytes(3_000_000)
                SMALL = "small"

                def look(i):
                    return TABLE[i], SMALL

                def outer():
                    weights = bytearray(2_000_000)
                    return lambda i: (look(i), weights[i])

                sys.stderr = sys.stdout
                print(rk.function(outer()).to(c)(0))
            """,
        }
    )
    said = here.run("run.py")
    (warning,) = [line for line in said if "travels by value" in line]
    assert "takes 5.0 MB along: TABLE (3.0 MB), weights (of the function around it) (2.0 MB)" in warning
    assert "SMALL" not in warning
    assert said[-1] == "((0, 'small'), 0)"


def test_nothing_leaks_from_one_function_into_another(project: MakeProject) -> None:
    here = project("apart").write(
        {
            "pyproject.toml": "",
            "both.py": """
                import os, sys
                def which():
                    return os.environ.get("WHICH"), any(path.endswith("/tree") for path in sys.path), os.path.exists("both.py")
                def also():
                    return which()
            """,
            "run.py": """
                import runkit as rk
                from box import c
                from both import also, which

                a = rk.env(name="apart-a", env_vars={"WHICH": "a"})
                b = rk.env(name="apart-b", env_vars={"WHICH": "b"})
                inline = rk.function(which, env=a, source="inline")
                synced = rk.function(also, env=b)
                one = inline.options(timeout=50).to(c)
                two = synced.options(retries=1).to(c)
                print(one(), two(), inline.to(c, env=b)(), one(), rk.function(which).to(c, env=b)())
            """,
        }
    )
    assert here.run("run.py") == [
        "('a', False, False) ('b', True, True) ('b', False, False) ('a', False, False) ('b', True, True)"
    ]


@pytest.mark.parametrize(
    "wrap", [lambda source: rk.function(print, source=source), lambda source: rk.module(Path, source=source)]
)
def test_a_source_that_there_is_not(wrap: Callable[[str], object]) -> None:
    with pytest.raises(rk.errors.UsageError, match='"sync", "inline" or a GitPackage, not \'by hand\''):
        wrap("by hand")


def test_an_empty_list_means_no_requirements_at_all(project: MakeProject) -> None:
    here = project("listed").write(
        {
            "requirements.txt": "six==1.16.0\n",
            "lib.py": "def has():\n    import importlib.util\n    return importlib.util.find_spec('six') is not None\n",
            "run.py": """
                import runkit as rk
                from box import c
                from lib import has
                for name, reqs in (("listed-none", []), ("listed", None)):
                    print(rk.function(has).to(c, env=rk.env(name=name, reqs=reqs))())
                print(rk.env(reqs=[], root_reqs=True).root_reqs, rk.env(reqs=["six"]).root_reqs)
            """,
        }
    )
    assert here.run("run.py") == ["False", "True", "True True"]


BACKEND = """
import os, zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(os.path.join(folder, "damson-1.0-py3-none-any.whl"), "w") as wheel:
        wheel.writestr("damson.py", open("damson.py").read())
        wheel.writestr("damson-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: damson\\nVersion: 1.0\\n")
        wheel.writestr("damson-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("damson-1.0.dist-info/RECORD", "")
    return "damson-1.0-py3-none-any.whl"
"""
CODE = """
import sys

def taste():
    return "sweet", "site-packages" in __file__, [path for path in sys.path if "roots" in path]

class Jar:
    def __init__(self, n):
        self.n = n
    def open(self):
        return taste()[0], self.n
"""
PROJECT = {
    "pyproject.toml": '[project]\nname = "damson"\nversion = "1.0"\n'
    '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
    "backend.py": BACKEND,
    ".gitignore": "__pycache__\n",
    "damson.py": CODE,
}


@pytest.fixture
def damson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    """A repository with a package, whose work tree is importable here."""
    made = Repository(tmp_path, "damson")
    git(made.work, "remote", "add", "origin", str(made.bare))
    made.commit(PROJECT)
    git(made.work, "fetch", "-q")
    monkeypatch.syspath_prepend(str(made.work))
    yield made
    sys.modules.pop("damson", None)


def test_code_that_is_installed_from_git(
    damson: Repository, cluster: rk.Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    module: Any = importlib.import_module("damson")
    package = rk.GitPackage(str(damson.bare), revision="main")
    env = rk.env(name="orchard", root_reqs=False)

    def sent() -> rk.Function:
        capsys.readouterr()
        return rk.function(module.taste, source=package).to(cluster, env=env)

    assert sent()() == ("sweet", True, [])
    assert "damson-work" not in capsys.readouterr().err
    assert rk.module(module.Jar, source=package).to(cluster, env=env)(3).open() == ("sweet", 3)
    assert env.reqs == ()

    (damson.work / "damson.py").write_text(CODE.replace("sweet", "sour"))
    assert sent()()[0] == "sweet"
    assert f"taste: uncommitted changes in {damson.work} do not go along: damson.py" in capsys.readouterr().err

    git(damson.work, "commit", "-aqm", "sour")
    assert sent()()[0] == "sweet"
    assert "which is not pushed; what runs over there is another: 'main' is" in capsys.readouterr().err

    damson.push()
    git(damson.work, "fetch", "-q")
    assert sent()()[0] == "sour"  # although the version is the same
    assert "runs over there" not in capsys.readouterr().err
    cluster.remove_env("orchard")


def test_a_name_that_the_package_does_not_have(damson: Repository, cluster: rk.Cluster) -> None:
    module: Any = importlib.import_module("damson")
    package = rk.GitPackage(str(damson.bare))
    env = rk.env(name="orchard", root_reqs=False)
    with pytest.raises(rk.errors.EnvError, match=f"{damson.bare}.*'orchard', does not have the module '{__name__}'"):
        rk.function(test_a_source_that_there_is_not, source=package).to(cluster, env=env)
    module.late = lambda: None
    module.late.__qualname__ = "late"
    module.late.__module__ = "damson"
    with pytest.raises(rk.errors.EnvError, match="does not have 'late' in its module 'damson'"):
        rk.function(module.late, source=package).to(cluster, env=env)
    cluster.remove_env("orchard")


def test_what_cannot_be_installed_from_git(damson: Repository) -> None:
    module: Any = importlib.import_module("damson")
    with pytest.raises(rk.errors.UsageError, match="no name in its module"):
        rk.function(lambda: None, source=rk.GitPackage(str(damson.bare)))
    with pytest.raises(rk.errors.UsageError, match='leave it "pip"'):
        rk.function(module.taste, source=rk.GitPackage(str(damson.bare), install_method="reqs"))
    with pytest.raises(rk.errors.UsageError, match=r"rk\.GitPackage\(\.\.\.\)"):
        rk.function(module.taste, source="git+https://example.org/damson")
