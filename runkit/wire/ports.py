"""Whether ports of this machine are free. The worker has no use for it, and does not load it."""

from __future__ import annotations

import socket


def are_free(first: int, number: int = 1) -> bool:
    """Whether nothing listens on a port of 127.0.0.1, nor on those behind it.

    Args:
        first: the port.
        number: how many to look at, this one included.
    """
    for port in range(first, first + number):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # what a server that has ended left does not count
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True
