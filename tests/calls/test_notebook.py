"""A notebook with a real kernel: functions of its cells, output where it belongs, edits of cells."""

from __future__ import annotations

import os
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import runkit as rk
from tests.calls.projects import Project

CELLS = [
    "import runkit as rk\nfrom box import c\nimport helper",
    "RATE = 3\ndef f(x):\n    print('in the cell', x)\n    return helper.double(x) * RATE",
    "remote = rk.function(f).to(c)",
    "remote(2)",
    "import sys\ndef g():\n    for i in range(2):\n        print('item', i)\n        yield i\n    print('done', file=sys.stderr)\nlist(rk.function(g).to(c))",
    "def f(x):\n    return 'edited'\nrk.function(f).to(c)(1)",
    "class Counter:\n    def __init__(self): self.n = 0\n    def add(self, k=1):\n        self.n += k\n        return self.n\ncounter = rk.module(Counter).to(c)(name='counter'); counter.add(); counter.add(5)",
    "await remote.submit(1)",
    "async def h(x):\n    return x + 1\nawait rk.function(h).to(c)(1)",
    "def broken():\n    return helper.fail()\nrk.function(broken).to(c)()",
    "remote",
    "c.clear(); c",
]


@pytest.fixture(scope="module")
def outputs(cluster: rk.Cluster, tmp_path_factory: pytest.TempPathFactory) -> list[list[Any]]:
    """What each cell showed."""
    project = Project(tmp_path_factory.mktemp("notebook") / "nb", cluster).write(
        {
            "helper.py": "def double(x):\n    return 2 * x\ndef fail():\n    raise ValueError('over there')\n",
            "pyproject.toml": "",
        }
    )
    cells = [
        nbformat.v4.new_code_cell(cell.replace("list(rk.function(g).to(c))", "list(rk.function(g).to(c)())"))
        for cell in CELLS
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    path = os.pathsep.join(filter(None, [str(project.outside), str(project.folder), os.environ.get("PYTHONPATH")]))
    client = NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        allow_errors=True,
        resources={"metadata": {"path": str(project.folder)}},
    )
    client.execute(env={**os.environ, "PYTHONPATH": path})
    return [cell.outputs for cell in notebook.cells]


def text(outputs: list[Any]) -> str:
    """The result of a cell."""
    return "".join(one["data"]["text/plain"] for one in outputs if one["output_type"] == "execute_result")


def printed(outputs: list[Any], stream: str = "stdout") -> str:
    return "".join(one["text"] for one in outputs if one["output_type"] == "stream" and one["name"] == stream)


def test_a_function_of_a_cell(outputs: list[list[Any]]) -> None:
    assert not any(one["output_type"] == "error" for cell in outputs[:9] for one in cell), outputs
    assert text(outputs[3]) == "12"
    assert printed(outputs[3]) == "in the cell 2\n"
    assert printed(outputs[2]) == ""


def test_generators_and_coroutines(outputs: list[list[Any]]) -> None:
    assert text(outputs[4]) == "[0, 1]"
    assert printed(outputs[4]) == "item 0\nitem 1\n"
    assert printed(outputs[4], "stderr").endswith("done\n")
    assert text(outputs[7]) == "6"
    assert printed(outputs[7]) == "in the cell 1\n"
    assert text(outputs[8]) == "2"


def test_an_edited_cell(outputs: list[list[Any]]) -> None:
    assert text(outputs[5]) == "'edited'"


def test_a_class_of_a_cell(outputs: list[list[Any]]) -> None:
    assert text(outputs[6]) == "6"


def test_errors_and_displays(outputs: list[list[Any]]) -> None:
    [error] = [one for one in outputs[9] if one["output_type"] == "error"]
    assert (error["ename"], error["evalue"]) == ("ValueError", "over there")
    trace = "\n".join(error["traceback"])
    assert "helper.py" in trace
    assert "<box>" not in trace, "code of a cell is shown as IPython knows it"
    assert "/client/" not in trace
    html = [one["data"]["text/html"] for cell in outputs[10:] for one in cell if "data" in one]
    assert "Function f on" in html[0]
    assert "Cluster box" in html[1]
