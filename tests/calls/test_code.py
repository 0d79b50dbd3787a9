"""Code on its way: layouts, scripts, notebooks' cousins, data files, two projects at once."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

import cloudpickle
import pytest

import runkit as rk
from runkit.client.by_value import along
from tests.calls.projects import Project, output_of

MakeProject = Callable[[str], Project]

WHO = "import sys\ndef who():\n    return __name__, sys.path[0]\n"


@pytest.fixture
def project(tmp_path: Path, cluster: rk.Cluster) -> MakeProject:
    """Makes a project in a folder of that name."""
    return lambda name: Project(tmp_path / name, cluster)


def test_a_loose_script_and_its_siblings(project: MakeProject) -> None:
    """Without a marker the script's own folder is the root."""
    here = project("loose").write(
        {
            "sibling.py": "import other\ndef triple(x):\n    return other.double(x) + x\n",
            "other.py": "def double(x):\n    return 2 * x\n",
            "script.py": """
                import os, sys, sibling, runkit as rk
                from box import c

                RATE = 10

                class Point:
                    def __init__(self, x): self.x = x
                    def scaled(self): return Point(sibling.triple(self.x) * RATE)

                def f(x):
                    return sibling.triple(x) + RATE

                if __name__ == "__main__":
                    print(rk.function(f).to(c)(2), rk.function(sibling.triple).to(c)(5))
                    print(rk.function(lambda p: p.scaled()).to(c)(Point(1)).x)
                    p = rk.module(Point).to(c)(2, name="p")
                    print(p.remote.x, p.scaled().x, c.get("p").x)
                    c.put("q", Point(7))
                    print(c.get("q", remote=True).scaled().x)
                    print(rk.function(os.getcwd).to(c)().split("/")[-2][:5])
                    c.delete(["p", "q"])
            """,
        }
    )
    assert here.run("script.py") == ["16 15", "30", "2 60 2", "210", "loose"]
    assert here.run("loose/script.py", cwd="..")[0] == "16 15"


def test_main_without_a_file(project: MakeProject) -> None:
    """`-c` and `-m`: the root around the current folder goes along."""
    here = project("bare main").write(
        {"pyproject.toml": "", "helper.py": "def one():\n    return 1\n", "sub/x.txt": "data"}
    )
    code = "import runkit as rk, helper\nfrom box import c\n"
    f = "def f():\n    return helper.one(), open('sub/x.txt').read()\n"
    assert here.run("-c", f"{code}{f}print(rk.function(f).to(c)())") == ["(1, 'data')"]
    g = "print(rk.function(lambda: __import__('helper').one()).to(c)())"
    here.write(
        {
            "pkg/__init__.py": "",
            "pkg/near.py": "def two():\n    return 2\n",
            "pkg/mod.py": """
                import runkit as rk
                from box import c
                from .near import two
                from pkg import near

                def f():
                    from . import near as again
                    return two(), again is near

                print(rk.function(f).to(c)())
            """,
        }
    )
    assert here.run("-m", "pkg.mod") == ["(2, True)"]
    assert here.run("-c", f"import runkit as rk\nfrom box import c\n{g}", cwd="sub") == ["1"]


