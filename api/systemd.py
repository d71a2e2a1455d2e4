"""systemd's two small protocols: sockets handed over (LISTEN_FDS) and state notified (NOTIFY_SOCKET).

Sources: sd_listen_fds(3), sd_notify(3). No library: both are an environment variable and a descriptor.
"""

from __future__ import annotations

import os
import socket
import time

FIRST_DESCRIPTOR = 3


def listen_sockets() -> list[tuple[str, socket.socket]]:
    """Sockets that systemd opened for us, with their names (FileDescriptorName=); taken once."""
    count = os.environ.pop("LISTEN_FDS", "")
    pid, names = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDNAMES", "")
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    sockets = [socket.socket(fileno=FIRST_DESCRIPTOR + index) for index in range(int(count))]
    for passed in sockets:
        os.set_inheritable(passed.fileno(), False)
    named = names.split(":") if names else []
    return [(named[i] if i < len(named) else "unknown", passed) for i, passed in enumerate(sockets)]


def notify(state: str) -> bool:
    """Tells the service manager; False when there is none or it does not listen."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    target = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as client:
        try:
            client.sendto(state.encode(), target)
        except OSError:
            return False
    return True


def reloading() -> bool:
    """RELOADING needs the monotonic time since systemd 253 (Type=notify-reload)."""
    return notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_interval() -> float | None:
    """Seconds between WATCHDOG=1, half of what the manager allows; None when it does not watch us."""
    usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not usec.isdigit() or int(usec) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(usec) / 2e6
