"""Which root a function's code has, as it comes out in real sessions: scripts, `-m`, `-c`, imported modules."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runkit.client import markers, roots
from runkit.errors import RootError
from tests.sync.mirrored import git, write

_SAY = """
import dataclasses, json
from runkit.client import markers, roots
from runkit.errors import RootError
def say(*objects):
    for obj in objects:
        try:
            found = roots.locate(obj)
        except RootError as error:
            print(json.dumps({"error": str(error)}))
            continue
        root = found.root
        print(json.dumps([root and str(root.path), root and root.paths, found.module, found.qualname, found.by_value_reason]))
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


def _python(cwd: Path, *arguments: str, **settings: str) -> list[Any]:
    """What `say` said in a real interpreter."""
    tools = Path(os.environ["RUNKIT_HOME"]) / "tools"
    write(tools, {"say.py": _SAY})
    path = [str(tools), str(Path(__file__).parents[2]), settings.get("PYTHONPATH", "")]
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in path if part)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


_HELPER = "def f(): pass\nclass C:\n    class In: pass\n    def m(self): pass\n    @classmethod\n    def c(cls): pass\n"


def test_module_of_a_package(tmp_path: Path) -> None:
    project = tmp_path / "my project"
    write(project, {"pyproject.toml": "", "pkg/__init__.py": "", "pkg/sub/__init__.py": "", "pkg/sub/m.py": _HELPER})
    code = "from say import say; import pkg.sub.m as m, pkg; say(m.f, m.C, m.C.In, m.C.m, m.C.c, m, pkg, m.C().m)"
    *found, bound = _python(project, "-c", code)
    names = ["f", "C", "C.In", "C.m", "C.c", None]
    assert found[:6] == [[str(project), [""], "pkg.sub.m", name, None] for name in names]
    assert found[6] == [str(project), [""], "pkg", None, None]
    assert bound[4] == "it is a method of an object"


@pytest.mark.parametrize("marker", markers.MARKERS)
def test_markers(tmp_path: Path, marker: str) -> None:
    write(tmp_path / "p", {marker: "", "deep/er/m.py": ""})
    assert markers.enclosing(tmp_path / "p/deep/er") == tmp_path / "p"
    assert roots.locate(tmp_path / "p/deep/er/m.py").root == roots.root_at(tmp_path / "p")


def test_marker_inside_of_a_package_is_not_where_imports_start(tmp_path: Path) -> None:
    write(tmp_path / "p", {"setup.py": "", "app/__init__.py": "", "app/requirements.txt": "", "app/train.py": _HELPER})
    (found,) = _python(tmp_path / "p", "-c", "from say import say; from app.train import f; say(f)")
    assert found == [str(tmp_path / "p"), [""], "app.train", "f", None]
    (found,) = _python(tmp_path / "p/app", "-c", "from say import say; from train import f; say(f)")
    assert found == [str(tmp_path / "p/app"), [""], "train", "f", None]


def test_src_layout_installed_editable(tmp_path: Path) -> None:
    write(tmp_path / "p", {"pyproject.toml": "", "src/pkg/m.py": _HELPER, "src/pkg/__init__.py": "", "tests/t.py": ""})
    code = "from say import say; from pkg.m import f; say(f)"
    for settings in ({"PYTHONPATH": str(tmp_path / "p/src")}, {"PYTHONPATH": "src"}):
        (found,) = _python(tmp_path / "p", "-c", code, **settings)
        assert found == [str(tmp_path / "p"), ["", "src"], "pkg.m", "f", None]
    finder = """
import importlib.util, sys, types
hook = types.ModuleType("__editable___pkg_finder")
hook.MAPPING = {"pkg": WHERE}
sys.modules[hook.__name__] = hook
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in hook.MAPPING:
            place = hook.MAPPING[name]
            return importlib.util.spec_from_file_location(name, place + "/__init__.py", submodule_search_locations=[place])
sys.meta_path.append(Finder)
""".replace("WHERE", repr(str(tmp_path / "p/src/pkg")))
    (tmp_path / "elsewhere").mkdir()
    found, session = _python(tmp_path / "elsewhere", "-c", finder + code + "; import os; os.chdir('../p'); say(None)")
    assert found == [str(tmp_path / "p"), ["src", ""], "pkg.m", "f", None]
    assert sorted(session[1]) == ["", "src"]


