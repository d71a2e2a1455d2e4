"""Images that the tests make: no registry is reachable from here."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

CACHE = Path(os.environ.get("PYD_TEST_CACHE", "/var/tmp/pyd-test-cache"))
SUITE = "bookworm"


def busybox(directory: Path) -> Path:
    """A tar with /bin/busybox and a link for each of its applets."""
    tree = directory / "tree"
    for name in ("bin", "etc", "root", "home"):
        (tree / name).mkdir(parents=True)
    for name, mode in (("tmp", 0o1777), ("var/tmp", 0o1777)):
        (tree / name).mkdir(parents=True)
        (tree / name).chmod(mode)
    shutil.copy("/bin/busybox", tree / "bin" / "busybox")
    applets = subprocess.run(
        ["/bin/busybox", "--list"], capture_output=True, text=True, check=True
    ).stdout.split()
    for applet in applets:
        if applet != "busybox":
            (tree / "bin" / applet).symlink_to("busybox")
    (tree / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n")
    (tree / "etc" / "group").write_text("root:x:0:\nwheel:x:10:root\nuser:x:1000:\nstaff:x:50:user\n")
    target = directory / "busybox.tar"
    with tarfile.open(target, "w") as archive:
        archive.add(tree, arcname=".", filter=_owned_by_root)
    return target


def _owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def registry(directory: Path) -> Iterator[str]:
    """docker-registry (Debian's package) on a free port of 127.0.0.1."""
    port = free_port()
    config = directory / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {directory}/data}}\n"
        f"  delete: {{enabled: true}}\nhttp: {{addr: 127.0.0.1:{port}}}\n"
    )
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/"):
                break
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def debian_layout() -> Path:
    """An OCI layout with Debian `minbase` in three layers, made once and kept in the cache."""
    return kept(f"debian-{SUITE}-oci", _make_debian)


def kept(name: str, make: Callable[[Path], Path]) -> Path:
    """What the cache has of a name, made when it is not there: `make` gets a directory and says where in it."""
    found = CACHE / name
    if found.exists():
        return found
    CACHE.mkdir(parents=True, exist_ok=True)
    work = CACHE / f"making-{name}-{os.getpid()}"
    try:
        made = make(work)
        with contextlib.suppress(OSError):  # somebody else was quicker
            made.rename(found)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return found


def _make_debian(work: Path) -> Path:
    root = work / "root"
    root.mkdir(parents=True)
    command = ["debootstrap", "--variant=minbase", "--no-check-gpg", SUITE, str(root)]
    result = subprocess.run([*command, *mirror()], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    image = f"{work / 'oci'}:test"
    _run("umoci", "init", "--layout", str(work / "oci"))
    _run("umoci", "new", "--image", image)
    _run("umoci", "unpack", "--image", image, str(work / "bundle"))
    rootfs = work / "bundle" / "rootfs"
    rootfs.rmdir()
    root.rename(rootfs)
    _run("umoci", "repack", "--image", image, str(work / "bundle"))
    for number, name in enumerate(("etc/layer-two", "opt/layer-three")):
        shutil.rmtree(work / "bundle")
        _run("umoci", "unpack", "--image", image, str(work / "bundle"))
        (rootfs / name).parent.mkdir(exist_ok=True)
        (rootfs / name).write_text(f"layer {number + 2}\n")
        shutil.rmtree(rootfs / "var/cache/apt", ignore_errors=True)
        _run("umoci", "repack", "--image", image, str(work / "bundle"))
    _run("umoci", "config", "--image", image, "--config.cmd", "/bin/bash", "--config.env", "LANG=C.UTF-8")
    return work / "oci"


def mirror() -> list[str]:
    """The distribution's own mirror in this machine's apt sources; none leaves debootstrap its default."""
    for path in [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]:
        if not path.is_file():
            continue
        for line in path.read_text().splitlines():
            for word in line.split()[1:] if line.startswith(("deb ", "URIs:")) else ():
                if word.rstrip("/").endswith("/debian"):
                    return [word]
    return []


def push_debian(address: str) -> str:
    _run(
        "skopeo",
        "copy",
        "--dest-tls-verify=false",
        f"oci:{debian_layout()}:test",
        f"docker://{address}/debian:test",
    )
    return f"{address}/debian:test"


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}: {result.stderr}"
