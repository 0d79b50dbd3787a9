"""The edit loop: change a file, `.to()` again, the new code runs; what was stored or imported from packages stays."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import runkit as rk
from tests.calls.projects import Project
from tests.hosts import Host

FILES = {
    "pyproject.toml": "",
    "looped/__init__.py": "",
    "looped/leaf.py": "VALUE = 1\n",
    "looped/helper.py": "from looped.leaf import VALUE\ndef value():\n    return VALUE\n",
    "looped/main.py": """
        import os, yaml
        from looped import helper
        from .base import Base

        def f():
            return helper.value()

        def late():
            from looped import later
            return later.X

        def third_party():
            return id(yaml)

        class Model(Base):
            def __init__(self):
                self.state = 0
            def step(self):
                self.state += helper.value()
                return self.state

        def write(name):
            with open(name, "w") as file:
                file.write("by the call")
            return os.path.abspath(name)
    """,
    "looped/base.py": "class Base:\n    def which(self):\n        return 'old base'\n",
}


@pytest.fixture
def looped(tmp_path: Path, cluster: rk.Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project whose package `looped` this process can import."""
    project = Project(tmp_path / "looped project", cluster).write(FILES)
    monkeypatch.syspath_prepend(str(project.folder))
    yield project
    for name in [name for name in sys.modules if name.partition(".")[0] == "looped"]:
        del sys.modules[name]
    cluster.clear()


def main() -> Any:
    return importlib.import_module("looped.main")


def edit_in_place(path: Path, text: str) -> None:
    """Same size, same times: what a quick editor does within a second."""
    before = path.stat()
    assert len(text) == before.st_size
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns // 10**9 * 10**9))


def test_an_edit_runs_everywhere(looped: Project, cluster: rk.Cluster) -> None:
    f = rk.function(main().f).to(cluster)
    model = rk.module(main().Model).to(cluster)(name="model")
    cluster.put("data", [1, 2])
    rk.function(main().f).to(cluster, name="named f")
    imported = rk.function(main().third_party).to(cluster)()
    assert (f(), model.step(), model.which()) == (1, 1, "old base")
    for value in (2, 3, 4):  # two imports below what is called
        edit_in_place(looped.folder / "looped/leaf.py", f"VALUE = {value}\n")
        assert rk.function(main().f).to(cluster)() == value
    assert f() == 4  # the one sent before runs the newest code too
    assert model.step() == 5  # its state stayed, its methods are new
    assert cluster.get("model", remote=True).step() == 9
    assert cluster.get("named f", remote=True)() == 4
    edit_in_place(looped.folder / "looped/base.py", FILES["looped/base.py"].replace("old", "new"))
    rk.function(main().f).to(cluster)
    assert model.which() == "new base"
    assert cluster.get("data") == [1, 2]
    assert rk.function(main().third_party).to(cluster)() == imported
    assert isinstance(main().third_party(), int)


def test_reload_and_new_functions(looped: Project, cluster: rk.Cluster) -> None:
    assert rk.function(main().f).to(cluster)() == 1
    path = looped.folder / "looped/main.py"
    path.write_text(
        path.read_text().replace("return helper.value()", "return helper.value() + 100") + "\ndef g():\n    return 7\n"
    )
    importlib.invalidate_caches()
    again = importlib.reload(main())
    assert rk.function(again.f).to(cluster)() == 101
    assert rk.function(again.g).to(cluster)() == 7


def test_new_and_deleted_modules(looped: Project, cluster: rk.Cluster) -> None:
    late = rk.function(main().late).to(cluster)
    with pytest.raises(ImportError, match="later"):
        late()
    looped.write({"looped/later.py": "X = 'first'\n"})
    late = rk.function(main().late).to(cluster)
    assert late() == "first"
    (looped.folder / "looped/later.py").unlink()
    looped.write({"looped/later/__init__.py": "from .deeper import X\n", "looped/later/deeper.py": "X = 'a package'\n"})
    assert rk.function(main().late).to(cluster)() == "a package"
    (looped.folder / "looped/later/deeper.py").unlink()
    with pytest.raises(ImportError, match="deeper"):
        rk.function(main().late).to(cluster)()
    assert rk.function(main().f).to(cluster)() == 1


