"""Trains a digit reader on a cluster: this machine by default, else a host you can reach by SSH.

Usage: python main.py [--host HOST] [--epochs N] [--out FILE]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from digits.train import train

import runkit as rk


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a digit reader on a cluster and bring the result back.")
    parser.add_argument("--host", "--alias", help="a Host of ~/.ssh/config, or user@address; this machine if left out")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("digits.png"), help="where the picture goes")
    args = parser.parse_args()

    if args.host:
        user, _, host = args.host.rpartition("@")
        cluster = rk.cluster("digits", host=host, ssh_creds={"ssh_user": user} if user else None)
        cluster.save()  # so that `runkit status digits` and `runkit stop digits` know it
    else:
        cluster = rk.here

    with cluster:
        env = rk.env(name="digits", reqs=["scikit-learn", "matplotlib"])
        remote_train = rk.function(train).to(cluster, env=env)
        report = remote_train(epochs=args.epochs)

    args.out.write_bytes(report.picture)
    print(f"\naccuracy {report.accuracy:.1%}, trained on {report.trained_on} (this is process {os.getpid()})")
    print(f"picture in {args.out}")


if __name__ == "__main__":
    main()
