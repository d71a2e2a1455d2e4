"""Removes all that a daemon's networking keeps in the kernel. Synchronous; for a daemon that does not run."""

from __future__ import annotations

from daemon.config import DaemonConfig
from daemon.network.kernel import Kernel


def undo(config: DaemonConfig) -> None:
    """Namespaces, veths, bridges, table and rules named after the daemon; right when there are none."""
    kernel = Kernel(config.identity, config.firewall_table, config.exec_root / "netns")
    try:
        kernel.sweep((), ())
        kernel.dissolve()
    finally:
        kernel.close()
