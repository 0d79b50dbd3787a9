"""Starts a worker: `python .../runkit/worker/boot.py`, with the configuration as JSON on standard input."""

import os
import sys

if __name__ == "__main__":  # and not where multiprocessing's "spawn" imports its parent's main module
    # This file's folder is first on the path now, and would shadow the standard library; runkit's own takes its place.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

    from runkit.worker.main import main

    main()
