"""A client and a worker of this interpreter's version, on a cluster on this machine. Run by scripts/smoke."""

from __future__ import annotations

import platform
import sys

import runkit as rk

VERSION = ".".join(platform.python_version_tuple()[:2])


def where(name: str) -> tuple[str, str]:
    print("hello from", name)
    return name, ".".join(str(part) for part in sys.version_info[:2])


def count(n: int):
    yield from range(n)


class Counter:
    def __init__(self, start: int) -> None:
        self.value = start

    def add(self, n: int) -> int:
        self.value += n
        return self.value


def main() -> None:
    cluster = rk.here.up_if_not()
    try:
        for env in (rk.env(name="smoke", reqs=["six"], python=VERSION), None):
            got = rk.function(where).to(cluster, env=env)("smoke")
            assert got == ("smoke", VERSION), got
            assert list(rk.function(count).to(cluster, env=env)(3)) == [0, 1, 2]
            counter = rk.module(Counter).to(cluster, env=env)(40)
            assert counter.add(2) == 42
            try:
                rk.function(divmod).to(cluster, env=env)(1, 0)
            except ZeroDivisionError:
                pass
            else:
                raise AssertionError("no ZeroDivisionError")
        cluster.put("key", {"a": 1})
        assert cluster.get("key") == {"a": 1}
    finally:
        cluster.stop_server()
    print(f"smoke run passed: Python {platform.python_version()}, runkit {rk.__version__}")


if __name__ == "__main__":
    main()
