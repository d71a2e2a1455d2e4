"""What a container's root is made of: mounts, overlays, devices; and all of it in a user namespace."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.system.runtime_bundle import Bundle, namespace, user_namespace

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs root")


# -- file systems ----------------------------------------------------------------------------------


def test_bind_mounts_read_only_and_recursive(bundle: Bundle, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "inner").mkdir(parents=True)
    (source / "file").write_text("text")
    subprocess.run(["mount", "-t", "tmpfs", "none", str(source / "inner")], check=True)
    try:
        bundle.spec["mounts"] += [
            {"destination": "/rw", "type": "bind", "source": str(source), "options": ["rbind"]},
            {"destination": "/ro", "type": "bind", "source": str(source), "options": ["rbind", "ro"]},
            {"destination": "/rro", "type": "bind", "source": str(source), "options": ["rbind", "rro"]},
            {
                "destination": "/one/file",
                "type": "bind",
                "source": str(source / "file"),
                "options": ["bind", "ro"],
            },
        ]
        script = "cat /one/file; for d in rw ro rro; do for s in '' inner/; do >/$d/${s}n && echo $d/$s; done; done"
        assert bundle.shell(f"({script}) 2>/dev/null; true").ok() == "textrw/\nrw/inner/\nro/inner/"
    finally:
        subprocess.run(["umount", str(source / "inner")], check=True)


def test_an_overlay_of_more_layers_than_one_text_holds(bundle: Bundle, tmp_path: Path) -> None:
    """fsconfig(2) takes 256 bytes at a time; a colon in a path is escaped in the text."""
    layers = []
    for number in range(12):
        layer = tmp_path / f"layer:{number}"
        layer.mkdir()
        (layer / f"file{number}").touch()
        layers.append(str(layer).replace(":", "\\:"))
    options = ["ro", f"lowerdir={':'.join(layers)}"]
    bundle.spec["mounts"].append(
        {"destination": "/x", "type": "overlay", "source": "overlay", "options": options}
    )
    assert bundle.shell("ls /x | wc -l").ok() == "12"


def test_bind_of_a_missing_source_is_refused(bundle: Bundle) -> None:
    bundle.spec["mounts"].append(
        {"destination": "/x", "type": "bind", "source": "/no/such", "options": ["bind"]}
    )
    ran = bundle.run("true")
    assert ran.code == 1
    assert "/no/such" in ran.errors
    assert "no such file or directory" in ran.errors


def test_mounts_made_on_the_host_later_arrive_only_where_asked(bundle: Bundle, tmp_path: Path) -> None:
    source = tmp_path / "shared"
    (source / "inner").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(source)], check=True)
    try:
        subprocess.run(["mount", "--make-shared", str(source)], check=True)
        (source / "inner").mkdir()
        for propagation in ("rprivate", "rslave"):
            bundle.spec["mounts"].append(
                {
                    "destination": f"/{propagation}",
                    "type": "bind",
                    "source": str(source),
                    "options": ["rbind", propagation],
                }
            )
        with bundle.running() as container:
            subprocess.run(["mount", "-t", "tmpfs", "none", str(source / "inner")], check=True)
            (source / "inner" / "late").touch()
            output = bundle.command("exec", container, "sh", "-c", "ls -d /*/inner/late").stdout
            subprocess.run(["umount", str(source / "inner")], check=True)
        assert output.split() == ["/rslave/inner/late"]
    finally:
        subprocess.run(["umount", str(source)], check=True)


def test_tmpfs_options_hold(bundle: Bundle) -> None:
    bundle.spec["mounts"].append(
        {
            "destination": "/scratch",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["size=64k", "mode=1750", "noexec"],
        }
    )
    ran = bundle.shell(
        "stat -c %a /scratch; dd if=/dev/zero of=/scratch/x bs=1k count=100 2>&1 | grep -o 'No space'"
    )
    assert ran.output.split("\n")[:2] == ["1750", "No space"]


def test_read_only_root(bundle: Bundle) -> None:
    bundle.spec["root"]["readonly"] = True
    ran = bundle.shell("touch /x; touch /dev/shm/y && echo shm")
    assert "Read-only file system" in ran.errors
    assert ran.output == "shm\n"


def test_overlay_root_is_mounted_by_init_alone(bundle: Bundle, tmp_path: Path) -> None:
    lower, upper, work = tmp_path / "lower", tmp_path / "upper", tmp_path / "work"
    for directory in (lower, upper, work):
        directory.mkdir()
    (lower / "top").write_text("from the top layer")
    overlay = {"lower": [str(lower), str(bundle.root)], "upper": str(upper), "work": str(work)}
    bundle.spec["root"] = {"path": "absent", "overlay": overlay}
    with bundle.running("sh", "-c", "cat /top > /written; sleep 60") as container:
        assert bundle.command("exec", container, "cat", "/top").stdout == "from the top layer"
        assert str(upper) not in Path("/proc/self/mountinfo").read_text()
        deadline = time.monotonic() + 5
        while not (upper / "written").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (upper / "written").read_text() == "from the top layer"


def test_a_volatile_overlay_is_mounted_again_after_its_end(bundle: Bundle, tmp_path: Path) -> None:
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    overlay = {"lower": [str(bundle.root)], "upper": f"{tmp_path}/upper", "work": f"{tmp_path}/work"}
    bundle.spec["root"] = {"path": "absent", "overlay": {**overlay, "volatile": True}}
    script = "grep -c ' / .*volatile' /proc/mounts; cat /n; echo here > /n"
    assert bundle.shell(script).output == "1\n"
    assert bundle.shell(script).ok() == "1\nhere"


def test_devices_of_the_specification(bundle: Bundle) -> None:
    bundle.spec["linux"]["devices"] = [
        {
            "path": "/dev/fuse",
            "type": "c",
            "major": 10,
            "minor": 229,
            "fileMode": 0o600,
            "uid": 1000,
            "gid": 5,
        },
        {"path": "/dev/sub/pipe", "type": "p", "fileMode": 0o640},
    ]
    bundle.spec["linux"]["resources"]["devices"] = [{"allow": True, "access": "rwm"}]
    output = bundle.shell("stat -c '%F %a %t:%T %u:%g' /dev/fuse /dev/sub/pipe").ok().splitlines()
    assert output == ["character special file 600 a:e5 1000:5", "fifo 640 0:0 0:0"]


# -- user namespaces -------------------------------------------------------------------------------


def test_user_namespace_maps_root(bundle: Bundle) -> None:
    user_namespace(bundle.spec)
    os.chown(bundle.root / "tmp", 200000, 200000)
    output = bundle.shell(
        "id -u; cat /proc/self/uid_map; stat -c %u /; touch /tmp/mine && stat -c %u /tmp/mine"
    ).ok()
    assert output.split() == ["0", "0", "200000", "65536", "65534", "0"]
    assert (bundle.root / "tmp/mine").stat().st_uid == 200000


def test_user_namespace_has_overlay_binds_devices_and_limits(bundle: Bundle, tmp_path: Path) -> None:
    user_namespace(bundle.spec)
    private = tmp_path / "private"
    private.mkdir(0o700)
    (private / "file").write_text("reached")
    upper, work = tmp_path / "upper", tmp_path / "work"
    for directory in (upper, work):
        directory.mkdir()
        os.chown(directory, 200000, 200000)
    bundle.spec["root"] = {
        "path": "x",
        "overlay": {"lower": [str(bundle.root)], "upper": str(upper), "work": str(work)},
    }
    bundle.spec["mounts"].append(
        {"destination": "/file", "type": "bind", "source": str(private / "file"), "options": ["bind"]}
    )
    bundle.spec["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 5000, "hard": 5000}]
    bundle.spec["process"]["oomScoreAdj"] = 5
    script = "cat /file; echo; head -c 4 /dev/zero | wc -c; ulimit -n; cat /proc/self/oom_score_adj; echo x > /dev/null"
    assert bundle.shell(script).ok().split() == ["reached", "4", "5000", "5"]


def test_user_namespace_exec_and_joining(bundle: Bundle, tmp_path: Path) -> None:
    user_namespace(bundle.spec)
    with bundle.running() as container:
        done = bundle.command("exec", container, "sh", "-c", "id -u; readlink /proc/self/ns/user")
        pid = json.loads(bundle.command("state", container).stdout)["pid"]
        expected = os.readlink(f"/proc/{pid}/ns/user")
        assert done.stdout.split() == ["0", expected]
        other = Bundle(tmp_path / "other")
        namespace(other.spec, "user", path=f"/proc/{pid}/ns/user")
        namespace(other.spec, "ipc", path=f"/proc/{pid}/ns/ipc")
        other.spec["linux"]["sysctl"] = {}
        ran = other.shell("id -u; echo $$; readlink /proc/self/ns/user; readlink /proc/self/ns/ipc")
        assert ran.ok().split() == ["0", "1", expected, os.readlink(f"/proc/{pid}/ns/ipc")]
