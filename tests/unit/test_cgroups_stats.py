"""Reading recorded trees of v1 and v2 into the one record, and what a manager writes into a fake tree."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from daemon.cgroups import (
    BlkioEntry,
    CgroupError,
    CpuStats,
    Layout,
    PidsStats,
    Pressure,
    Stall,
    Stats,
    open_cgroup,
)
from daemon.cgroups import oom as oom_module
from daemon.cgroups.files import children, read_keyed, walk_pids
from daemon.cgroups.pressure import parse
from daemon.cgroups.v2 import delegation

PRESSURE = (
    "some avg10=1.50 avg60=0.25 avg300=0.00 total=4242\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=42\n"
)

V1_FILES = {
    "cpu/cpu.stat": "nr_periods 10\nnr_throttled 3\nthrottled_time 123456\n",
    "cpuacct/cpuacct.usage": "900\n",
    "cpuacct/cpuacct.usage_all": "cpu user system\n0 100 200\n1 250 350\n",
    "memory/memory.usage_in_bytes": "5000\n",
    "memory/memory.max_usage_in_bytes": "6000\n",
    "memory/memory.limit_in_bytes": "8192\n",
    "memory/memory.memsw.limit_in_bytes": "9223372036854771712\n",
    "memory/memory.failcnt": "4\n",
    "memory/memory.kmem.usage_in_bytes": "77\n",
    "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    "memory/memory.stat": "cache 10\nrss 20\ntotal_cache 1000\ntotal_rss 2000\ntotal_swap 30\n",
    "blkio/blkio.bfq.io_service_bytes_recursive": "Total 0\n",
    "blkio/blkio.throttle.io_service_bytes_recursive": "8:0 Read 4096\n8:0 Write 0\n8:0 Total 4096\nTotal 4096\n",
    "blkio/blkio.throttle.io_serviced_recursive": "8:0 Read 1\n8:0 Total 1\nTotal 1\n",
    "pids/pids.current": "3\n",
    "pids/pids.max": "max\n",
    "unified/cpu.pressure": PRESSURE,
}

V2_FILES = {
    "cpu.stat": "usage_usec 9\nuser_usec 4\nsystem_usec 5\nnr_periods 1\nnr_throttled 1\nthrottled_usec 7\n",
    "memory.current": "5000\n",
    "memory.peak": "6000\n",
    "memory.max": "8192\n",
    "memory.swap.current": "12\n",
    "memory.swap.max": "max\n",
    "memory.stat": "anon 20\nfile 10\nkernel 5\n",
    "memory.events": "low 0\nhigh 0\nmax 6\noom 1\noom_kill 1\noom_group_kill 0\n",
    "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n7:0 \n",
    "pids.current": "2\n",
    "pids.max": "10\n",
    "memory.pressure": PRESSURE,
}


@pytest.fixture
def v1(tmp_path: Path) -> Layout:
    controllers = ("cpu", "cpuacct", "memory", "blkio", "pids")
    for name in (*controllers, "unified"):
        (tmp_path / name / "pyd" / "x").mkdir(parents=True)
    for name, content in V1_FILES.items():
        controller, file = name.split("/")
        (tmp_path / controller / "pyd" / "x" / file).write_text(content)
    return Layout(
        "hybrid", str(tmp_path), {c: str(tmp_path / c) for c in controllers}, str(tmp_path / "unified")
    )


@pytest.fixture
def v2(tmp_path: Path) -> Layout:
    (tmp_path / "pyd" / "x").mkdir(parents=True)
    for name, content in V2_FILES.items():
        (tmp_path / "pyd" / "x" / name).write_text(content)
    return Layout("unified", str(tmp_path), {}, str(tmp_path))


def test_v1_stats(v1: Layout) -> None:
    stats = open_cgroup(v1, "pyd/x").stats()
    assert stats.version == 1
    assert stats.cpu == CpuStats(900, 350, 550, (300, 600), 10, 3, 123456)
    memory = stats.memory
    assert (memory.usage, memory.peak, memory.limit, memory.failcnt) == (5000, 6000, 8192, 4)
    assert (memory.cache, memory.swap_usage, memory.swap_limit) == (1000, 30, None)
    assert (memory.kernel_usage, memory.oom_kills) == (77, 2)
    assert memory.by_type["total_rss"] == 2000
    assert stats.blkio.service_bytes == (
        BlkioEntry(8, 0, "read", 4096),
        BlkioEntry(8, 0, "write", 0),
        BlkioEntry(8, 0, "total", 4096),
    )
    assert stats.blkio.serviced == (BlkioEntry(8, 0, "read", 1), BlkioEntry(8, 0, "total", 1))
    assert stats.pids == PidsStats(3, None)
    assert set(stats.pressure) == {"cpu"}


def test_v1_cpu_before_usage_all(v1: Layout) -> None:
    directory = Path(v1.v1["cpuacct"], "pyd/x")
    (directory / "cpuacct.usage_all").unlink()
    (directory / "cpuacct.stat").write_text("user 3\nsystem 4\n")
    (directory / "cpuacct.usage_percpu").write_text("400 500 \n")
    tick = 10**9 // os.sysconf("SC_CLK_TCK")
    assert open_cgroup(v1, "pyd/x").stats().cpu[:4] == (900, 3 * tick, 4 * tick, (400, 500))


def test_v2_stats(v2: Layout) -> None:
    stats = open_cgroup(v2, "pyd/x").stats()
    assert stats.version == 2
    assert stats.cpu == CpuStats(9000, 4000, 5000, (), 1, 1, 7000)
    memory = stats.memory
    assert (memory.usage, memory.peak, memory.limit, memory.failcnt) == (5000, 6000, 8192, 6)
    assert (memory.cache, memory.swap_usage, memory.swap_limit) == (10, 12, None)
    assert (memory.kernel_usage, memory.oom_kills) == (5, 1)
    assert [(entry.op, entry.value) for entry in stats.blkio.service_bytes] == [
        ("read", 1),
        ("write", 2),
        ("discard", 5),
    ]
    assert [(entry.op, entry.value) for entry in stats.blkio.serviced] == [
        ("read", 3),
        ("write", 4),
        ("discard", 6),
    ]
    assert stats.pids == PidsStats(2, 10)
    assert stats.pressure == {"memory": Pressure(Stall(1.5, 0.25, 0.0, 4242), Stall(0.0, 0.0, 0.0, 42))}


@pytest.mark.parametrize("layout_name", ["v1", "v2"])
def test_stats_survive_json(layout_name: str, request: pytest.FixtureRequest) -> None:
    stats = open_cgroup(request.getfixturevalue(layout_name), "pyd/x").stats()
    again = Stats.from_json(json.loads(json.dumps(stats.to_json())))
    assert again == stats
    assert again.blkio.service_bytes[0].op == "read"
    assert isinstance(again.cpu.per_cpu_ns, tuple)


def test_pressure_of_old_kernels_has_no_full_line_for_cpu() -> None:
    assert parse(PRESSURE.splitlines()[0]).full is None


def test_v1_writes_only_what_was_asked(v1: Layout) -> None:
    directory = Path(v1.v1["memory"], "pyd/x")
    before = {path: path.read_text() for path in Path(v1.root).rglob("*") if path.is_file()}
    cgroup = open_cgroup(v1, "pyd/x")
    cgroup.update({"memory": {}, "cpu": {}, "pids": {"limit": 0}, "blockIO": {}})
    assert {path: path.read_text() for path in before} == before
    cgroup.update({"memory": {"limit": 4096}, "pids": {"limit": 5}})
    assert (directory / "memory.limit_in_bytes").read_text().startswith("4096")
    assert Path(v1.v1["pids"], "pyd/x/pids.max").read_text().startswith("5")


def test_v1_order_of_memory_and_swap(v1: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory may at no moment exceed memory plus swap."""
    from daemon.cgroups.v1 import memory

    written: list[str] = []
    monkeypatch.setattr(
        memory.files, "write", lambda file, value: written.append(f"{Path(file).name}={value}")
    )
    directory = str(Path(v1.v1["memory"], "pyd/x"))  # its limit is 8192
    limit, swap = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
    for wanted, order in (
        ({"limit": 10000, "swap": 20000}, [f"{swap}=20000", f"{limit}=10000"]),
        ({"limit": 1000, "swap": 2000}, [f"{limit}=1000", f"{swap}=2000"]),
        ({"limit": 1000, "swap": -1}, [f"{swap}=-1", f"{limit}=1000"]),
        ({"limit": -1}, [f"{swap}=-1", f"{limit}=-1"]),
        ({"swap": 30000}, [f"{swap}=30000"]),
    ):
        written.clear()
        memory.apply(directory, {"memory": wanted})
        assert written == order