def test_code_by_value_sees_edited_modules(looped: Project, cluster: rk.Cluster) -> None:
    code = """
        import runkit as rk
        from box import c
        from looped import helper
        by_value = lambda: helper.value()
        first = rk.function(by_value).to(c)
        print(first())
        open("looped/leaf.py", "w").write("VALUE = 2")
        second = rk.function(by_value).to(c)
        print(first(), second())
    """
    looped.write({"script.py": code})
    assert looped.run("script.py") == ["1", "2 2"]


def test_from_a_fresh_process(looped: Project, cluster: rk.Cluster) -> None:
    code = "import runkit as rk\nfrom box import c\nfrom looped.main import f, Model\nprint(rk.function(f).to(c)(), {rest})"
    assert looped.run("-c", code.replace("{rest}", "rk.module(Model).to(c)(name='m').step()")) == ["1 1"]
    looped.write({"looped/leaf.py": "VALUE = 5\n"})
    assert looped.run("-c", code.replace("{rest}", "c.get('m', remote=True).step()")) == ["5 6"]
    assert rk.function(main().f).to(cluster)() == 5
    looped.write({"looped/leaf.py": "VALUE = 6\n"})
    assert looped.run("-c", code.replace("{rest}", "c.get('m').state")) == ["6 6"]


def test_an_edit_that_is_wrong_says_so_and_is_mended(looped: Project, cluster: rk.Cluster) -> None:
    assert rk.function(main().f).to(cluster)() == 1
    looped.write({"looped/leaf.py": "VALUE = = 1\n"})
    with pytest.raises(SyntaxError) as caught:
        rk.function(main().f).to(cluster)()
    assert caught.value.filename is not None
    assert caught.value.filename.endswith("looped/leaf.py")
    looped.write({"looped/leaf.py": "VALUE = 8\n"})
    assert rk.function(main().f).to(cluster)() == 8


def test_files_that_calls_wrote_stay(looped: Project, cluster: rk.Cluster) -> None:
    path = rk.function(main().write).to(cluster)("result.txt")
    looped.write({"looped/leaf.py": "VALUE = 2\n", "data.txt": "mine"})
    rk.function(main().f).to(cluster)
    (looped.folder / "data.txt").unlink()
    rk.function(main().f).to(cluster)
    [(code, out, _)] = cluster.run(f"cat '{path}'; ls '{os.path.dirname(path)}'", stream_logs=False)
    assert code == 0
    assert out == "by the calllooped\npyproject.toml\nresult.txt\n"


def test_local_folders_among_the_requirements(
    tmp_path: Path, looped: Project, cluster: rk.Cluster, monkeypatch: pytest.MonkeyPatch, host: Host
) -> None:
    """Importable, with what their requirements.txt names; an edit of them costs no objects."""
    lib = tmp_path / "lib"
    (lib / "extra_pkg").mkdir(parents=True)
    (lib / "requirements.txt").write_text("iniconfig==2.0.0\n")
    (lib / "extra_pkg/__init__.py").write_text("import iniconfig\nX = 1\n")

    def use() -> int:
        import extra_pkg

        return extra_pkg.X

    env = rk.env(name="with-folder", reqs=[str(lib)], root_reqs=False)
    f = rk.function(use).to(cluster, env=env)
    assert f() == 1
    cluster.put("kept", 1, env=env)
    (lib / "extra_pkg/__init__.py").write_text("import iniconfig\nX = 2\n")
    assert env.to(cluster).lost_keys == ()
    assert rk.function(use).to(cluster, env=env)() == 2
    assert cluster.get("kept") == 1
    (lib / "extra_pkg/__init__.py").write_text("import iniconfig\nX = 3\n")
    env.to(cluster)
    assert f() == 3  # also where only the env was sent again
    (lib / "requirements.txt").write_text("iniconfig==2.1.0\n")
    assert env.to(cluster).lost_keys == ("kept",)
    assert f() == 3
    assert cluster.run_python("import iniconfig; print(iniconfig.__file__)", env=env, stream_logs=False)[0][0] == 0
