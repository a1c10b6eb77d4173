"""Processes of a fleet find each other by addresses, as in 10.0.0.1:7000."""


def split_address(address: str) -> tuple[str, int]:
    """Returns host and port of "host:port"; an IPv6 address may be in brackets.

    Raises:
      ValueError: it is not of that form.
    """
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdecimal() and int(port) < 2**16):
        raise ValueError(
            f"an address is host:port, as in 10.0.0.1:7000, got {address!r}"
        )
    return host.strip("[]"), int(port)
