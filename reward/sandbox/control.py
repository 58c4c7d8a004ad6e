"""Messages between worker and zygote: one JSON object per line, with at most one descriptor beside it."""

from __future__ import annotations

import json
import socket
from typing import Any


def send(wire: socket.socket, message: dict[str, Any], descriptors: list[int]) -> None:
    """Send one message. Raises OSError."""
    data = json.dumps(message).encode("ascii") + b"\n"
    sent = socket.send_fds(wire, [data], descriptors) if descriptors else wire.send(data)
    wire.sendall(data[sent:])


def receive(wire: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """The next message, None at the end of the stream, and its descriptors. Raises OSError."""
    data, descriptors, _, _ = socket.recv_fds(wire, 1 << 16, 1)
    while data and not data.endswith(b"\n"):
        more = wire.recv(1 << 16)
        data = data + more if more else b""
    return (json.loads(data) if data else None), descriptors
