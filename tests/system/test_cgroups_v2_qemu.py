"""cgroup v2 as the only hierarchy, for real: a virtual machine with a Debian kernel runs cgroups_v2_guest.py.

And project quotas of XFS, on a second disk.

The machines that test pyd may be v1, hybrid or v2; the guest is always unified. Its kernel comes from
Debian's package, downloaded and unpacked but not installed; its root is an initramfs put together here of
busybox, the host's Python with its standard library, and pyd. KVM where it works, emulation otherwise.
"""

from __future__ import annotations

import json
import os
import platform
import re
import select
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system import cgroups_v2_guest as guest

PYTHON = Path("/usr/bin/python3")
REPOSITORY = Path(__file__).resolve().parents[2]
MODULES = ("drivers/block/loop", "fs/overlayfs/overlay", "lib/libcrc32c", "fs/xfs/xfs")
DISK_SIZE = 320 << 20
"""mkfs.xfs makes nothing below 300 MiB; the file is sparse."""
SECONDS = 240
SIGN_OF_LIFE_SECONDS = 3

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to install what is missing"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the guest's kernel is amd64's"),
    pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs Debian's packages"),
]

INIT = """#!/bin/busybox sh
# pivot_root refuses a root that is the initramfs itself, but not a bind mount of it.
/bin/busybox mount --bind / /root
cd /root
/bin/busybox mount --move . /
exec /bin/busybox chroot . /bin/busybox sh /start
"""

START = """
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for module in /modules/*.ko; do insmod $module; done
ip link set lo up
echo 4 > /proc/sys/kernel/printk
%(python)s -I -c "import sys; sys.path.insert(0, '/pyd')
from tests.system.cgroups_v2_guest import main; main()" < /dev/null
sync
reboot -f
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> dict[str, str]:
    """Name of a check to "ok" or a traceback."""
    install_missing(
        {"qemu-system-x86_64": "qemu-system-x86", "busybox": "busybox-static", "mkfs.xfs": "xfsprogs"}
    )
    assert pytestconfig.cache is not None
    kernel, modules = kernel_files(pytestconfig.cache.mkdir("guest-kernel"))
    image = tmp_path_factory.mktemp("guest") / "initramfs"
    image.write_bytes(initramfs(modules))
    disk = image.with_name("disk")
    with open(disk, "wb") as file:
        file.truncate(DISK_SIZE)
    subprocess.run(["mkfs.xfs", "-q", disk], check=True)
    output = boot(kernel, image, disk)
    found = re.search(re.escape(guest.MARK) + r"(\{.*\})", output)
    assert found, f"the guest gave no results; the end of its console:\n{output[-4000:]}"
    answer: dict[str, str] = json.loads(found[1])
    return answer


@pytest.mark.parametrize("check", list(guest.CHECKS))
def test_guest(results: dict[str, str], check: str) -> None:
    assert results[check] == "ok", results[check]


def install_missing(packages: dict[str, str]) -> None:
    missing = [package for command, package in packages.items() if shutil.which(command) is None]
    if missing:
        apt("install", "--yes", "--no-install-recommends", *missing)


def apt(*arguments: str, cwd: Path | None = None) -> None:
    command = ["apt-get", "--quiet", "-o", "DPkg::Lock::Timeout=300", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        subprocess.run(["apt-get", "--quiet", "update"], capture_output=True, check=True)
        subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)


def kernel_files(cache: Path) -> tuple[Path, list[Path]]:
    """The kernel and the modules the guest loads, unpacked into `cache` once."""
    if not list(cache.glob("boot/vmlinuz-*")):
        depends = subprocess.run(
            ["apt-cache", "depends", "linux-image-cloud-amd64"], capture_output=True, text=True, check=True
        ).stdout
        packages = re.findall(r"Depends: (linux-image-[0-9]\S+)", depends)
        assert packages, depends
        apt("download", packages[0], cwd=cache)
        (package,) = cache.glob("linux-image-*.deb")
        subprocess.run(["dpkg-deb", "--extract", package, cache], check=True)
        package.unlink()
    (kernel,) = cache.glob("boot/vmlinuz-*")
    found = [next(iter(cache.glob(f"**/kernel/{name}.ko"))) for name in MODULES]
    return kernel, found


def initramfs(modules: list[Path]) -> bytes:
    """A newc archive (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    archive = Archive()
    for directory in ("proc", "sys", "dev", "tmp", "run", "root", "bin", "modules", "bundle/rootfs/bin"):
        archive.directory(directory)
    busybox = shutil.which("busybox")
    assert busybox
    for name in ("bin/busybox", "bundle/rootfs/bin/busybox"):
        archive.file(name, Path(busybox).read_bytes(), 0o755)
    archive.file("init", INIT.encode(), 0o755)
    archive.file("start", (START % {"python": PYTHON}).encode())
    for number, module in enumerate(modules):
        archive.file(f"modules/{number}-{module.name}", module.read_bytes())
    for path in python_files():
        archive.host_file(path)
    for name in (
        *("daemon/__init__.py", "tests/__init__.py", "tests/system/__init__.py"),
        *(f"tests/system/{name}.py" for name in ("cgroups_v2_guest", "cgroups_v2_tools", "quota_guest")),
    ):
        archive.file(f"pyd/{name}", (REPOSITORY / name).read_bytes())
    for name in ("clock", "labels", "sizes"):
        archive.file(f"pyd/daemon/{name}.py", (REPOSITORY / f"daemon/{name}.py").read_bytes())
    for folder in ("daemon/cgroups", "daemon/runtime", "daemon/volumes", "storage"):
        for path in sorted((REPOSITORY / folder).rglob("*")):
            if path.suffix in (".py", ".json") or path.name == "pyd-oci":
                archive.file(f"pyd/{path.relative_to(REPOSITORY)}", path.read_bytes(), 0o755)
    return archive.finish()


def python_files() -> Iterator[Path]:
    """The interpreter, its standard library, and every shared library they and busybox's Python load."""
    query = "import sysconfig; print(sysconfig.get_path('stdlib'))"
    stdlib = Path(
        subprocess.run([PYTHON, "-I", "-c", query], capture_output=True, text=True, check=True).stdout.strip()
    )
    program = PYTHON.resolve()
    yield from {PYTHON, program}
    left_out = {
        "test",
        "idlelib",
        "ensurepip",
        "tkinter",
        "lib2to3",
        "dist-packages",
        "site-packages",
        "pydoc_data",
    }
    binaries = [program]
    for path in sorted(stdlib.rglob("*")):
        if left_out.isdisjoint(path.relative_to(stdlib).parts) and path.is_file() and path.suffix != ".a":
            yield path
            if path.suffix == ".so":
                binaries.append(path)
    listed = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False).stdout
    yield from sorted({Path(name) for name in re.findall(r"(/\S+) \(0x", listed)})
    yield from Path("/usr/lib").glob("*-linux-gnu/libseccomp.so.2")


