"""Free TCP ports of this machine."""

from __future__ import annotations

import errno
import random
import socket

# Below the ports an operating system hands out by itself (32768 and up on Linux), so that no outgoing connection can
# take a port between the moment it was found free and the moment a server listens on it.
_OWN_PORTS = range(20000, 32768)


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
        return True


def free_port(host: str = "127.0.0.1") -> int:
    """A port a server may listen on, drawn at random, so that two processes that ask at once get different ones.

    Raises:
        OSError: every port tried was taken.
    """
    for port in random.SystemRandom().sample(_OWN_PORTS, 100):
        if is_free(port, host):
            return port
    raise OSError(
        errno.EADDRINUSE,
        f"a hundred ports of {host}, drawn between {_OWN_PORTS[0]} and {_OWN_PORTS[-1]}, are all taken",
    )
