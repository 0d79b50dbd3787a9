"""What Ray starts as the Python of an env's tasks where the env has secrets: asks for them and becomes that Python.

python -I -S ray_python.py SOCKET PYTHON ARGUMENT...
"""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

    from runkit.worker.secrets import fetch

    try:
        os.environ.update(fetch(sys.argv[1])["variables"])
    except (OSError, ValueError) as error:
        sys.stderr.write(f"runkit: the env's secrets cannot be had: {error}\n")
    os.execv(sys.argv[2], sys.argv[2:])
