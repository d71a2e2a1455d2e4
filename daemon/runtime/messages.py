"""What init and its parent say to each other over the SOCK_SEQPACKET pair.

    parent -> init   ROOT      only to a spare: the root that it may mount before its plan comes (spare.py)
                     GO        id maps and cgroup are set / run on from the gate or the hooks
    init -> parent   CONSOLE   with the pty's master attached (SCM_RIGHTS)
                     HOOKS     namespaces and mounts exist; waits for GO (only when the spec has such hooks)
                     READY     everything is set up; waits for GO (only with gate)
                     EXECUTE   execve is the next step; end of file then means that it happened
                     ERROR     stage, errno, exit code and text, separated by NUL; nothing follows

One message is one datagram whose first byte says what it is.
"""

from __future__ import annotations

from _socket import SCM_RIGHTS, SOL_SOCKET

from daemon.runtime.errors import LaunchError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket as Socket

CONSOLE = b"C"
ERROR = b"E"
EXECUTE = b"X"
GO = b"G"
HOOKS = b"H"
READY = b"R"
ROOT = b"M"
LIMIT = 16384


def encode_error(error: LaunchError) -> bytes:
    fields = (error.stage, str(error.errno), str(error.exit_code), error.message)
    return (ERROR + "\0".join(fields).encode(errors="surrogateescape"))[:LIMIT]


def decode_error(message: bytes) -> LaunchError:
    stage, errno, exit_code, text = message[1:].decode(errors="surrogateescape").split("\0", 3)
    return LaunchError(text, stage=stage, errno=int(errno), exit_code=int(exit_code))


def send_console(sync: Socket, master: int) -> None:
    sync.sendmsg([CONSOLE], [(SOL_SOCKET, SCM_RIGHTS, master.to_bytes(4, "little"))])


def received_descriptor(ancillary: list[tuple[int, int, bytes]]) -> int:
    """The one descriptor of a received message, or -1."""
    for level, kind, data in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS and len(data) >= 4:
            return int.from_bytes(data[:4], "little")
    return -1
