"""What each image does when it runs."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.system.host import Host


@contextmanager
def service(host: Host, tag: str, port: int, *flags: str) -> Iterator[str]:
    """The URL of a container of the image that answers at that port."""
    name = host.docker("run", "-d", "--rm", "-p", f"127.0.0.1::{port}", *flags, tag).strip()
    try:
        address = host.docker("port", name, str(port)).split()[0]
        yield f"http://{address}"
    finally:
        host.docker("rm", "-f", name)


def get(url: str, seconds: float = 20) -> str:
    """The answer, once there is one."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return str(answer.read().decode())
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def said(host: Host, tag: str, *arguments: str, flags: tuple[str, ...] = ()) -> str:
    return host.docker("run", "--rm", "--network", "none", *flags, tag, *arguments)


def python_web(host: Host, tag: str) -> None:
    with service(host, tag, 8000) as url:
        assert json.loads(get(f"{url}/health")) == {"status": "ok", "uid": 10001}
        assert get(f"{url}/hello/you%3Cb%3E") == "<p>Hello, you&lt;b&gt;!</p>"


def node_app(host: Host, tag: str) -> None:
    with service(host, tag, 3000) as url:
        assert json.loads(get(f"{url}/?q=1")) == {"version": "1.2.3", "uid": 1000, "query": {"q": "1"}}
    assert "# pass 1" in said(host, tag, "-e", "console.log(require('fs').readFileSync('/test.log', 'utf8'))")


def c_scratch(host: Host, tag: str) -> None:
    assert said(host, tag) == "hello, world\n"
    assert said(host, tag, "you") == "hello, you\n"
    assert host.inspect(tag)["Size"] < 1_000_000


def debian_apt(host: Host, tag: str) -> None:
    assert said(host, tag, "sh", "-c", "date -d 2024-07-01 +%Z; tree --version | cut -c1-4").split() == [
        "CEST",
        "tree",
    ]
    assert said(host, tag, "sh", "-c", "find /var/cache/apt /var/lib/apt -name '*.deb' | wc -l") == "0\n"


def nginx_site(host: Host, tag: str) -> None:
    with service(host, tag, 80, "-e", "SITE_NAME=example") as url:
        assert get(url) == "<h1>example</h1>\n"
        assert get(f"{url}/assets/css/site.css").startswith("h1")


def java_jar(host: Host, tag: str) -> None:
    assert said(host, tag, "you") == "hello, you\n"


def go_service(host: Host, tag: str) -> None:
    with service(host, tag, 8080) as url:
        assert get(f"{url}/some/path") == "linux/amd64 65534 /some/path\n"


def monorepo(host: Host, tag: str) -> None:
    assert said(host, tag) == "hello from api\n"


def heredocs(host: Host, tag: str) -> None:
    assert said(host, tag).startswith("port = 8080\npath = /")


def onbuild(host: Host, tag: str) -> None:
    assert said(host, tag) == "installed left\ninstalled right\n"
    assert said(host, tag, "cat", "mode") == "production\n"


def permissions(host: Host, tag: str) -> None:
    closed = "/srv/shared/tree/closed/secret.txt"
    assert said(host, tag, "/usr/local/bin/setuid-cat", closed, flags=("--user", "nobody")) == "secret\n"
    refused = host.try_docker("run", "--rm", "--user", "nobody", tag, "cat", closed)
    assert refused.returncode == 1 and b"Permission denied" in refused.stderr
    granted = "grep CapEff /proc/$!/status; kill $!"
    shown = said(host, tag, "sh", "-c", f"bind-low 9 & sleep 0.2; {granted}", flags=("--user", "bob"))
    assert shown.split() == ["CapEff:", "0000000000000400"]


def add_sources(host: Host, tag: str) -> None:
    assert said(host, tag, "/usr/local/bin/script.sh") == "fetched\n"
    assert said(host, tag, "cat", "/opt/tool-1.0/tool") == "this is tool-1.0/bin/tool\n"


CHECKS: dict[str, Callable[[Host, str], None]] = {
    "python-web": python_web,
    "node-app": node_app,
    "c-scratch": c_scratch,
    "debian-apt": debian_apt,
    "nginx-site": nginx_site,
    "java-jar": java_jar,
    "go-service": go_service,
    "monorepo": monorepo,
    "heredocs": heredocs,
    "onbuild": onbuild,
    "permissions": permissions,
    "add-sources": add_sources,
}
