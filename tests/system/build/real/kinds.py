"""The table of images: what each is built with, what of it is recorded, and what cannot be equal and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
CONTEXTS, EXPECTED = HERE / "contexts", HERE / "expected"
DEBIAN, BUSYBOX = "pyd-tests-debian", "pyd-tests-busybox"

APT = {
    "var/lib/dpkg/*": "the order in which packages are unpacked and configured",
    "var/log/*": "times inside",
    "var/cache/ldconfig/aux-cache": "inodes and times inside",
    "var/cache/apt/*.bin": "times inside",
    "var/lib/systemd/*": "a random seed, times",
    "etc/*-": "backups of the same files: dates of /etc/shadow",
    "etc/shadow": "dates",
}
"""Contents that every installation of a Debian package makes anew."""
PYTHON = {"*.pyc": "holds its source's time", "*/__pycache__/*": "holds its source's time"}
PIP = {
    "*.dist-info/direct_url.json": "the place of a download",
}


@dataclass(frozen=True)
class Kind:
    """`name` is its directory in contexts/. Places and patterns are without a leading slash."""

    name: str
    base: str | None = BUSYBOX
    """The final stage's; None: scratch."""
    flags: tuple[str, ...] = ()
    context: str = "."
    before: tuple[tuple[str, str], ...] = ()
    """(context, tag) of images that must be built first."""
    secrets: tuple[str, ...] = ()
    """Of machine.secrets()."""
    buildx: bool = False
    """Needs what only BuildKit's door has."""
    recorded: tuple[str, ...] = ()
    """Places that stay the same when the distribution's packages move on; empty: everything."""
    varying: dict[str, str] = field(default_factory=dict)
    """Contents that no two builds have alike, with the reason."""
    differs: dict[str, str] = field(default_factory=dict)
    """Files, or places of the configuration (`history/3/created_by`), that are not like BuildKit's, and why."""
    peerless: bool = False
    """The dockerd beside us is too old for it: recorded by hand from its reference."""
    nightly: bool = False

    @property
    def quick(self) -> bool:
        """Fetches nothing from outside."""
        return self.base == BUSYBOX and self.name != "secrets-ssh"

    @property
    def path(self) -> Path:
        return CONTEXTS / self.name

    @property
    def tag(self) -> str:
        return f"pyd-tests-real-{self.name}:latest"

    @property
    def expected(self) -> Path:
        return EXPECTED / f"{self.name}.json"


_MONOREPO = ("libs", "proto", "tools", "release")

KINDS = (
    Kind(
        "python-web",
        DEBIAN,
        secrets=("pip", "ca"),
        recorded=("app", "venv/lib/python3.11/site-packages/flask", "venv/bin/gunicorn"),
        varying=APT | PYTHON | PIP,
    ),
    Kind(
        "node-app",
        DEBIAN,
        flags=("--build-arg", "VERSION=1.2.3"),
        secrets=("pip", "npm", "ca"),
        recorded=("srv", "usr/local"),
        varying={"test.log": "durations", "*/.package-lock.json": "the registry that served it"},
    ),
    Kind("c-scratch", None, varying={"hello": "the compiler moves on with the distribution"}),
    Kind(
        "debian-apt",
        DEBIAN,
        recorded=("installed", "etc/localtime"),
        varying=APT,
        differs={"history/3/created_by": "stages of one parent share one history in BuildKit: it names that of `more`"},
    ),
    Kind(
        "nginx-site",
        DEBIAN,
        recorded=("etc/nginx/conf.d", "usr/share/nginx/html", "docker-entrypoint.sh", "var/log/nginx"),
        varying=APT,
    ),
    Kind(
        "java-jar",
        DEBIAN,
        recorded=("opt",),
        varying=APT
        | {
            "opt/app/app.jar": "the compiler moves on with the distribution",
            "*/classes*.jsa": "made by the JVM when installed",
            "etc/ssl/certs/java/cacerts": "times of its entries",
        },
        nightly=True,
    ),
    Kind("go-service", None, varying={"service": "the compiler moves on with the distribution"}, nightly=True),
    Kind(
        "monorepo",
        context="services/api",
        flags=(
            "--build-context", f"base=docker-image://{BUSYBOX}",
            *(word for name in _MONOREPO for word in ("--build-context", f"{name}={{context}}/{name}")),
        ),
        buildx=True,
    ),
    Kind("heredocs", flags=("--build-arg", "WHO=you")),
    Kind("onbuild", before=(("parent", "pyd-tests-onbuild-parent"),)),
    Kind(
        "permissions",
        DEBIAN,
        recorded=("srv", "home", "usr/local/bin", "etc/group"),
        varying=APT | {"usr/local/bin/*": "copies of the distribution's programs"},
        differs={"srv/labelled": "`docker save` of a dockerd with graph drivers leaves user attributes out"},
    ),
    Kind("copy-options"),
    Kind("copy-parents", peerless=True),
    Kind("add-sources", flags=("--build-arg", "WEB={web}", "--build-arg", "ARCHIVE_SUM={archive_sum}")),
    Kind(
        "secrets-ssh",
        flags=("--secret", "id=token,src={context}/token", "--ssh", "deploy={agent}"),
        buildx=True,
        varying={"keys": "a key made for the test"},
    ),
)  # fmt: skip
