"""Messages between worker and zygote: one line of text each, with at most one descriptor beside it."""

from __future__ import annotations

import _socket as socket  # `socket` itself would make every fork dearer: a third of a megabyte, nine more mappings
import sys

Wire = socket.socket
ONE_DESCRIPTOR = socket.CMSG_SPACE(4)
PART = 256  # bytes read at once: most messages are short, and a large buffer costs a zygote more than a second read


def send(wire: Wire, text: str, descriptor: int = -1) -> None:
    """Send one message without line breaks. Raises OSError."""
    data = text.encode() + b"\n"
    if descriptor < 0:
        wire.sendall(data)
        return
    beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor.to_bytes(4, sys.byteorder))]
    wire.sendall(data[wire.sendmsg([data], beside) :])


def receive(wire: Wire) -> tuple[str, int]:
    """The next message, empty at the end of the stream, and its descriptor, -1 if there is none. Raises OSError."""
    data, beside, _, _ = wire.recvmsg(PART, ONE_DESCRIPTOR)
    while data and not data.endswith(b"\n"):
        more = wire.recv(PART)
        data = data + more if more else b""
    descriptor = int.from_bytes(beside[0][2][:4], sys.byteorder) if beside else -1
    return data[:-1].decode(), descriptor
