"""Ends a listening socket without resetting the connections that wait in its backlog.

Fault: the kernel completes connections before a process accepts them. When a listening socket is
closed, it resets those that are still waiting, although their clients may have sent a request.
Closing the socket early only makes that happen earlier.

Therefore a packet filter first drops the packets that open new connections, which needs no
privilege. The backlog then empties, and the socket can be closed. Clients whose packets were
dropped repeat them after a second, and are refused.

Seen in: Linux 6.18.
Shown by: tests/service/host/test_listen_backlog.py.
Can go when: those tests pass without it.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct

# From asm-generic/socket.h and linux/filter.h.
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_LOAD_BYTE, _JUMP_IF_BITS, _RETURN = 0x30, 0x45, 0x06
_TCP_FLAGS, _SYN = 13, 0x02
_ALL_BYTES = 0xFFFFFFFF
# Offset and size of `tcpi_unacked` in struct tcp_info, from linux/tcp.h.
_UNACKED, _UNACKED_END = 24, 28
# (code, jump if true, jump if false, operand): drop packets with the flag SYN.
_DROP_SYN = (
    (_LOAD_BYTE, 0, 0, _TCP_FLAGS),
    (_JUMP_IF_BITS, 0, 1, _SYN),
    (_RETURN, 0, 0, 0),
    (_RETURN, 0, 0, _ALL_BYTES),
)


def refuse_new(listener: socket.socket) -> None:
    """Let no further connections enter the backlog of `listener`, in any process that shares it.

    Without packet filters (not Linux, or a sandbox), the backlog is only limited to one.
    """
    program = b"".join(struct.pack("HBBI", *step) for step in _DROP_SYN)
    buffer = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the number of instructions, and their address.
    fprog = struct.pack("@HP", len(_DROP_SYN), ctypes.addressof(buffer))
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
    with contextlib.suppress(OSError):
        listener.listen(0)


def accept_new(listener: socket.socket, backlog: int) -> None:
    """Undo `refuse_new`."""
    with contextlib.suppress(OSError):  # There is no filter.
        listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
    listener.listen(backlog)


def end(listener: socket.socket) -> None:
    """Refuse connections from now on, even while other processes keep the socket open."""
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RD)


def count_waiting(listener: socket.socket) -> int:
    """Return the number of connections in the backlog; 1 if the system does not tell."""
    try:
        info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED_END)
        # For a listening socket, the kernel returns the length of its queue here.
        return int(struct.unpack_from("I", info, _UNACKED)[0])
    except (OSError, AttributeError, struct.error):
        return 1