def test_hybrid_does_without_a_v2_tree_it_may_not_write_to(
    v1: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    from daemon.cgroups import files

    def read_only(directory: str, real: Any = files.make_directory) -> list[str]:
        if directory.startswith(f"{v1.unified}/"):
            raise OSError(errno.EROFS, "Read-only file system")
        made: list[str] = real(directory)
        return made

    monkeypatch.setattr(files, "make_directory", read_only)
    cgroup = open_cgroup(v1, "pyd/new")
    cgroup.create({})
    for mount in v1.v1.values():
        for name in ("cgroup.procs", "tasks"):
            Path(mount, "pyd/new", name).touch()
    cgroup.attach(4711)
    assert Path(v1.v1["pids"], "pyd/new/cgroup.procs").read_text() == "4711"
    entry = cgroup.entry()
    assert entry.directory is None
    assert len(entry.tasks) == len(v1.v1)
    entry.close()


@pytest.mark.parametrize("layout_name", ["v1", "v2"])
def test_errors_name_file_and_value(layout_name: str, request: pytest.FixtureRequest) -> None:
    layout = request.getfixturevalue(layout_name)
    for path in Path(layout.root).rglob("pids.max"):
        path.unlink()
    with pytest.raises(CgroupError, match=r"write 77 to .*/pyd/x/pids\.max: No such file") as caught:
        open_cgroup(layout, "pyd/x").update({"pids": {"limit": 77}})
    assert (caught.value.value, caught.value.errno) == ("77", 2)
    assert caught.value.file.endswith("pyd/x/pids.max")


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"memory": {"swappiness": 101}}, "swappiness value: 101"),
        ({"cpu": {"shares": 1}}, "minimum allowed cpu-shares is 2"),
        ({"cpu": {"shares": 300000}}, "maximum allowed cpu-shares is 262144"),
        ({"cpu": {"cpus": "0"}}, "cpuset controller is not mounted"),
        ({"devices": []}, "devices controller is not mounted"),
        ({"unified": {"memory.high": "1"}}, "needs cgroup v2"),
    ],
)
def test_v1_refusals(v1: Layout, resources: dict[str, Any], words: str) -> None:
    with pytest.raises(CgroupError, match=words):
        open_cgroup(v1, "pyd/x").update(resources)


