"""Sizes of containers' file systems, in the virtual machine of test_cgroups_v2_qemu.py: its kernel has project
quotas, which those of the machines that test pyd may lack. /dev/nvme0n1 has an XFS on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from daemon.volumes.service import Volumes
from storage import failpoints
from storage.records import Records
from storage.snapshots import OverlaySnapshotter, quota
from tests.system.cgroups_v2_tools import run_container

DISK = "/dev/nvme0n1"


@contextlib.contextmanager
def xfs(*options: str) -> Iterator[Path]:
    place = Path("/disk")
    place.mkdir(exist_ok=True)
    words = ["-o", ",".join(options)] if options else []
    subprocess.run(["busybox", "mount", "-t", "xfs", *words, DISK, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["busybox", "umount", place], check=True)


def limits(directory: Path) -> dict[int, int]:
    """Project → bytes, of all on the file system that have a limit."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        return dict(quota.limits(fd))
    finally:
        os.close(fd)


def image(snapshots: OverlaySnapshotter) -> str:
    snapshots.prepare("unpacked", None)
    files = snapshots.layer_dir("unpacked")
    for name in ("bin", "proc", "sys", "dev"):
        (files / name).mkdir()
    shutil.copy("/bin/busybox", files / "bin" / "busybox")
    snapshots.commit("image", "unpacked")
    return "image"


def check_a_size_limits_what_a_container_writes() -> None:
    with xfs("prjquota") as place:
        root = place / "limited"
        snapshots = OverlaySnapshotter(root)
        assert snapshots.limits
        snapshots.prepare("box", image(snapshots), limit=8 << 20)
        script = "busybox dd if=/dev/zero of=/big bs=64k count=400; busybox df -k / | busybox tail -n 1"
        done = run_container(script, {"path": "rootfs"} | snapshots.overlay("box").to_spec())
        assert "No space left on device" in done.stderr, (done.stdout, done.stderr)
        assert done.stdout.split()[1] == "8192", done.stdout
        written = (snapshots.layer_dir("box") / "big").stat().st_size
        assert 7 << 20 < written <= 8 << 20, written
        snapshots.prepare("free", "image")
        (snapshots.layer_dir("free") / "big").write_bytes(bytes(12 << 20))
        first = limits(place)
        assert list(first.values()) == [8 << 20], first

        snapshots = OverlaySnapshotter(root)  # another daemon finds the number taken
        snapshots.prepare("next", "image", limit=4 << 20)
        both = limits(place)
        assert sorted(both.values()) == [4 << 20, 8 << 20], both
        snapshots.remove("box")
        snapshots = OverlaySnapshotter(root)  # as after a crash: removed, not deleted
        assert limits(place) == both
        snapshots.purge()
        assert limits(place) == {project: 4 << 20 for project in both if project not in first}
        snapshots.remove("next")
        snapshots.purge()
        assert limits(place) == {}


def check_limits_that_a_crash_left_are_lifted() -> None:
    with xfs("prjquota") as place:
        root = place / "crashed"
        snapshots = OverlaySnapshotter(root)
        snapshots.prepare("box", None, limit=1 << 20)
        (mine,) = limits(place)
        fd = os.open(place, os.O_RDONLY)
        for project in (mine + 5, 77):
            quota.set_limit(fd, project, 1 << 20)
        OverlaySnapshotter(root)
        assert set(limits(place)) == {mine, 77}  # that of somebody else stays
        quota.set_limit(fd, 77, 0)
        os.close(fd)
        snapshots.remove("box")
        snapshots.purge()
        assert limits(place) == {}


CRASHING = """
import sys; sys.path.insert(0, '/pyd')
from pathlib import Path
from storage.snapshots import OverlaySnapshotter
snapshots = OverlaySnapshotter(Path('/disk/killed'))
snapshots.prepare('box', None, limit=1 << 20)
snapshots.remove('box')
snapshots.purge()
"""


def check_killed_half_way_no_number_is_lost() -> None:
    """Limited and not yet a snapshot; deleted and not yet released."""
    with xfs("prjquota") as place:
        for point in ("snapshots.limit", "snapshots.release"):
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-c", CRASHING],
                env={**os.environ, failpoints.VARIABLE: f"{point}=kill"},
                check=False,
            )
            assert done.returncode == -signal.SIGKILL, (point, done.returncode)
            assert list(limits(place).values()) == [1 << 20], point
            OverlaySnapshotter(place / "killed").purge()
            assert limits(place) == {}, point


def check_a_root_of_a_project_counts_from_there() -> None:
    """An administrator's choice, as moby honours it."""
    with xfs("prjquota") as place:
        root = place / "numbered"
        root.mkdir()
        quota._join(str(root), 900)
        snapshots = OverlaySnapshotter(root)
        snapshots.prepare("box", None, limit=1 << 20)
        assert limits(place) == {901: 1 << 20}
        snapshots.remove("box")
        snapshots.purge()


def check_volumes_have_sizes() -> None:
    with xfs("prjquota") as place, contextlib.closing(Records(place / "records")) as records:
        volumes = Volumes(place / "volumes", records, lambda *_: None)
        asyncio.run(volumes.start())
        made = asyncio.run(volumes.create("small", options={"size": "2m"}))
        try:
            Path(made.mountpoint, "big").write_bytes(bytes(4 << 20))
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
        else:
            raise AssertionError("more than its size")
        assert list(limits(place).values()) == [2 << 20]
        asyncio.run(volumes.remove("small"))
        assert limits(place) == {}


def check_without_project_quotas_there_are_no_sizes() -> None:
    for options in ((), ("uquota",), ("pqnoenforce",)):
        with xfs(*options) as place:
            assert not OverlaySnapshotter(place / "plain").limits, options


CHECKS: dict[str, Callable[[], None]] = {
    name.removeprefix("check_"): function
    for name, function in list(globals().items())
    if name.startswith("check_")
}
