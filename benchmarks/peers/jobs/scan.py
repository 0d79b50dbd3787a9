"""In the venv that is scanned: `scan.py runkit|cached|coiled` imports the scanner, scans, prints JSON.

The first scan comes right after the import, as in a fresh session; the others show what a scan alone takes.
"""

import json
import sys
import time

who = sys.argv[1]
begin = time.perf_counter()
if who == "coiled":
    import asyncio

    from coiled.scan import scan_prefix

    def scan():
        return [one["name"] for one in asyncio.run(scan_prefix())]
else:
    from runkit.client.scan import scan as scan_local

    def scan():
        return [one.name for one in scan_local(cache=who == "cached").distributions]


imported = time.perf_counter()
names = scan()
first = time.perf_counter()
if sys.argv[2:] == ["once"]:
    print(json.dumps({"names": len(names), "import": imported - begin, "first": first - imported}))
    sys.exit()
times = []
for _ in range(7):
    start = time.perf_counter()
    scan()
    times.append(time.perf_counter() - start)
print(json.dumps({"names": len(names), "scan": sorted(times)[3]}))