@pytest.mark.parametrize("name", ["memory", "../x.y", "a/b.max", "."])
def test_v2_refuses_unified_keys_that_are_no_files_of_it(v2: Layout, name: str) -> None:
    with pytest.raises(CgroupError):
        open_cgroup(v2, "pyd/x").update({"unified": {name: "1"}})


def test_v2_delegation_enables_down_the_path(tmp_path: Path) -> None:
    for below in ("", "pyd"):
        (tmp_path / below).mkdir(exist_ok=True)
        (tmp_path / below / "cgroup.controllers").write_text("cpu memory pids\n")
        (tmp_path / below / "cgroup.subtree_control").write_text("cpu\n" if below else "")
    assert delegation.delegate(str(tmp_path), "pyd/x", frozenset({"memory"})) == []
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert (tmp_path / "pyd" / "cgroup.subtree_control").read_text() == "+memory +pids"


def test_v2_delegation_says_what_is_missing_where(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu\n")
    (tmp_path / "cgroup.subtree_control").write_text("")
    with pytest.raises(CgroupError, match=r"cgroup\.controllers lacks memory"):
        delegation.delegate(str(tmp_path), "pyd/x", frozenset({"memory"}))
    assert not (tmp_path / "pyd").exists()


def test_own_processes_are_ours_and_not_our_parents() -> None:
    own = delegation.own_processes()
    assert os.getpid() in own
    assert 1 not in own


def test_pids_are_collected_below(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "cgroup.procs").write_text("30\n10\n")
    (tmp_path / "a" / "cgroup.procs").write_text("0\n")
    (tmp_path / "a" / "b" / "cgroup.threads").write_text("20\n")
    assert walk_pids(str(tmp_path)) == [10, 20, 30]
    assert children(str(tmp_path)) == [str(tmp_path / "a")]
    assert children(str(tmp_path / "missing")) == walk_pids(str(tmp_path / "missing")) == []


def test_keyed_files_skip_what_is_no_number(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a 1\nb max\nc\nd 2\n")
    assert read_keyed(str(tmp_path / "f")) == {"a": 1, "d": 2}
    assert read_keyed(str(tmp_path / "missing")) == {}


def test_v2_oom_event_wakes_on_a_change(v2: Layout) -> None:
    """inotify works on any file system, so the descriptor can be tried without a kernel's cgroup."""
    cgroup = open_cgroup(v2, "pyd/x")
    fd = cgroup.oom_event_fd()
    assert fd is not None
    try:
        with pytest.raises(BlockingIOError):
            os.read(fd, 1000)
        Path(v2.root, "pyd/x/memory.events").write_text("oom_kill 2\n")
        oom_module.drain_oom_event(fd)
        with pytest.raises(BlockingIOError):
            os.read(fd, 1000)
        assert cgroup.oom_kills() == 2
    finally:
        os.close(fd)


def test_imports_are_the_standard_library_only() -> None:
    """The supervisor and pyd-oci start with this package, without site-packages."""
    import subprocess
    import sys

    root = Path(__file__).resolve().parents[2]
    code = (
        f"import sys; sys.path.insert(0, {str(root)!r})\n"
        "import daemon.cgroups, daemon.cgroups.v1.manager, daemon.cgroups.v2.manager\n"
        "foreign = [n for n in sys.modules if n.split('.')[0] in ('api', 'client', 'storage')"
        " or n.startswith('daemon.') and not n.startswith('daemon.cgroups')]\n"
        "assert not foreign, foreign\n"
        "costly = {'typing', 'contextlib', 'dataclasses', 'ctypes', 'collections', 're'} & set(sys.modules)\n"
        "assert not costly, costly\n"
        "assert not any('site-packages' in (getattr(m, '__file__', '') or '') for m in sys.modules.values())\n"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
