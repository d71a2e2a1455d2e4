"""Bundles with a busybox root, and running them by `pyd-oci` or runc."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from daemon.runtime import defaults

PYD_OCI = str(Path(__file__).parents[2] / "daemon" / "runtime" / "pyd-oci")
Change = Callable[[dict[str, Any]], None]


def make_root(root: Path) -> Path:
    """The machine's static busybox with all its applets, and the few files that programs look for."""
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "root"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in subprocess.run(
        ["/bin/busybox", "--list"], capture_output=True, text=True, check=True
    ).stdout.split():
        with contextlib.suppress(FileExistsError):
            (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n"
    )
    (root / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")
    return root


class Bundle:
    """A directory with config.json and rootfs, and the commands on it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = make_root(directory / "rootfs")
        self.state = directory / "state"
        self.spec = defaults.default_spec("rootfs", ["true"], hostname="box")
        self.spec["linux"]["cgroupsPath"] = f"pyd-runtime-test/{uuid.uuid4().hex[:12]}"

    def configure(self, *arguments: str, change: Change | None = None) -> Bundle:
        if arguments:
            self.spec["process"]["args"] = list(arguments)
        if change is not None:
            change(self.spec)
        (self.directory / "config.json").write_text(json.dumps(self.spec))
        return self

    def command(
        self, *arguments: str, runtime: str = PYD_OCI, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """`pyd-oci ARGUMENTS` with a state directory of the bundle's own."""
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run(
            [runtime, "--root", str(self.state), *arguments],
            capture_output=options.pop("capture_output", True),
            text=True,
            timeout=30,
            cwd=self.directory,
            check=False,
            **options,
        )

    def run(
        self, *arguments: str, change: Change | None = None, runtime: str = PYD_OCI, **options: Any
    ) -> Ran:
        """Run to the end; what it printed and its exit code."""
        self.configure(*arguments, change=change)
        extra = options.pop("extra", ())
        done = self.command("run", *extra, f"c{uuid.uuid4().hex[:8]}", runtime=runtime, **options)
        return Ran(done.returncode, done.stdout, done.stderr)

    def shell(self, script: str, change: Change | None = None, **options: Any) -> Ran:
        return self.run("sh", "-c", script, change=change, **options)

    @contextlib.contextmanager
    def running(self, *arguments: str, change: Change | None = None) -> Iterator[str]:
        """A detached container's id; it is removed in the end."""
        self.configure(*(arguments or ("sleep", "60")), change=change)
        name = f"c{uuid.uuid4().hex[:8]}"
        done = self.command("run", "-d", name, capture_output=False, stdout=subprocess.DEVNULL)
        assert done.returncode == 0
        try:
            yield name
        finally:
            self.command("delete", "-f", name)

    def remove_leftovers(self) -> None:
        """Also below this process's own cgroups: there runc looks for a relative path (cgroups(7))."""
        own = {
            line.split(":", 2)[2].strip("/") for line in Path("/proc/self/cgroup").read_text().splitlines()
        }
        for mount in Path("/sys/fs/cgroup").iterdir():
            for parent in {"", *own}:
                with contextlib.suppress(OSError):
                    (mount / parent / "pyd-runtime-test").rmdir()


class Ran:
    """A finished run."""

    def __init__(self, code: int, output: str, errors: str) -> None:
        self.code, self.output, self.errors = code, output, errors

    def __repr__(self) -> str:
        return f"exit {self.code}, output {self.output!r}, errors {self.errors!r}"

    @property
    def lines(self) -> list[str]:
        return self.output.splitlines()

    def ok(self) -> str:
        assert self.code == 0, self
        return self.output.strip()


def host_namespace(kind: str) -> str:
    return os.readlink(f"/proc/self/ns/{kind}")


def namespace(spec: dict[str, Any], kind: str, **entry: str) -> None:
    """Set or add the namespace of a kind."""
    entries = spec["linux"]["namespaces"]
    entries[:] = [one for one in entries if one["type"] != kind] + [{"type": kind, **entry}]


def user_namespace(spec: dict[str, Any]) -> None:
    namespace(spec, "user")
    mapping = [{"containerID": 0, "hostID": 200000, "size": 65536}]
    # dockerd too leaves the sysctls out: the whole range of groups is not mapped.
    spec["linux"] |= {"uidMappings": mapping, "gidMappings": mapping, "sysctl": {}}