class Archive:
    """A cpio archive in the form the kernel unpacks, parents made as needed."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._made: set[str] = set()

    def directory(self, name: str) -> None:
        if name in self._made or name in ("", "."):
            return
        self.directory(os.path.dirname(name))
        self._made.add(name)
        self._add(name, stat.S_IFDIR | 0o755, b"")

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        if name in self._made:
            return
        self.directory(os.path.dirname(name))
        self._made.add(name)
        self._add(name, stat.S_IFREG | mode, content)

    def host_file(self, path: Path) -> None:
        """A file of the host at its own path; a symbolic link becomes the file it points to."""
        self.file(str(path).lstrip("/"), path.read_bytes(), stat.S_IMODE(path.stat().st_mode))

    def _add(self, name: str, mode: int, content: bytes) -> None:
        encoded = name.encode() + b"\0"
        fields = (len(self._parts), mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        self._parts.append(header + bytes(-len(header) % 4) + content + bytes(-len(content) % 4))

    def finish(self) -> bytes:
        self._add("TRAILER!!!", 0, b"")
        return b"".join(self._parts)


def boot(kernel: Path, image: Path, disk: Path) -> str:
    """Run the guest until it resets; its console. A /dev/kvm that gives no sign of life is passed over:
    a nested or software-made one can open and still not get a kernel through its first instructions."""
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        output, ended = run_guest(kernel, image, disk, "kvm", SIGN_OF_LIFE_SECONDS)
        if ended and guest.MARK in output:
            return output
    output, ended = run_guest(kernel, image, disk, "tcg,thread=multi", None)
    if not ended:
        pytest.fail(f"the guest did not end within {SECONDS} s; the end of its console:\n{output[-4000:]}")
    return output


def run_guest(
    kernel: Path, image: Path, disk: Path, accelerator: str, first_sign: float | None
) -> tuple[str, bool]:
    """The console, and whether the guest ended by itself. Stopped when the kernel says nothing within
    `first_sign` seconds."""
    command = [
        "qemu-system-x86_64",
        *("-accel", accelerator, "-cpu", "max,arch-capabilities=off"),
        *("-m", "1024", "-smp", "2", "-nodefaults", "-no-user-config", "-nographic", "-no-reboot"),
        *("-serial", "stdio", "-kernel", str(kernel), "-initrd", str(image)),
        *("-drive", f"file={disk},format=raw,if=none,id=disk", "-device", "nvme,drive=disk,serial=disk"),
        *("-append", "console=ttyS0 earlyprintk=serial,ttyS0 panic=-1 random.trust_cpu=on mitigations=off"),
    ]
    output = b""
    started = time.monotonic()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as machine:
        assert machine.stdout is not None
        try:
            while time.monotonic() - started < SECONDS:
                if first_sign and b"Linux version" not in output and time.monotonic() - started > first_sign:
                    break
                if select.select([machine.stdout], [], [], 0.25)[0]:
                    chunk = os.read(machine.stdout.fileno(), 65536)
                    if not chunk:
                        return output.decode(errors="replace"), machine.wait(10) == 0
                    output += chunk
        finally:
            machine.kill()
    return output.decode(errors="replace"), False
