"""Times `ray start --head`. Usage: ray_start.py RAY TEMP_DIR PORT. Prints seconds as JSON; leaves Ray running."""

import json
import subprocess
import sys
import time

ray, temp, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
ports = ["--port", "--dashboard-port", "--dashboard-agent-listen-port"]  # its defaults may belong to somebody
command = [ray, "start", "--head", f"--temp-dir={temp}", "--disable-usage-stats"]
command += [f"{name}={port + i}" for i, name in enumerate(ports)]
begin = time.perf_counter()
done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
seconds = time.perf_counter() - begin
if done.returncode:
    sys.exit((done.stdout + done.stderr)[-500:])
print(json.dumps(seconds))