LAYOUTS = {
    "relative": (
        {"setup.py": "", "pkg/__init__.py": "", "pkg/a/__init__.py": "from .. import b", "pkg/b.py": "from .a.c import n", "pkg/a/c.py": "n = 3",
         "pkg/top.py": "from .b import n\nfrom . import a\ndef f():\n    from .a import c\n    return n, c.n, a.b.n\n"},
        "from pkg.top import f", "", "(3, 3, 3)",
    ),
    "src": (
        {"pyproject.toml": "", "src/pkg/__init__.py": "", "src/pkg/m.py": "from pkg.n import x\ndef f():\n    return x\n", "src/pkg/n.py": "x = 4"},
        "import sys; sys.path.insert(0, 'src'); from pkg.m import f", "", "4",
    ),
    "namespace": (
        {"setup.cfg": "", "org/one/m.py": "from org.two import n\ndef f():\n    return n.x\n", "org/two/n.py": "x = 5"},
        "from org.one.m import f", "", "5",
    ),
    "späce & ünicode": (
        {"requirements.txt": "", "mein paket/__init__.py": "", "mein paket/grüße.py": "def f():\n    return open(__file__.replace('grüße.py', 'dätä 1.txt')).read()\n",
         "mein paket/dätä 1.txt": "hallo"},
        "import importlib; f = importlib.import_module('mein paket.grüße').f", "", "hallo",
    ),
    "marker inside a package": (
        {"pkg/requirements.txt": "", "pkg/__init__.py": "", "pkg/m.py": "from pkg import n\ndef f():\n    return n.x\n", "pkg/n.py": "x = 6"},
        "from pkg.m import f", "", "6",
    ),
    "paths inside the root": (
        {"pyproject.toml": "", "libs/first/which.py": "x = 1", "libs/second/which.py": "x = 2", "m.py": "import which\ndef f():\n    return which.x\n"},
        "import sys; sys.path[:0] = ['libs/second', 'libs/first']; from m import f", "", "2",
    ),
    "from a folder below": (
        {"pyproject.toml": "", "tools/run/x.txt": "", "pkg/__init__.py": "", "pkg/m.py": "import os\ndef f():\n    return os.path.isdir('tools/run')\n"},
        "import sys; sys.path.insert(0, '../..'); from pkg.m import f", "tools/run", "True",
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(project: MakeProject, layout: str) -> None:
    files, imports, cwd, answer = LAYOUTS[layout]
    here = project(layout).write(files)
    code = f"import runkit as rk\nfrom box import c\n{imports}\nprint(rk.function(f).to(c)())\nprint(f() == rk.function(f).to(c)() or f())"
    assert here.run("-c", code, cwd=cwd)[0] == answer


def test_data_files_and_modes(project: MakeProject) -> None:
    here = project("data").write(
        {
            "pyproject.toml": "",
            "pkg/__init__.py": "",
            "pkg/table.csv": "1,2",
            "pkg/run.sh": "#!/bin/sh\necho ran",
            "pkg/load.py": """
                import importlib.resources, os, subprocess
                from pathlib import Path
                def load():
                    beside = Path(__file__).with_name("table.csv").read_text()
                    ran = subprocess.run([Path(__file__).parent / "run.sh"], capture_output=True, text=True, check=True).stdout
                    packed = importlib.resources.files("pkg").joinpath("table.csv").read_text()
                    return [beside, open("pkg/table.csv").read(), packed, ran.strip(), os.access("pkg/table.csv", os.X_OK)]
            """,
        }
    )
    (here.folder / "pkg/run.sh").chmod(0o755)
    (here.folder / "pkg/link.csv").symlink_to("table.csv")
    code = "import runkit as rk\nfrom box import c\nfrom pkg.load import load\nprint(rk.function(load).to(c)())"
    assert here.run("-c", code) == ["['1,2', '1,2', '1,2', 'ran', False]"]


def test_two_projects_in_one_env(project: MakeProject) -> None:
    """Both have helpers.py, import it late as well, and their calls overlap in the same process."""
    processes = []
    for name in ("alpha", "beta"):
        here = project(name).write(
            {
                "pyproject.toml": "",
                "helpers.py": f"import deep\ndef name():\n    import late\n    return '{name}', deep.x, late.x\n",
                "deep.py": f"x = '{name}'",
                "late.py": f"x = '{name}'",
                "main.py": f"""
                    import os, threading, time
                    import runkit as rk
                    import helpers

                    def work(pause):
                        found = set()
                        for _ in range(6):
                            found.add(helpers.name())
                            time.sleep(pause)
                            import late
                            found.add((late.x, __import__("deep").x, os.path.basename(os.path.dirname(os.getcwd()))[:5]))
                        return sorted(found), os.getpid(), threading.current_thread().name

                    class Kept:
                        def name(self):
                            import deep
                            return helpers.name(), deep.x

                    if __name__ == "__main__":
                        from box import c
                        import main
                        k = rk.module(main.Kept).to(c, env="default")(name="kept {name}")
                        f = rk.function(main.work).to(c)
                        results = list(f.map([0.05] * 4)) + [f(0.01)]
                        print({{str(found) for found, _, _ in results}})
                        print({{pid for _, pid, _ in results}})
                        print(k.name())
                        c.delete("kept {name}")
                """,
            }
        )
        processes.append(here.start("main.py"))
    pids = set()
    for name, process in zip(("alpha", "beta"), processes):
        found, pid, kept = output_of(process)
        assert f"('{name}', '{name}', '{name}')" in found
        assert ("beta" if name == "alpha" else "alpha") not in found + kept
        pids.add(pid)
    assert len(pids) == 1


def test_working_dir(project: MakeProject) -> None:
    here = project("wd").write(
        {
            "pyproject.toml": "",
            "m.py": "import os\ndef f():\n    return os.path.exists('marker.txt'), os.listdir('.')\n",
            "elsewhere/marker.txt": "",
        }
    )
    code = (
        "import runkit as rk\nfrom box import c\nimport m\n"
        "e = rk.env(name='wd', working_dir='elsewhere', root_reqs=False)\n"
        "print(rk.function(m.f).to(c, env=e)(), c.run('ls', env=e, stream_logs=False))\n"
        "print(rk.function(m.f).to(c)()[0])"
    )
    assert here.run("-c", code) == ["(True, ['marker.txt']) [(0, 'marker.txt\\n', '')]", "False"]


def test_requirements_of_the_root(project: MakeProject) -> None:
    here = project("with reqs").write(
        {
            "requirements.txt": "iniconfig==2.0.0\n",
            "m.py": "def f():\n    import iniconfig\n    return iniconfig.__file__\n",
        }
    )
    code = (
        "import runkit as rk\nfrom box import c\nimport m\n"
        "print('site-packages' in rk.function(m.f).to(c, env=rk.env(name='reqs1'))())\n"
        "try: rk.function(m.f).to(c, env=rk.env(name='reqs0', root_reqs=False))()\n"
        "except ModuleNotFoundError as e: print(e.name)"
    )
    assert here.run("-c", code) == ["True", "iniconfig"]


def test_what_the_user_sends_by_value_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call takes nothing out of cloudpickle's own list that it has not put there."""
    monkeypatch.setitem(sys.modules, "jam", jam := types.ModuleType("jam"))
    for registered in (False, True):
        if registered:
            cloudpickle.register_pickle_by_value(jam)
        with along([jam]), along([jam]):
            assert "jam" in cloudpickle.list_registry_pickle_by_value()
        assert ("jam" in cloudpickle.list_registry_pickle_by_value()) is registered
    cloudpickle.unregister_pickle_by_value(jam)
