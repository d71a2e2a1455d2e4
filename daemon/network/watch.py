"""Notices when someone changes the host's firewall while the daemon runs.

dockerd started later sets its FORWARD policy to drop; an administrator's `nft flush ruleset` takes this
daemon's table away. The kernel tells both by netlink (NFNLGRP_NFTABLES), so nothing polls.
include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

NETLINK_NETFILTER = 12
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP = 270, 1
NFNLGRP_NFTABLES = 7
NFNL_SUBSYS_NFTABLES = 10
NEWTABLE, DELTABLE, NEWCHAIN, DELCHAIN, NEWRULE, DELRULE = 0, 2, 3, 5, 6, 8
TELLING = {
    NFNL_SUBSYS_NFTABLES << 8 | kind for kind in (NEWTABLE, DELTABLE, NEWCHAIN, DELCHAIN, NEWRULE, DELRULE)
}
"""Events that may concern us; elements of sets are none of them, so our own ports do not wake us."""
SETTLE = 0.2
"""Seconds to wait for more of the same: firewalls change in bursts."""


class FirewallWatch:
    """Calls `changed` on the loop, once per burst of changes to tables, chains or rules."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            NETLINK_NETFILTER,
        )
        self._socket.bind((0, 0))
        self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def close(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        if self._timer is not None:
            self._timer.cancel()

    def _readable(self) -> None:
        try:
            told = telling(self._socket.recv(65536))
        except BlockingIOError:
            return
        except OSError:
            told = True  # events were lost (ENOBUFS): anything may have happened
        if told and self._timer is None:
            self._timer = self._loop.call_later(SETTLE, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._changed()


def telling(data: bytes) -> bool:
    """Whether a packet of netlink messages has one that may concern us."""
    at = 0
    while at + 16 <= len(data):
        size, kind = struct.unpack_from("=IH", data, at)
        if kind in TELLING:
            return True
        if size < 16:
            return False
        at += size + (-size % 4)
    return False
