"""Tells systemd how a worker is, as sd_notify(3) says, where a unit of `Type=notify` started it."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

READY = "READY=1"
ALIVE = "WATCHDOG=1"


def notify(state: str) -> None:
    """Send `state` to systemd. Does nothing where systemd does not listen: the unit's own time limits act then."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        # The health thread must not wait here.
        sender.setblocking(False)
        # "@" stands for the zero byte of an abstract address.
        sender.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
