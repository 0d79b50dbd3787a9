"""Runhouse 0.0.42 on an SSH host. Usage: runhouse_client.py HOST PORT USER KEY ROOT CALLS. Prints JSON; seconds.

ROOT holds the module `benchfns`. HOME is a scratch folder: Runhouse writes its configuration there.
"""

import json
import os
import statistics
import sys
import time

host, port, user, key, root, calls = sys.argv[1:]
os.chdir(root)
sys.path.insert(0, root)
answers = sys.stdout
sys.stdout = sys.stderr

clock = time.perf_counter
begin = clock()
import runhouse as rh  # noqa: E402

out = {"import": clock() - begin}

import numpy as np  # noqa: E402
from benchfns import echo  # noqa: E402

cluster = rh.cluster(
    name="peerbench", host=host, ssh_port=int(port), ssh_creds={"ssh_user": user, "ssh_private_key": key}
)


def timed(work):
    begin = clock()
    work()
    return clock() - begin


out["server_start"] = timed(lambda: cluster.restart_server(resync_rh=False))
out["to_first"] = timed(lambda: rh.function(echo).to(cluster))
f = rh.function(echo).to(cluster)
assert f(1) == 1
out["to_again"] = statistics.median(timed(lambda: rh.function(echo).to(cluster)) for _ in range(5))


def spread(n, **options):
    times = sorted(timed(lambda: f(1, **options)) for _ in range(n))
    return {"p50": statistics.median(times), "p99": times[min(n - 1, int(n * 0.99))], "count": n}


out["call_quiet"] = spread(int(calls), stream_logs=False)
out["call_streaming"] = spread(max(20, int(calls) // 4))
x = np.ones(32 * 2**20 // 8)
out["echo_bytes_per_s"] = 64 * 2**20 / timed(lambda: f(x, stream_logs=False))
print(json.dumps(out), file=answers, flush=True)
os._exit(0)  # its threads and tunnels do not always let it end
