"""The port that the page is served on; by itself, so that one in use is said before anything large is loaded."""

import socket

from thymodel.errors import Fault, InputError

HOST = "127.0.0.1"  # this machine alone


def open_port(port: int) -> socket.socket:
    """A socket on this machine's own address; any free port for 0.

    Raises:
        InputError: the port is in use, or may not be used.
    """
    taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((HOST, port))
        taken.listen()
    except (OSError, OverflowError) as error:
        taken.close()
        raise InputError([Fault(f"--port {port}", f"cannot be used: {getattr(error, 'strerror', None) or error}",
                                "choose another, or --port 0 for any that is free")]) from None
    return taken
