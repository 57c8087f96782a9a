"""Listening sockets, and the names and addresses that a server has on this machine."""

import errno
import socket
from ipaddress import ip_address

from atlas.errors import ConfigError

# The names of this machine to itself.
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises ConfigError where the address cannot be opened."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port {port}: expected a number from 0 to 65535, such as --port 8000.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen()  # from here on a browser is answered, if a little later
    except OSError as error:
        bound.close()
        reason = error.strerror or str(error)
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise ConfigError(
                f"--host {host}: this machine has no such address ({reason}). Leave it out for this machine only, or "
                "give 0.0.0.0 for all of its addresses."
            ) from error
        other = 8000 if port < 1024 else port + 1 if port < 65535 else port - 1
        raise ConfigError(
            f"Port {port} of {host} cannot be opened ({reason}); choose another one, such as --port {other}."
        ) from error
    return bound


def own_names(ip: str) -> frozenset[str] | None:
    """The names that a server at ``ip`` answers to, where only this machine reaches it; None, for any, elsewhere."""
    if not ip_address(ip).is_loopback:
        return None
    return LOOPBACK | {f"[{ip}]" if ":" in ip else ip}


def address(bound: socket.socket) -> str:
    """What to type into a browser on this machine to reach the socket."""
    host, port = bound.getsockname()[:2]
    host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
