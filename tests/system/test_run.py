"""`docker run` and its options, by the stock client: what the container sees and what `inspect` shows."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.system.host import Host


def sh(host: Host, script: str, *flags: str) -> str:
    return host.docker("run", "--rm", *flags, "busybox", "sh", "-c", script).strip()


@pytest.mark.parametrize("code", [0, 1, 42, 125, 126, 127, 128, 200, 255])
def test_exit_codes_pass_through(host: Host, code: int) -> None:
    assert host.try_docker("run", "--rm", "busybox", "sh", "-c", f"exit {code}").returncode == code


def test_death_by_signal_is_128_plus_its_number(host: Host) -> None:
    assert host.try_docker("run", "--rm", "--init", "busybox", "sh", "-c", "kill -9 $$").returncode == 137


def test_stdout_and_stderr_stay_apart(host: Host) -> None:
    result = host.try_docker("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2")
    assert (result.stdout, result.stderr) == (b"out\n", b"err\n")


def test_stdin_is_piped_and_its_end_seen(host: Host) -> None:
    data = os.urandom(3_000_000)
    result = host.try_docker("run", "--rm", "-i", "busybox", "cat", input=data)
    assert result.stdout == data


def test_environment_workdir_user_hostname_labels(host: Host, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("FROM_FILE=1\n# comment\n")
    flags = ["-e", "A=b c", "--env-file", str(tmp_path / "env"), "-w", "/tmp", "-u", "user:staff"]
    flags += ["--hostname", "box", "--label", "k=v", "--group-add", "10"]
    text = sh(host, 'echo "$A|$FROM_FILE|$(pwd)|$(id -u):$(id -g):$(id -G)|$(hostname)|$HOME"', *flags)
    assert text == "b c|1|/tmp|1000:50:50 10|box|/home"
    host.docker("create", "--name", "labelled", *flags, "busybox")
    config = host.inspect("labelled")["Config"]
    assert (config["Labels"], config["User"], config["WorkingDir"]) == ({"k": "v"}, "user:staff", "/tmp")


def test_entrypoint_and_command(host: Host) -> None:
    assert host.docker("run", "--rm", "--entrypoint", "echo", "busybox", "a", "b") == "a b\n"


def test_it_is_process_one_in_a_world_of_its_own(host: Host) -> None:
    seen = sh(host, "echo $$; ps | wc -l; hostname; ls /proc | grep -c '^[0-9]'; mount | grep ' / '")
    lines = seen.splitlines()
    assert lines[0] == "1"
    assert int(lines[1]) < 8
    assert len(lines[2]) == 12
    assert "overlay on / type overlay" in lines[4]
    for kind in ("mnt", "pid", "net", "ipc", "uts"):
        assert sh(host, f"readlink /proc/self/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")


def test_no_descriptor_and_no_variable_of_the_daemon_leaks(host: Host) -> None:
    assert sh(host, "ls /proc/self/fd").split() == ["0", "1", "2", "3"]  # 3 is ls's own
    names = {line.partition("=")[0] for line in sh(host, "env").splitlines()}
    assert names == {"PATH", "HOSTNAME", "HOME", "SHLVL", "PWD"}


def test_default_capabilities_seccomp_and_masked_paths(host: Host) -> None:
    status = sh(host, "cat /proc/self/status")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    assert fields["CapEff"].strip() == "00000000a80425fb"
    assert fields["CapInh"].strip() == "0000000000000000"
    assert fields["Seccomp"].strip() == "2"
    assert host.try_docker("run", "--rm", "busybox", "unshare", "-U", "true").returncode != 0
    assert sh(host, "cat /proc/kcore | wc -c; ls /sys/firmware | wc -l").split() == ["0", "0"]
    assert (
        host.try_docker("run", "--rm", "busybox", "sh", "-c", "echo 1 > /proc/sys/kernel/panic").returncode
        != 0
    )


def test_capabilities_are_added_and_dropped(host: Host) -> None:
    assert "CapEff:\t0000000000000000" in sh(host, "cat /proc/self/status", "--cap-drop", "ALL")
    assert "CapEff:\t0000000000001000" in sh(
        host, "cat /proc/self/status", "--cap-drop", "ALL", "--cap-add", "NET_ADMIN"
    )
    assert sh(host, "ip link set lo down && echo done", "--cap-add", "NET_ADMIN") == "done"


def test_privileged(host: Host) -> None:
    fields = dict(
        line.split(":", 1) for line in sh(host, "cat /proc/self/status", "--privileged").splitlines()
    )
    assert fields["Seccomp"].strip() == "0"
    assert int(fields["CapEff"], 16) == int(
        Path("/proc/self/status").read_text().split("CapBnd:")[1].split()[0], 16
    )
    assert sh(host, "mkdir /m && mount -t tmpfs none /m && echo ok", "--privileged")
    assert sh(host, "ls /dev/null /dev/kvm", "--privileged")


def test_security_options(host: Host, tmp_path: Path) -> None:
    assert "NoNewPrivs:\t1" in sh(host, "cat /proc/self/status", "--security-opt", "no-new-privileges")
    assert "Seccomp:\t0" in sh(host, "cat /proc/self/status", "--security-opt", "seccomp=unconfined")
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
    }
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    option = f"seccomp={tmp_path / 'profile.json'}"
    assert sh(host, "mkdir /tmp/x 2>/dev/null || echo refused", "--security-opt", option) == "refused"


def test_binds_tmpfs_and_a_read_only_root(host: Host, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from host\n")
    bind = ["-v", f"{tmp_path}:/data"]
    assert sh(host, "cat /data/file; echo back > /data/new", *bind) == "from host"
    assert (tmp_path / "new").read_text() == "back\n"
    assert (
        host.try_docker("run", "--rm", "-v", f"{tmp_path}:/data:ro", "busybox", "touch", "/data/x").returncode
        == 1
    )
    seen = sh(
        host,
        "touch /x 2>/dev/null || echo ro; echo t > /run/t && cat /run/t; df -m /run | tail -1",
        "--read-only",
        "--tmpfs",
        "/run:size=3m",
    )
    assert seen.splitlines()[:2] == ["ro", "t"]
    assert seen.splitlines()[2].split()[1] == "3"


def test_a_missing_bind_source_is_made_by_v_and_refused_by_mount(host: Host, tmp_path: Path) -> None:
    host.docker("run", "--rm", "-v", f"{tmp_path}/made:/x", "busybox", "true")
    assert (tmp_path / "made").is_dir()
    result = host.try_docker(
        "run", "--mount", f"type=bind,source={tmp_path}/none,target=/x", "busybox", "true"
    )
    assert result.returncode == 125
    assert f"bind source path does not exist: {tmp_path}/none".encode() in result.stderr


def test_memory_cpu_and_pids_limits(host: Host) -> None:
    flags = ["--memory", "64m", "--memory-swap", "96m", "--cpus", "0.5", "--cpu-shares", "512"]
    flags += ["--cpuset-cpus", "0", "--pids-limit", "50"]
    host.docker("run", "-d", "--name", "limited", *flags, "busybox", "sleep", "60")
    shown = host.inspect("limited")["HostConfig"]
    assert [
        shown[k] for k in ("Memory", "MemorySwap", "NanoCpus", "CpuShares", "CpusetCpus", "PidsLimit")
    ] == [64 << 20, 96 << 20, 500_000_000, 512, "0", 50]
    pid = host.inspect("limited")["State"]["Pid"]
    groups = dict(line.split(":", 2)[1:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
    if "memory" in groups:
        base = Path("/sys/fs/cgroup")
        assert (
            base / "memory" / groups["memory"][1:] / "memory.limit_in_bytes"
        ).read_text() == f"{64 << 20}\n"
        assert (base / "cpu" / groups["cpu"][1:] / "cpu.cfs_quota_us").read_text() == "50000\n"
        assert (base / "pids" / groups["pids"][1:] / "pids.max").read_text() == "50\n"
        assert (base / "cpuset" / groups["cpuset"][1:] / "cpuset.cpus").read_text() == "0\n"


def test_too_much_memory_is_an_oom_kill(host: Host) -> None:
    command = ["--memory", "16m", "--memory-swap", "16m", "--name", "greedy", "busybox"]
    result = host.try_docker("run", *command, "sh", "-c", "x=a; while true; do x=$x$x; done")
    assert result.returncode == 137
    assert host.inspect("greedy")["State"]["OOMKilled"] is True


def test_devices_ulimits_sysctls_and_shm(host: Host) -> None:
    assert sh(host, "ls -l /dev/net/mytun | cut -c1", "--device", "/dev/net/tun:/dev/net/mytun") == "c"
    assert sh(host, "ulimit -n; ulimit -Hn", "--ulimit", "nofile=100:200").split() == ["100", "200"]
    assert sh(host, "cat /proc/sys/net/ipv4/ip_default_ttl", "--sysctl", "net.ipv4.ip_default_ttl=44") == "44"
    assert sh(host, "df -m /dev/shm | tail -1", "--shm-size", "5m").split()[1] == "5"
    assert sh(host, "cat /proc/self/oom_score_adj", "--oom-score-adj", "77") == "77"


def test_init_reaps_and_forwards(host: Host) -> None:
    assert "docker-init" in sh(host, "cat /proc/1/cmdline", "--init")


def test_namespace_modes(host: Host) -> None:
    host.docker("run", "-d", "--name", "first", "--ipc", "shareable", "busybox", "sleep", "60")
    namespace = f"/proc/{host.inspect('first')['State']['Pid']}/ns/"
    assert sh(host, "readlink /proc/self/ns/pid", "--pid", "container:first") == os.readlink(
        namespace + "pid"
    )
    assert sh(host, "readlink /proc/self/ns/ipc", "--ipc", "container:first") == os.readlink(
        namespace + "ipc"
    )
    assert sh(host, "readlink /proc/self/ns/net", "--network", "container:first") == os.readlink(
        namespace + "net"
    )
    for kind, flag in (("pid", "--pid"), ("ipc", "--ipc"), ("uts", "--uts"), ("net", "--network")):
        assert sh(host, f"readlink /proc/self/ns/{kind}", flag, "host") == os.readlink(
            f"/proc/self/ns/{kind}"
        )
    assert sh(host, "readlink /proc/self/ns/cgroup", "--cgroupns", "private") != os.readlink(
        "/proc/self/ns/cgroup"
    )


def test_hosts_dns_and_extra_hosts(host: Host) -> None:
    flags = [
        "--add-host",
        "db:10.1.2.3",
        "--dns",
        "9.9.9.9",
        "--dns-search",
        "example.org",
        "--hostname",
        "me",
    ]
    text = sh(host, "cat /etc/hosts /etc/resolv.conf", *flags)
    assert "10.1.2.3\tdb" in text
    assert "nameserver 9.9.9.9" in text
    assert "search example.org" in text
    assert "\tme" in text


def test_runc_runs_the_same_container(host: Host) -> None:
    assert sh(host, "echo $$; hostname", "--runtime", "runc", "--hostname", "other").split() == ["1", "other"]


def test_what_another_runtime_refuses_is_said_in_its_words(host: Host) -> None:
    """crun does not start on a machine with hybrid cgroups; where there are none, it runs the container."""
    result = host.try_docker("run", "--rm", "--runtime", "crun", "busybox", "echo", "ran")
    if Path("/sys/fs/cgroup/unified").exists():
        assert b"cgroups in hybrid mode not supported" in result.stderr
        assert result.returncode == 125
    else:
        assert result.stdout == b"ran\n"


def test_run_rm_leaves_no_container(host: Host) -> None:
    host.docker("run", "--rm", "--name", "gone", "busybox", "true")
    assert host.try_docker("inspect", "gone").returncode == 1


def test_a_tty_is_a_tty(host: Host) -> None:
    script = f"docker -H {host.url} run --rm -it busybox sh -c 'tty; stty size; exit 3'"
    result = subprocess.run(
        ["script", "-qec", f"stty rows 33 cols 77; {script}", "/dev/null"],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    assert b"/dev/pts/0" in result.stdout, result
    assert b"33 77" in result.stdout
    assert result.returncode == 3
