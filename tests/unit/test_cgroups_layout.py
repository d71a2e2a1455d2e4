"""Layout detection from recorded mount tables, and the paths a cgroup may have."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.cgroups import CgroupError, Layout, detect, open_cgroup

V1_SYSTEMD = """\
24 30 0:22 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
25 24 0:23 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
26 24 0:24 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
27 24 0:25 / /sys/fs/cgroup/memory rw shared:9 master:3 - cgroup cgroup rw,memory
"""
HYBRID = V1_SYSTEMD + "28 24 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
UNIFIED = "30 23 0:27 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
UNIFIED_AND_SYSTEMD_V1 = UNIFIED + "31 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n"
ELSEWHERE = "40 1 0:29 / /srv/other/sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
NEIGHBOUR = "40 1 0:29 / /sys/fs/cgroup-old/memory rw - cgroup cgroup rw,memory\n"


def layout_of(tmp_path: Path, table: str, root: str = "/sys/fs/cgroup") -> Layout:
    (tmp_path / "mountinfo").write_text(table)
    return detect(root, str(tmp_path / "mountinfo"))


def test_v1_maps_controllers_mounted_together_to_one_directory(tmp_path: Path) -> None:
    layout = layout_of(tmp_path, V1_SYSTEMD)
    assert layout.kind == "v1"
    assert layout.unified is None
    assert layout.v1 == {
        "name=systemd": "/sys/fs/cgroup/systemd",
        "cpu": "/sys/fs/cgroup/cpu,cpuacct",
        "cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
        "memory": "/sys/fs/cgroup/memory",
    }


def test_hybrid_is_v1_with_a_v2_tree_beside(tmp_path: Path) -> None:
    layout = layout_of(tmp_path, HYBRID)
    assert (layout.kind, layout.unified) == ("hybrid", "/sys/fs/cgroup/unified")


@pytest.mark.parametrize("table", [UNIFIED, UNIFIED_AND_SYSTEMD_V1])
def test_unified_whatever_named_hierarchy_is_beside(tmp_path: Path, table: str) -> None:
    layout = layout_of(tmp_path, table)
    assert (layout.kind, layout.unified) == ("unified", "/sys/fs/cgroup")


@pytest.mark.parametrize("table", ["", ELSEWHERE, NEIGHBOUR])
def test_mounts_elsewhere_do_not_count(tmp_path: Path, table: str) -> None:
    with pytest.raises(CgroupError, match="no cgroup hierarchy is mounted at or below /sys/fs/cgroup"):
        layout_of(tmp_path, table)
    assert layout_of(tmp_path, table + UNIFIED).v1 == {}


def test_escaped_mount_points(tmp_path: Path) -> None:
    layout = layout_of(tmp_path, r"1 1 0:1 / /my\040root/memory rw - cgroup cgroup rw,memory", "/my root/")
    assert layout.v1 == {"memory": "/my root/memory"}


def test_unreadable_table(tmp_path: Path) -> None:
    with pytest.raises(CgroupError, match=r"read .*missing: No such file"):
        detect(mountinfo=str(tmp_path / "missing"))


@pytest.mark.parametrize("path", ["", "/", "..", "pyd/../x", "pyd/.", "a\0b"])
def test_paths_that_leave_the_tree_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(CgroupError, match="invalid cgroup path"):
        open_cgroup(layout_of(tmp_path, UNIFIED), path)


@pytest.mark.parametrize("table", [V1_SYSTEMD, HYBRID, UNIFIED])
def test_paths_are_relative_to_the_root(tmp_path: Path, table: str) -> None:
    assert open_cgroup(layout_of(tmp_path, table), "/pyd//x/").path == "pyd/x"