def test_namespace_package(tmp_path: Path) -> None:
    write(tmp_path / "p", {"setup.cfg": "", "lib/space/part/m.py": _HELPER})
    code = "from say import say; import space.part.m as m, space.part; say(m.f, space.part)"
    found, package = _python(tmp_path / "p", "-c", code, PYTHONPATH="lib")
    assert found == [str(tmp_path / "p"), ["", "lib"], "space.part.m", "f", None]
    assert package == [str(tmp_path / "p"), ["", "lib"], "space.part", None, None]


def test_order_of_the_path(tmp_path: Path) -> None:
    write(
        tmp_path / "p",
        {
            "setup.cfg": "",
            "b/x.py": "",
            "a/y.py": "",
            ".venv/pyvenv.cfg": "",
            ".venv/extra/z.py": "",
            "scripts/s.py": "from say import say\nsay(None)\n",
        },
    )
    os.makedirs(tmp_path / "p/.venv/lib/python3.11/site-packages")
    path = "b:a:missing:.venv/extra:.venv/lib/python3.11/site-packages:" + str(tmp_path)
    (found,) = _python(tmp_path / "p", "scripts/s.py", PYTHONPATH=path)
    assert found[:2] == [str(tmp_path / "p"), ["scripts", "b", "a", ""]]


def test_scripts_without_a_marker(tmp_path: Path) -> None:
    write(
        tmp_path / "loose",
        {"helper.py": _HELPER, "s.py": "from say import say\nimport helper\ndef g(): pass\nsay(g, helper.f, helper)\n"},
    )
    (tmp_path / "elsewhere").mkdir()
    own, helper, module = _python(tmp_path / "elsewhere", str(tmp_path / "loose/s.py"))
    assert own == [str(tmp_path / "loose"), [""], "__main__", "g", "it is defined in __main__"]
    assert helper == [str(tmp_path / "loose"), [""], "helper", "f", None]
    assert module == [str(tmp_path / "loose"), [""], "helper", None, None]


def test_main_in_its_ways(tmp_path: Path) -> None:
    script = "from say import say\ndef g(): pass\nif __name__ == '__main__': say(g, None)\n"
    write(
        tmp_path / "p",
        {
            "pyproject.toml": "",
            "pkg/__init__.py": "",
            "pkg/requirements.txt": "",
            "pkg/mod.py": script,
            "pkg/__main__.py": script,
        },
    )
    for arguments, path, root in [
        (("-m", "pkg.mod"), [""], "p"),
        (("-m", "pkg"), [""], "p"),
        (("pkg/mod.py",), [""], "p/pkg"),
        (("-c", script), [""], "p"),
    ]:
        for found in _python(tmp_path / "p", *arguments):
            assert found[:2] == [str(tmp_path / root), path]
            assert found[2:] in ([None] * 3, ["__main__", "g", "it is defined in __main__"])


def test_notebook_and_launchers(tmp_path: Path) -> None:
    write(tmp_path / "p", {"pyproject.toml": "", "notebooks/x.ipynb": ""})
    kernel = "import sys; sys.modules['__main__'].__file__ = %r; from say import say; say(None)"
    for launcher in (os.path.join(sys.prefix, "bin", "pytest"), pytest.__file__):
        (found,) = _python(tmp_path / "p/notebooks", "-c", kernel % launcher)
        assert found[:2] == [str(tmp_path / "p"), ["notebooks", ""]]


def test_home_folder(home: Path) -> None:
    write(
        home,
        {
            "pyproject.toml": "",
            "s.py": "from say import say\nimport helper\ndef g(): pass\nsay(g, None, helper.f)\n",
            "helper.py": _HELPER,
        },
    )
    git(home, "init", "-q")
    own, session, helper = _python(home, "s.py")
    assert own == [None, None, "__main__", "g", "it is defined in __main__"]
    assert session[0] is None
    assert "your home folder" in helper["error"]
    assert "pyproject.toml" in helper["error"]
    assert "working_dir=" in helper["error"]
    with pytest.raises(RootError, match="your home folder"):
        roots.root_at("~")
    write(home, {"code/m.py": _HELPER})
    assert markers.enclosing(home / "code") is None
    (found,) = _python(home / "code", "-c", "from say import say; import m; say(m.f)")
    assert found == [str(home / "code"), [""], "m", "f", None]


@pytest.mark.parametrize("folder", ["/", "/tmp", "/root", "/home/somebody"])
def test_folders_that_are_no_root(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.path.isdir(folder):
        with pytest.raises(RootError, match="working_dir="):
            roots.root_at(folder)
    with pytest.raises(RootError):
        roots.root_at("/nowhere/at/all")


def test_markers_in_the_folder_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"tmp/requirements.txt": "", "tmp/x/a.py": "", "setup.py": ""})
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    assert markers.enclosing(tmp_path / "tmp/x") is None
    assert roots.locate(tmp_path / "tmp/x/a.py").root == roots.root_at(tmp_path / "tmp/x")


