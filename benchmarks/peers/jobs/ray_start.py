"""Times `ray start --head`. Usage: ray_start.py RAY TEMP_DIR PORT. Prints seconds as JSON; leaves Ray running."""

import json
import subprocess
import sys
import time

ray, temp, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
command = [
    ray,
    "start",
    "--head",
    f"--port={port}",
    f"--dashboard-port={port + 1}",
    f"--ray-client-server-port={port + 2}",
]
command += [f"--dashboard-agent-listen-port={port + 3}", f"--temp-dir={temp}", "--disable-usage-stats"]
begin = time.perf_counter()
done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
seconds = time.perf_counter() - begin
if done.returncode:
    sys.exit(done.stdout + done.stderr)
print(json.dumps(seconds))
