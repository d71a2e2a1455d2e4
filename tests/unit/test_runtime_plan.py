"""Planning a container: everything that is computed before the clone, and needs neither root nor a kernel's help."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.runtime import (
    capabilities,
    cgroupmounts,
    defaults,
    launch,
    messages,
    mountoptions,
    namespaces,
    process,
)
from daemon.runtime import syscalls as sc
from daemon.runtime.command_arguments import Options, UsageError, parse
from daemon.runtime.command_control import signal_number
from daemon.runtime.command_json import dumps, loads
from daemon.runtime.errors import LaunchError, SpecError
from daemon.runtime.seccomp_default import default_seccomp, resolve
from daemon.runtime.sysctls import dotted

_REPOSITORY = Path(__file__).parents[2]


def spec_without_seccomp() -> dict[str, Any]:
    spec = defaults.default_spec("/", ["true"], hostname="box")
    del spec["linux"]["seccomp"]
    return spec


# -- mount options ---------------------------------------------------------------------------------


def test_later_options_win_over_earlier_ones() -> None:
    parsed = mountoptions.parse(["ro", "nosuid", "rw"], "f")
    assert parsed.set == sc.MOUNT_ATTR_NOSUID
    assert parsed.clear == sc.MOUNT_ATTR_RDONLY


def test_options_of_the_file_system_keep_their_order() -> None:
    parsed = mountoptions.parse(["size=64k", "newinstance", "mode=755", "sync"], "f")
    assert parsed.parameters == [
        (b"size", b"64k"),
        (b"newinstance", None),
        (b"mode", b"755"),
        (b"sync", None),
    ]


def test_recursive_attributes_are_kept_apart() -> None:
    parsed = mountoptions.parse(["rbind", "rro", "rnoexec", "nodev"], "f")
    assert (parsed.bind, parsed.recursive) == (True, True)
    assert parsed.recursive_set == sc.MOUNT_ATTR_RDONLY | sc.MOUNT_ATTR_NOEXEC
    assert parsed.set == sc.MOUNT_ATTR_NODEV
    assert mountoptions.describe(parsed) == "nodev,rnoexec,rro"


def test_relatime_is_an_option_of_its_own_and_not_recursive_elatime() -> None:
    assert mountoptions.parse(["relatime"], "f").recursive_clear == 0


def test_id_mapped_mounts_are_refused_by_name() -> None:
    with pytest.raises(SpecError, match=r"mounts\[0\].options: 'idmap' is not supported"):
        mountoptions.parse(["idmap"], "mounts[0].options")


# -- the plan --------------------------------------------------------------------------------------


def test_plan_of_dockers_defaults_reads_like_the_container() -> None:
    lines = launch.prepare(spec_without_seccomp(), "/bundle").describe()
    assert lines[0] == "clone into new namespaces: pid network ipc uts mount"
    assert "mount proc at /proc (nodev,noexec,nosuid)" in lines
    assert "make device /dev/null 1:3 mode 666" in lines
    assert (
        lines.index("make /proc/sys read-only") < lines.index("mask /proc/kcore") < lines.index("pivot_root")
    )
    assert lines[-1] == "execute true in /"


def test_cgroup_mounts_come_last_unless_another_mount_needs_them_in_place() -> None:
    spec = spec_without_seccomp()
    assert [type(one).__name__ for one in launch.prepare(spec, "/b").root.late] == ["CgroupMount"]
    spec["mounts"].append({"destination": "/sys/fs", "type": "tmpfs", "source": "t", "options": []})
    late = [getattr(one, "destination", "") for one in launch.prepare(spec, "/b").root.late]
    assert late.index("/sys/fs/cgroup") < late.index("/sys/fs")


def test_plan_does_not_change_the_specification() -> None:
    spec = spec_without_seccomp()
    before = copy.deepcopy(spec)
    launch.prepare(spec, "/bundle")
    assert spec == before


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("process", "args"), None, "process.args: must name the program"),
        (("process", "args"), ["a\0b"], r"process.args\[0\]: must not contain a NUL"),
        (("process", "user"), {"uid": -1}, "process.user.uid: -1 is not between"),
        (("process", "user"), {"uid": True}, "process.user.uid: must be an integer"),
        (("process", "user"), {"additionalGids": ["x"]}, r"process.user.additionalGids\[0\]"),
        (("process", "oomScoreAdj"), 5000, "process.oomScoreAdj"),
        (("process", "rlimits"), [{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}], "above the hard limit"),
        (("mounts",), [{"destination": "/x", "type": "bind"}], r"mounts\[0\].source"),
        (("mounts",), {}, "mounts: must be an array"),
        (("root",), {}, "root.path: is required"),
        (("root",), {"overlay": {"lower": []}}, "root.overlay.lower"),
        (("root",), {"overlay": {"lower": ["/a"], "upper": "/b"}}, "upper and work"),
        (("linux", "namespaces"), [{"type": "nonsense"}], r"linux.namespaces\[0\].type"),
        (("linux", "namespaces"), [{"type": "mount"}, {"type": "user"}], "uidMappings"),
        (("linux", "maskedPaths"), ["relative"], r"linux.maskedPaths\[0\]"),
        (("linux", "rootfsPropagation"), "sideways", "linux.rootfsPropagation"),
        (("linux", "devices"), [{"path": "/dev/x", "type": "z"}], r"linux.devices\[0\].type"),
        (("linux", "timeOffsets"), {"boottime": {"secs": 1}}, "needs a new time namespace"),
        (("linux", "personality"), {"domain": "VMS"}, "linux.personality.domain"),
        (("linux", "sysctl"), {"kernel.hostname": "x"}, "conflicts"),
        (("linux", "sysctl"), {"net.ipv4/../../kernel": "x"}, "not the name of a kernel parameter"),
    ],
)
def test_errors_name_the_field(path: tuple[str, ...], value: Any, problem: str) -> None:
    spec = spec_without_seccomp()
    target = spec
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(SpecError, match=problem):
        launch.prepare(spec, "/bundle")


@pytest.mark.parametrize("kind", ["network", "ipc", "uts"])
def test_settings_of_a_shared_namespace_are_refused(kind: str) -> None:
    spec = spec_without_seccomp()
    spec["linux"]["namespaces"] = [one for one in spec["linux"]["namespaces"] if one["type"] != kind]
    if kind == "ipc":
        spec["linux"]["sysctl"] = {"kernel.msgmax": "1"}
    with pytest.raises(SpecError, match="namespace of the container's own"):
        launch.prepare(spec, "/bundle")


def test_namespaces_are_joined_user_first() -> None:
    linux = {"namespaces": [{"type": "mount"}, {"type": "ipc", "path": "/i"}, {"type": "user", "path": "/u"}]}
    plan = namespaces.plan(linux)
    assert list(plan.joined) == ["user", "ipc"]
    assert plan.flags() == sc.CLONE_NEWNS | sc.CLONE_NEWIPC | sc.CLONE_NEWUSER


def test_last_of_equal_environment_names_wins() -> None:
    plan = process.ProcessPlan({"args": ["x"], "cwd": "/", "env": ["A=1", "B=", "A=2=3"]}, {})
    assert plan.environment == {b"A": b"2=3", b"B": b""}


def test_unlimited_has_both_spellings() -> None:
    limits = [
        {"type": "RLIMIT_CORE", "soft": 5, "hard": (1 << 64) - 1},
        {"type": "RLIMIT_CPU", "soft": -1, "hard": -1},
    ]
    plan = process.ProcessPlan({"args": ["x"], "cwd": "/", "rlimits": limits}, {})
    assert [limit[2:] for limit in plan.limits] == [(5, -1), (-1, -1)]


def test_ambient_capabilities_are_within_permitted_and_inheritable() -> None:
    sets = {"ambient": ["CAP_KILL", "CAP_CHOWN"], "permitted": ["CAP_KILL"], "inheritable": ["CAP_KILL"]}
    assert capabilities.Capabilities(sets, "f", 40).ambient == 1 << capabilities.NUMBERS["CAP_KILL"]


def test_sysctl_names_in_both_notations() -> None:
    assert dotted("net.ipv4.ip_forward") == "net.ipv4.ip_forward"
    assert dotted("net/ipv4/conf/eth0.100/forwarding") == "net.ipv4.conf.eth0/100.forwarding"


# -- cgroups ---------------------------------------------------------------------------------------


def test_hierarchies_of_a_hybrid_host() -> None:
    text = (
        "30 20 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n"
        "31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:5 - cgroup cgroup rw,cpu,cpuacct\n"
        "32 30 0:28 /outer /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
        "33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
        "34 30 0:29 / /elsewhere rw - cgroup2 cgroup2 rw\n"
    )
    found = [(one.key, one.mountpoint, one.root) for one in cgroupmounts.parse_mountinfo(text)]
    assert found == [
        ("cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct", "/"),
        ("name=systemd", "/sys/fs/cgroup/systemd", "/outer"),
        ("", "/sys/fs/cgroup/unified", "/"),
    ]


def test_own_cgroups_are_found_whatever_the_order_of_controllers() -> None:
    assert cgroupmounts.own_paths("4:cpuacct,cpu:/a\n0::/b:c\n") == {"cpu,cpuacct": "/a", "": "/b:c"}


# -- seccomp ---------------------------------------------------------------------------------------


def rule_for(profile: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [rule for rule in profile["syscalls"] if name in rule["names"]]


def test_default_profile_depends_on_capabilities() -> None:
    plain, powerful = (
        default_seccomp(set(), "x86_64"),
        default_seccomp({"CAP_SYS_ADMIN", "CAP_SYS_TIME"}, "x86_64"),
    )
    assert not rule_for(plain, "mount")
    assert rule_for(powerful, "mount")
    assert rule_for(plain, "clone")[0]["args"] == [
        {"index": 0, "value": 0x7E020000, "op": "SCMP_CMP_MASKED_EQ"}
    ]
    assert "args" not in rule_for(powerful, "clone")[0]
    assert rule_for(plain, "clone3")[0]["errnoRet"] == 38
    assert rule_for(powerful, "clock_settime")
    assert rule_for(plain, "socket")[0]["args"][0]["op"] == "SCMP_CMP_NE"


def test_default_profile_depends_on_the_machine() -> None:
    assert rule_for(default_seccomp(set(), "x86_64"), "arch_prctl")
    assert rule_for(default_seccomp(set(), "aarch64"), "breakpoint")
    assert not rule_for(default_seccomp(set(), "aarch64"), "arch_prctl")
    assert default_seccomp(set(), "riscv64")["architectures"] == []


def test_dockers_profile_language_is_resolved() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"names": ["a"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_X", "CAP_Y"]}},
            {"names": ["b"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_X"]}},
            {"names": ["c"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
            {"names": ["d"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["e"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "9.0"}},
            {"name": "f", "action": "SCMP_ACT_ERRNO", "errnoRet": 7},
        ],
    }
    resolved = resolve(profile, {"CAP_X"}, "x86_64", "6.1.0-13-amd64")
    assert resolved["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    assert [rule["names"] for rule in resolved["syscalls"]] == [["d"], ["f"]]
    assert resolved["syscalls"][1] == {"names": ["f"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7}
    with pytest.raises(SpecError, match="not both"):
        resolve({"archMap": [{}], "architectures": ["SCMP_ARCH_ARM"]}, set())


# -- the command's own small parsers ---------------------------------------------------------------

_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)


@given(_json_values)
def test_json_agrees_with_the_library(value: Any) -> None:
    assert json.loads(dumps(value)) == value
    assert loads(b" \n" + json.dumps(value).encode() + b"\t") == value


@given(st.binary(max_size=40) | st.text(alphabet='{}[]",:0123truefalsn \\u', max_size=30).map(str.encode))
def test_json_refuses_what_the_library_refuses(data: bytes) -> None:
    try:
        expected = json.loads(data.decode())
    except ValueError:
        with pytest.raises(ValueError):
            loads(data)
    else:
        assert loads(data) == expected


def test_options_in_all_spellings() -> None:
    options = Options(
        flags=("detach",), values=("bundle",), lists=("env",), aliases={"d": "detach", "e": "env"}
    )
    parsed = parse(["-d", "--bundle=x", "-e", "A=1", "-env", "B=2", "id", "--detach"], options)
    assert (parsed.flag("detach"), parsed.text("bundle"), parsed.texts("env")) == (True, "x", ["A=1", "B=2"])
    assert parsed.rest == ["id", "--detach"]
    assert parse(["--detach=false", "--", "-d"], options).rest == ["-d"]
    for wrong in (["--nosuch"], ["--bundle"], ["--detach=maybe"]):
        with pytest.raises(UsageError):
            parse(wrong, options)


@pytest.mark.parametrize(
    ("text", "number"), [("9", 9), ("term", 15), ("SIGUSR1", 10), ("RTMIN+3", 37), ("sigrtmax", 64)]
)
def test_signal_names(text: str, number: int) -> None:
    assert signal_number(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "NOSUCH", "_DFL", "RTMIN+x"])
def test_signals_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        signal_number(text)


def test_errors_travel_whole_from_init_to_its_parent() -> None:
    error = LaunchError('exec: "ü": permission denied', stage="exec", errno=13, exit_code=126)
    back = messages.decode_error(messages.encode_error(error))
    assert (str(back), back.stage, back.errno, back.exit_code) == (str(error), "exec", 13, 126)


def test_a_start_imports_no_slow_module() -> None:
    """What `pyd-oci run` imports decides whether it is as fast as runc."""
    script = (
        f"import sys; sys.path.insert(0, {str(_REPOSITORY)!r})\n"
        "import daemon.runtime.command_start, daemon.cgroups\n"
        "print([name for name in ('dataclasses', 'enum', 'json', 'typing', 're', 'ctypes', 'socket', 'argparse',"
        " 'contextlib', 'subprocess', 'collections') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