def test_installed_code_has_no_root() -> None:
    for obj in (json.dumps, math.sqrt, pytest.fixture, json, len, os.path.join):
        found = roots.locate(obj)
        assert (found.root, found.by_value_reason) == (None, None)


def test_by_value(tmp_path: Path) -> None:
    write(
        tmp_path / "p",
        {
            "setup.py": "",
            "m.py": "import functools\n"
            "def deco(f):\n    @functools.wraps(f)\n    def inner(): return f()\n    return inner\n"
            "@deco\ndef wrapped(): pass\n"
            "original = wrapped.__wrapped__\n"
            "anonymous = lambda: 1\n"
            "def make():\n    def inner(): pass\n    return inner\n"
            "closure = make()\n"
            "@functools.lru_cache\ndef cached(): pass\n"
            "def gone(): pass\nkept = gone\ndel gone\n"
            "part = functools.partial(make)\n"
            "class C:\n    def __call__(self): pass\nc = C()\n"
            "def renamed(): pass\nrenamed.__module__ = 'not.there'\n",
        },
    )
    code = "from say import say; import m; say(m.wrapped, m.cached, m.original, m.anonymous, m.closure, m.kept, m.part, m.c, m.renamed)"
    found = _python(tmp_path / "p", "-c", code)
    reasons = [reason for *_, reason in found]
    assert reasons[:2] == [None, None]
    for reason, words in zip(
        reasons[2:],
        [
            "another object",
            "lambda",
            "inside a function",
            "no attribute",
            "functools.partial",
            "type m.C",
            "not among the imported",
        ],
        strict=True,
    ):
        assert words in reason
    assert [place[0] for place in found] == [str(tmp_path / "p")] * 9


def test_name_that_is_not_the_files(tmp_path: Path) -> None:
    write(tmp_path / "p", {"setup.py": "", "plug/in.py": _HELPER})
    code = "import importlib.util as u, sys; s = u.spec_from_file_location('loaded', 'plug/in.py'); m = u.module_from_spec(s); "
    code += "sys.modules['loaded'] = m; s.loader.exec_module(m); from say import say; say(m.f)"
    (found,) = _python(tmp_path / "p", "-c", code)
    assert found[0] == str(tmp_path / "p")
    assert "cannot be imported" in found[4]


def test_reached_through_a_link(tmp_path: Path) -> None:
    write(tmp_path / "real", {"setup.py": "", "src/m.py": _HELPER})
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "shared", {"tool.py": _HELPER})
    (tmp_path / "real/vendor").symlink_to("../shared")
    (found, tool) = _python(
        tmp_path, "-c", "from say import say; import m, tool; say(m.f, tool.f)", PYTHONPATH="link/src:link/vendor"
    )
    assert found == [str(tmp_path / "real"), ["src", "vendor", ""], "m", "f", None]
    assert tool == [str(tmp_path / "real"), ["src", "vendor", ""], "tool", "f", None]


def test_ids(tmp_path: Path) -> None:
    for place in ("a/my proj é", "b/my proj é"):
        (tmp_path / place).mkdir(parents=True)
    one, two = roots.root_at(tmp_path / "a/my proj é"), roots.root_at(tmp_path / "b/my proj é")
    assert one.id.startswith("my-proj-")
    assert one.id != two.id
    assert one == roots.root_at(tmp_path / "b/../a/my proj é")
    assert one.id.isascii()
    assert len(roots.client_id()) == 32
    (Path(os.environ["RUNKIT_HOME"]) / "client-id").write_text("another client\n")
    assert roots.root_at(tmp_path / "a/my proj é").id != one.id


def test_client_id_when_many_begin_at_once(tmp_path: Path) -> None:
    code = "from runkit.client import roots; print(roots.client_id())"
    settings = {**os.environ, "RUNKIT_HOME": str(tmp_path / "fresh"), "PYTHONPATH": str(Path(__file__).parents[2])}
    started = [subprocess.Popen([sys.executable, "-c", code], env=settings, stdout=subprocess.PIPE) for _ in range(6)]
    assert len({process.communicate()[0] for process in started}) == 1
    assert [path.name for path in (tmp_path / "fresh").iterdir()] == ["client-id"]
