"""The names that a server answers to, by the address that it listens on."""

import pytest

from atlas.serve.sockets import LOOPBACK, own_names


@pytest.mark.parametrize(
    ("ip", "names"),
    [
        ("127.0.0.1", LOOPBACK),
        ("127.0.0.2", LOOPBACK | {"127.0.0.2"}),
        ("::1", LOOPBACK),
        ("0.0.0.0", None),
        ("::", None),
        ("192.168.0.7", None),
    ],
)
def test_names_follow_from_the_address(ip: str, names: frozenset[str] | None) -> None:
    assert own_names(ip) == names
