"""What a program sees and may do inside a container that the runtime made."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from daemon.runtime import defaults
from daemon.runtime.namespaces import KINDS
from daemon.runtime.seccomp_default import default_seccomp
from tests.system.runtime_bundle import PYD_OCI, Bundle, host_namespace, make_root, namespace, user_namespace

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs root")


# -- the world it runs in --------------------------------------------------------------------------


def test_is_pid_one_with_own_hostname_and_only_its_own_processes(bundle: Bundle) -> None:
    output = bundle.shell("echo $$; hostname; ls /proc | grep -c '^[0-9]'").ok()
    assert output.split()[:2] == ["1", "box"]
    assert int(output.split()[2]) <= 4


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_namespace_is_new_when_asked_for(bundle: Bundle, kind: str) -> None:
    name = {"network": "net", "mount": "mnt"}.get(kind, kind)

    def change(spec: dict[str, Any]) -> None:
        if kind == "user":
            user_namespace(spec)
        else:
            namespace(spec, kind)

    inside = bundle.run("readlink", f"/proc/self/ns/{name}", change=change).ok()
    assert inside.startswith(f"{name}:[")
    assert inside != host_namespace(name)


@pytest.mark.parametrize("kind", ["network", "ipc", "uts", "pid", "cgroup"])
def test_namespace_is_joined_by_path(bundle: Bundle, kind: str, tmp_path: Path) -> None:
    name = {"network": "net"}.get(kind, kind)
    other = Bundle(tmp_path / "other")
    with other.running(change=lambda spec: namespace(spec, "cgroup")) as container:
        pid = json.loads(other.command("state", container).stdout)["pid"]
        expected = os.readlink(f"/proc/{pid}/ns/{name}")

        def change(spec: dict[str, Any]) -> None:
            namespace(spec, kind, path=f"/proc/{pid}/ns/{name}")
            if kind == "uts":
                spec["hostname"] = ""
            spec["linux"]["sysctl"] = {}

        assert bundle.run("readlink", f"/proc/self/ns/{name}", change=change).ok() == expected


def test_host_namespaces_are_kept_when_not_listed(bundle: Bundle) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["namespaces"] = [{"type": "mount"}]
        spec["linux"]["sysctl"] = {}
        spec["hostname"] = ""

    output = bundle.shell("for n in net ipc uts pid; do readlink /proc/self/ns/$n; done", change).ok()
    assert output.split() == [host_namespace(name) for name in ("net", "ipc", "uts", "pid")]


def test_nothing_of_the_host_is_mounted(bundle: Bundle) -> None:
    targets = [line.split()[4] for line in bundle.run("cat", "/proc/self/mountinfo").ok().splitlines()]
    assert targets[0] == "/"
    known = ("/proc", "/dev", "/sys")
    assert all(target == "/" or target.startswith(known) for target in targets), targets


def test_mounts_devices_and_rights_are_those_runc_gives(bundle: Bundle) -> None:
    script = (
        "mount | grep -v ' on / ' | grep -v '^tmpfs on /proc/\\|^tmpfs on /sys/\\|^devtmpfs' | sort; "
        "stat -c '%n %F %a %t:%T %u:%g' /dev/* | sort; id; env | sort; "
        "grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status; umask; ulimit -a; pwd"
    )
    ours = bundle.shell(script).lines
    theirs = bundle.shell(script, runtime="runc").lines
    # runc's tmpfs over the cgroup hierarchies is writable although `ro` was asked for.
    assert [line for line in ours if "tmpfs on /sys/fs/cgroup " not in line] == [
        line for line in theirs if "tmpfs on /sys/fs/cgroup " not in line
    ]
    assert len(ours) > 50


def test_loopback_is_up_in_a_new_network_namespace(bundle: Bundle) -> None:
    assert "LOOPBACK,UP" in bundle.run("ip", "link", "show", "lo").ok()


@pytest.mark.parametrize("path", [path for path in defaults.MASKED_PATHS if os.path.isfile(path)])
def test_masked_file_is_empty(bundle: Bundle, path: str) -> None:
    assert bundle.shell(f"wc -c < {path}").ok() == "0"


def test_masked_directory_is_empty_and_cannot_be_written(bundle: Bundle) -> None:
    assert bundle.shell("ls /sys/firmware | wc -l").ok() == "0"
    assert bundle.shell("echo x > /sys/firmware/x").code != 0


def test_readonly_paths_cannot_be_written(bundle: Bundle) -> None:
    ran = bundle.shell("echo 1 > /proc/sys/vm/drop_caches; echo 1 > /proc/irq/default_smp_affinity")
    assert ran.errors.count("Read-only file system") == 2, ran


def test_masked_paths_do_not_share_the_hosts_null_device(bundle: Bundle) -> None:
    before = os.stat("/dev/null").st_mode
    bundle.shell("chmod 600 /proc/keys /dev/null").ok()
    assert os.stat("/dev/null").st_mode == before


@pytest.mark.parametrize("joined", [False, True], ids=["bind", "namespace"])
def test_sees_only_its_own_cgroup(bundle: Bundle, joined: bool) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["resources"]["pids"] = {"limit": 77}
        if joined:
            namespace(spec, "cgroup")

    ran = bundle.shell(
        "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; cat /proc/self/cgroup", change
    )
    assert ran.output.split()[0] == "77", ran
    for line in ran.lines[1:]:
        path = line.split(":", 2)[2]
        assert path == "/" if joined else path.strip("/") == bundle.spec["linux"]["cgroupsPath"]


def test_cgroups_cannot_be_written_by_default(bundle: Bundle) -> None:
    ran = bundle.shell("mkdir /sys/fs/cgroup/pids/x /sys/fs/cgroup/x; echo 99 > /sys/fs/cgroup/pids/pids.max")
    assert ran.errors.count("Read-only file system") >= 2


# -- the process -----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 42, 125, 255])
def test_exit_code_is_passed_on(bundle: Bundle, code: int) -> None:
    assert bundle.shell(f"exit {code}").code == code


def test_death_by_signal_is_128_and_the_signal(bundle: Bundle) -> None:
    assert bundle.shell("sh -c 'kill -9 $$'; exit $?").code == 137
    with bundle.running() as container:
        pid = json.loads(bundle.command("state", container).stdout)["pid"]
        assert bundle.command("exec", container, "sh", "-c", "kill -15 $$").returncode == 143
        assert pid > 1


def test_input_and_output_are_passed_through(bundle: Bundle) -> None:
    bundle.configure("sh", "-c", "cat; echo err >&2")
    done = subprocess.run(
        ["setsid", "-w", PYD_OCI, "--root", str(bundle.state), "run", "io"],
        input="text\n", capture_output=True, text=True, cwd=bundle.directory, timeout=30, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == ("text\n", "err\n", 0)


def test_signals_are_forwarded(bundle: Bundle) -> None:
    bundle.configure("sh", "-c", "trap 'echo got; exit 5' USR1; echo ready; while :; do sleep 0.05; done")
    process = subprocess.Popen(
        [PYD_OCI, "--root", str(bundle.state), "run", "sig"],
        stdout=subprocess.PIPE, text=True, cwd=bundle.directory,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGUSR1)
    assert process.stdout.read() == "got\n"
    assert process.wait(10) == 5


def test_environment_is_the_specifications_alone(bundle: Bundle) -> None:
    bundle.spec["process"]["env"] = ["PATH=/bin", "A=1", "A=2", "EMPTY="]
    environment = {**os.environ, "SECRET": "x", "LD_PRELOAD": ""}
    output = bundle.run("env", env=environment).ok()
    assert sorted(output.splitlines()) == ["A=2", "EMPTY=", "HOME=/root", "PATH=/bin"]


def test_no_descriptor_is_inherited_but_the_three(bundle: Bundle, tmp_path: Path) -> None:
    with open(tmp_path / "secret", "w") as secret, open(tmp_path / "other", "w") as other:
        fds = [secret.fileno(), other.fileno()]
        output = bundle.run("ls", "/proc/self/fd", pass_fds=fds).ok()
    assert output.split() == ["0", "1", "2", "3"]  # 3 is ls's own directory


def test_preserved_descriptors_arrive(bundle: Bundle) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    bundle.configure("sh", "-c", "echo kept >&3")
    script = f"exec 3>/dev/fd/{writer}; exec {PYD_OCI} --root {bundle.state} run --preserve-fds 1 pre"
    subprocess.run(["sh", "-c", script], pass_fds=[writer], cwd=bundle.directory, check=True, timeout=30)
    os.close(writer)
    assert os.read(reader, 100) == b"kept\n"
    os.close(reader)


def test_user_groups_home_and_umask(bundle: Bundle) -> None:
    bundle.spec["process"]["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [5, 77], "umask": 0o77}
    output = (
        bundle.shell("id -u; id -g; id -G; echo $HOME; umask; grep CapEff /proc/self/status")
        .ok()
        .splitlines()
    )
    assert output == ["1000", "1000", "1000 5 77", "/home/user", "0077", "CapEff:\t0000000000000000"]


def test_standard_streams_can_be_opened_again_by_the_user(bundle: Bundle) -> None:
    bundle.spec["process"]["user"] = {"uid": 1000, "gid": 1000}
    assert bundle.shell("echo out > /dev/stdout; echo err > /dev/stderr").ok() == "out"


def test_ignored_signals_of_the_caller_are_not_inherited(bundle: Bundle) -> None:
    output = bundle.run(
        "grep", "SigIgn", "/proc/self/status", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    )
    assert int(output.ok().split()[1], 16) & (1 << 12) == 0  # SIGPIPE, which Python ignores
    blocked = bundle.run("grep", "SigBlk", "/proc/self/status").ok().split()[1]
    assert int(blocked, 16) == 0


def test_limits_and_oom_score(bundle: Bundle) -> None:
    bundle.spec["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 123, "hard": 456}]
    bundle.spec["process"]["oomScoreAdj"] = 321
    assert bundle.shell("ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj").ok().split() == [
        "123",
        "456",
        "321",
    ]


def test_working_directory_is_made_when_missing(bundle: Bundle) -> None:
    bundle.spec["process"]["cwd"] = "/new/dir"
    assert bundle.run("pwd").ok() == "/new/dir"


def test_sysctl_and_domainname_are_set_inside_only(bundle: Bundle) -> None:
    bundle.spec["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.msgmax": "4242"}
    bundle.spec["domainname"] = "example"
    host = Path("/proc/sys/kernel/msgmax").read_text()
    output = bundle.shell(
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax /proc/sys/kernel/domainname"
    ).ok()
    assert output.split() == ["1", "4242", "example"]
    assert Path("/proc/sys/kernel/msgmax").read_text() == host


def test_time_namespace_shifts_the_clock(bundle: Bundle) -> None:
    def change(spec: dict[str, Any]) -> None:
        namespace(spec, "time")
        spec["linux"]["timeOffsets"] = {"boottime": {"secs": 10_000_000}}

    assert float(bundle.run("cut", "-d ", "-f1", "/proc/uptime", change=change).ok()) > 10_000_000


def test_personality_and_priorities(bundle: Bundle) -> None:
    bundle.spec["linux"]["personality"] = {"domain": "LINUX32"}
    bundle.spec["process"]["scheduler"] = {"policy": "SCHED_BATCH", "nice": 5}
    bundle.spec["process"]["ioPriority"] = {"class": "IOPRIO_CLASS_IDLE", "priority": 0}
    output = bundle.shell("uname -m; cut -d' ' -f19,41 /proc/self/stat; ionice").ok().splitlines()
    assert output == ["i686", "5 3", "idle"]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["nosuch"], 127, 'exec: "nosuch": executable file not found in $PATH'),
        (["/nosuch"], 127, 'exec: "/nosuch": stat /nosuch: no such file or directory'),
        (["/etc"], 126, 'exec: "/etc": is a directory: permission denied'),
        (["/etc/passwd"], 126, 'exec: "/etc/passwd": permission denied'),
        (["/garbage"], 255, "exec /garbage: exec format error"),
        (["/script"], 255, "exec /script: no such file or directory"),
    ],
)
def test_what_cannot_be_executed(bundle: Bundle, arguments: list[str], code: int, text: str) -> None:
    (bundle.root / "garbage").write_bytes(b"\x01\x02")
    (bundle.root / "garbage").chmod(0o755)
    (bundle.root / "script").write_text("#!/no/such/interpreter\n")
    (bundle.root / "script").chmod(0o755)
    ran = bundle.run(*arguments)
    assert (ran.code, text in ran.errors) == (code, True), ran
    assert bundle.command("list", "-q").stdout == ""


# -- rights ----------------------------------------------------------------------------------------


def test_capability_sets(bundle: Bundle) -> None:
    bundle.spec["process"]["capabilities"] = {
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NOT_YET_INVENTED"],
        "effective": ["CAP_CHOWN"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "inheritable": ["CAP_KILL"],
        "ambient": ["CAP_KILL"],
    }
    bundle.spec["process"]["user"] = {"uid": 1000, "gid": 1000}
    lines = bundle.run("grep", "^Cap", "/proc/self/status").ok().splitlines()
    sets = {line.split(":")[0]: int(line.split()[1], 16) for line in lines}
    assert sets == {"CapInh": 32, "CapPrm": 32, "CapEff": 32, "CapBnd": 33, "CapAmb": 32}


def test_inheritable_capabilities_stay_empty(bundle: Bundle) -> None:
    """CVE-2022-29162 (runc exec --cap) and CVE-2022-24769."""
    assert bundle.run("grep", "CapInh", "/proc/self/status").ok().split()[1] == "0" * 16
    with bundle.running() as container:
        for extra in ([], ["--cap", "CAP_NET_ADMIN"]):
            output = bundle.command("exec", *extra, container, "grep", "Cap", "/proc/self/status").stdout
            sets = dict(line.split(":\t") for line in output.splitlines())
            assert sets["CapInh"] == "0" * 16
            assert bool(int(sets["CapEff"], 16) & (1 << 12)) == bool(extra)


@pytest.mark.parametrize("no_new_privs", [False, True])
def test_default_seccomp_profile_blocks(bundle: Bundle, no_new_privs: bool) -> None:
    bundle.spec["process"]["noNewPrivileges"] = no_new_privs
    output = bundle.shell(
        "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status; unshare -U true || echo denied"
    ).ok()
    assert output.split() == ["NoNewPrivs:", str(int(no_new_privs)), "Seccomp:", "2", "denied"]


def test_seccomp_rules_with_arguments_and_errno(bundle: Bundle) -> None:
    bundle.spec["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
            {
                "names": ["kill"],
                "action": "SCMP_ACT_ERRNO",
                "errnoRet": 95,
                "args": [{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}],
            },
        ],
    }
    ran = bundle.shell("mkdir /x; kill -10 1; kill -0 1 && echo fine")
    assert "No space left" in ran.errors
    assert "not supported" in ran.errors
    assert ran.output == "fine\n"


def test_unknown_system_calls_are_enosys_not_eperm(bundle: Bundle, tmp_path: Path) -> None:
    """What a C library probes for must look absent (runc's patchbpf does the same)."""
    from daemon.runtime import seccomp, syscalls

    program = seccomp.program(default_seccomp(set(defaults.CAPABILITIES)))
    assert program is not None
    results = []
    for number in (600, 155):  # beyond every table; pivot_root, known and not allowed
        pid = os.fork()
        if pid == 0:
            try:
                syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
                program.install()
                syscalls._check(syscalls._syscall(number, 0, 0))
            except OSError as error:
                os._exit(error.errno or 0)
            finally:
                os._exit(0)
        results.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    assert results == [38, 1]


# -- foreign input ---------------------------------------------------------------------------------


def test_bundle_unpacked_by_umoci_runs_the_same_under_runc(tmp_path: Path) -> None:
    root = make_root(tmp_path / "source")
    layout, unpacked = tmp_path / "image", tmp_path / "bundle"
    for command in (
        ["umoci", "init", "--layout", str(layout)],
        ["umoci", "new", "--image", f"{layout}:t"],
        ["umoci", "insert", "--image", f"{layout}:t", str(root), "/"],
        ["umoci", "config", "--image", f"{layout}:t", "--config.cmd", "id", "--config.env", "A=b"],
        ["umoci", "unpack", "--image", f"{layout}:t", str(unpacked)],
    ):
        subprocess.run(command, check=True, capture_output=True)
    spec = json.loads((unpacked / "config.json").read_text())
    spec["process"]["terminal"] = False
    spec["process"]["args"] = [
        "sh",
        "-c",
        "id; env | sort; hostname; ls /; grep Cap /proc/self/status; ulimit -n",
    ]
    (unpacked / "config.json").write_text(json.dumps(spec))
    outputs = [
        subprocess.run(
            [runtime, "--root", str(tmp_path / "state"), "run", "umoci-test"],
            cwd=unpacked, capture_output=True, text=True, check=True, timeout=30, stdin=subprocess.DEVNULL,
        ).stdout
        for runtime in (PYD_OCI, "runc")
    ]  # fmt: skip
    assert outputs[0] == outputs[1]
    assert "uid=0" in outputs[0]
