"""The running pydds of the system tests, here too."""

from __future__ import annotations

from tests.system.conftest import busybox_tar, host, no_containers_left, own_host

__all__ = ["busybox_tar", "host", "no_containers_left", "own_host"]
