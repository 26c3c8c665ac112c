"""A free port for processes that must know theirs before they listen."""

from __future__ import annotations

import os
import socket

_FIRST, _COUNT = 20_000, 12_000  # below the ports that Linux gives to those who ask for any


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on. The workers of one run look in different places."""
    for number in range(_COUNT):
        port = _FIRST + (os.getpid() * 97 + number) % _COUNT
        with socket.socket() as listening:
            try:
                listening.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("every port is in use")
