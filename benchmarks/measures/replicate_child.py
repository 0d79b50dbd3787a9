"""Runs in the environment that is replicated: answers {"do": "send" | "again" | "edit"} with how long it took."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import runkit as rk
from runkit.client.lock import Lock


def main() -> None:
    import benchedit.code

    place, code = json.loads(sys.argv[1]), Path(sys.argv[2])
    cluster = rk.cluster("bench", **place).up_if_not()
    env = rk.env(name="replicated", package_sync=True)
    function = rk.function(benchedit.code.value)
    for count, line in enumerate(sys.stdin):
        answer: dict[str, Any] = {}
        begin = time.perf_counter()
        if json.loads(line)["do"] == "edit":
            code.write_text(f"def value():\n    return {count}\n")
            assert function.to(cluster, env=env)() == count
        else:
            function.to(cluster, env=env)
        answer["seconds"] = time.perf_counter() - begin
        if json.loads(line)["do"] == "send":
            spec = cluster.link.api.json("GET", "/v1/envs/replicated/spec")
            lock = Lock.from_json(spec["lock"])
            answer["lock"] = lock.text({package.artifact.sha256 for package in lock.packages})
            answer["python"] = cluster.run("readlink -f $(which python)", env="replicated", stream_logs=False)[0][
                1
            ].strip()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
