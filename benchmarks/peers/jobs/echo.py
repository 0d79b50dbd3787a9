"""A raw echo: a length (8 bytes, big-endian), that many bytes, all of them stored, then all of them sent back.

Usage: echo.py. Listens on 127.0.0.1, prints the port as a JSON line, ends with its standard input.
"""

import json
import os
import socket
import struct
import sys
import threading


def receive(connection, size):
    data = memoryview(bytearray(size))
    got = 0
    while got < size:
        n = connection.recv_into(data[got:])
        if not n:
            raise EOFError
        got += n
    return data


def serve(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        while True:
            connection.sendall(receive(connection, struct.unpack(">Q", receive(connection, 8))[0]))
    except (EOFError, OSError):
        connection.close()


def accept(listener):
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=accept, args=(listener,), daemon=True).start()
    for _ in sys.stdin:
        print(json.dumps(listener.getsockname()[1]), flush=True)
    os._exit(0)
