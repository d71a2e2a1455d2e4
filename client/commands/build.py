"""`pyd build` and `pyd builder prune`; what this client does not do, said clearly: buildx and compose."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from client import buildcontext
from client.commands.imagefiles import read_file
from client.commands.remove import ask
from client.creation.devices import parse_ulimit
from client.errors import ClientError
from client.options import Command, Parsed
from client.render.progress import ProgressScreen
from client.render.units import human_size
from client.session import Session, filters_json, say

BUILD_FLAGS = """
 |add-host|list||Add a host to /etc/hosts of RUN steps ("host:ip")
 |build-arg|list||Set a build argument
 |cache-from|list||Images to take cache from (all builds share one cache)
 |cgroup-parent|string||Parent of the cgroups of RUN steps
 |check|bool||Only report build checks
 |!compress|bool||Compress the context
 |cpu-period|int||Limit the CPU CFS period
 |cpu-quota|int||Limit the CPU CFS quota
c|cpu-shares|int||CPU shares
 |cpuset-cpus|string||CPUs that RUN steps may use
 |cpuset-mems|string||Memory nodes that RUN steps may use
 |!disable-content-trust|bool|true|Skip image verification
f|file|string||Name of the Dockerfile (default: PATH/Dockerfile)
 |force-rm|bool||Always remove intermediate containers (there are none)
 |iidfile|string||Write the image's ID to this file
 |label|list||Set metadata of the image
m|memory|bytes||Memory limit of RUN steps
 |memory-swap|bytes:swap||Memory and swap together; -1 for unlimited swap
 |network|string||Network of RUN steps: default, none or host
 |no-cache|bool||Do not use the cache
 |no-cache-filter|list||Do not use the cache for these stages
 |platform|string||Platform of the image
 |progress|string|auto|Kind of progress: auto, plain or quiet
 |pull|bool||Ask the registry for newer base images
q|quiet|bool||Print only the image's ID
 |rm|bool|true|Remove intermediate containers (there are none)
 |secret|list||Secret for RUN steps ("id=mysecret[,src=/local/file|,env=NAME]")
 |shm-size|bytes||Size of /dev/shm
t|tag|list||Name of the image, "name:tag"
 |target|string||Stage to build
 |ulimit|ulimit*||Ulimits of RUN steps
"""
PRUNE_FLAGS = """
a|all|bool||Remove all cache, not only what no image uses
 |filter|filter||What to remove ("unused-for=24h")
f|force|bool||Do not ask
 |keep-storage|bytes||Cache that may stay
 |!max-used-space|bytes||Cache that may stay
 |!reserved-space|bytes||Cache that may stay
"""


def _query(parsed: Parsed, dockerfile: str, remote: str) -> dict[str, Any]:
    numbers = {"cpuperiod": "cpu-period", "cpuquota": "cpu-quota", "cpushares": "cpu-shares", "memory": "memory",
               "memswap": "memory-swap", "shmsize": "shm-size"}  # fmt: skip
    texts = {"cgroupparent": "cgroup-parent", "cpusetcpus": "cpuset-cpus", "cpusetmems": "cpuset-mems",
             "networkmode": "network", "platform": "platform", "target": "target"}  # fmt: skip
    flags = {"nocache": "no-cache", "pull": "pull", "check": "check", "rm": "rm", "forcerm": "force-rm"}
    query: dict[str, Any] = {key: parsed.number(flag) or None for key, flag in numbers.items()}
    query |= {key: parsed.text(flag) or None for key, flag in texts.items()}
    query |= {key: parsed.on(flag) for key, flag in flags.items()}
    query |= {
        "dockerfile": dockerfile or None,
        "remote": remote or None,
        "t": parsed.items("tag"),
        "q": parsed.on("quiet") or parsed.text("progress") == "quiet",
        "buildargs": json.dumps(dict(map(_argument, parsed.items("build-arg")))),
        "labels": json.dumps(dict(map(_pair, parsed.items("label")))),
        "extrahosts": parsed.items("add-host"),
        "cachefrom": json.dumps(parsed.items("cache-from")),
        "ulimits": json.dumps(parsed.items("ulimit")) if parsed.items("ulimit") else None,
        "nocachefilter": parsed.items("no-cache-filter"),
        "version": "1",
    }
    return query


def _argument(text: str) -> tuple[str, str | None]:
    """Without a value it is the environment's, or stays unset."""
    name, equals, value = text.partition("=")
    return name, value if equals else os.environ.get(name)


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def _secrets(items: list[str]) -> dict[str, str]:
    """id=NAME with src=FILE or env=VARIABLE; by default the variable, else the file, of that name."""
    found = {}
    for item in items:
        fields = dict(_pair(part) for part in item.split(","))
        ident = fields.get("id")
        if not ident:
            raise ClientError(f"invalid secret {item!r}: it needs an id")
        source = fields.get("src") or fields.get("source")
        variable = fields.get("env")
        try:
            if variable is not None or (source is None and ident in os.environ):
                name = variable if variable is not None else ident
                data = os.environb[name.encode()]
            else:
                data = Path(source or ident).read_bytes()
        except KeyError:
            raise ClientError(f"secret {ident}: the variable {variable} is not set") from None
        except OSError as error:
            message = (error.strerror or "").lower()
            raise ClientError(f"secret {ident}: open {source or ident}: {message}") from None
        found[ident] = base64.b64encode(data).decode()
    return found


def _header(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


def _context(path: str, file: str) -> tuple[Iterator[bytes] | None, str, str]:
    """The body, the Dockerfile's name in it, and the URL when the daemon fetches the context itself."""
    if path == "-":
        if file == "-":
            raise ClientError("invalid argument: can't use stdin for both build context and dockerfile")
        return read_file("-"), file, ""
    if path.startswith(("http://", "https://", "git://", "git@", "github.com/")) and not os.path.exists(path):
        return None, file, path
    if file == "-":
        made = buildcontext.of_directory(path, "", b"".join(read_file("-")))
        return made.chunks, made.dockerfile, ""
    name, content = buildcontext.locate(path, file)
    made = buildcontext.of_directory(path, name, content)
    return made.chunks, made.dockerfile, ""


def build(session: Session, parsed: Parsed) -> int:
    if parsed.text("progress") not in ("auto", "plain", "tty", "quiet"):
        raise ClientError(f"invalid progress: {parsed.text('progress')}")
    body, dockerfile, remote = _context(parsed.arguments[0], parsed.text("file"))
    headers = {"Content-Type": "application/x-tar"}
    if secrets := _secrets(parsed.items("secret")):
        headers["X-Build-Secrets"] = _header(secrets)
    if credentials := _credentials(session):
        headers["X-Registry-Config"] = _header(credentials)
    query = _query(parsed, dockerfile, remote)
    messages = session.api.messages("POST", "/build", query=query, content=body, headers=headers)
    image = _show(messages)
    if parsed.text("iidfile") and image:
        Path(parsed.text("iidfile")).write_text(image)
    return 0


def _credentials(session: Session) -> dict[str, Any]:
    """Those of registries that are named in the configuration file."""
    path = session.config_directory / "config.json"
    if not path.exists():
        return {}
    try:
        entries = json.loads(path.read_text()).get("auths") or {}
    except (OSError, ValueError):
        return {}
    return {
        server: json.loads(base64.urlsafe_b64decode(session.config.find(server).header() + "=="))
        for server in entries
    }


def _show(messages: Iterator[dict[str, Any]]) -> str:
    """The stream on stdout; returns the image's ID. A failing command's status becomes ours."""
    screen = ProgressScreen(sys.stdout)
    image = ""
    for message in messages:
        if isinstance(message.get("aux"), dict):
            image = message["aux"].get("ID") or image
            continue
        detail = message.get("errorDetail")
        if isinstance(detail, dict) and detail.get("code"):
            raise ClientError(str(detail.get("message", "")), int(detail["code"]))
        screen.show(message)
    return image


def prune(session: Session, parsed: Parsed) -> int:
    what = "all build cache" if parsed.on("all") else "all dangling build cache"
    ask(parsed, f"This will remove {what}.")
    keep = max(parsed.number(name) for name in ("keep-storage", "max-used-space", "reserved-space"))
    query = {
        "all": parsed.on("all"),
        "filters": filters_json(parsed.items("filter")),
        "keep-storage": keep or None,
    }
    done = session.api.json("POST", "/build/prune", query=query)
    for name in done.get("CachesDeleted") or ():
        say(name)
    say(f"Total reclaimed space: {human_size(done.get('SpaceReclaimed') or 0)}")
    return 0


def _not_yet(what: str, instead: str) -> Callable[[Session, Parsed], int]:
    def refuse(session: Session, parsed: Parsed) -> int:
        raise ClientError(f"pyd: {what} is not supported by this client yet; use {instead}")

    return refuse


COMMANDS = (
    Command(("build", "image build", "builder build"), "PATH | URL | -", "Build an image from a Dockerfile", build,
            BUILD_FLAGS, least=1, most=1, converters={"ulimit": parse_ulimit}),
    Command(("builder prune",), "", "Remove build cache", prune, PRUNE_FLAGS, most=0),
    Command(("buildx",), "COMMAND", "Build with BuildKit (not yet)", _not_yet("building with BuildKit", "'pyd build'"),
            interspersed=False),
    Command(("compose",), "COMMAND", "Run applications of several containers (not yet)",
            _not_yet("compose", "'docker compose' with DOCKER_HOST set to this daemon"), interspersed=False),
)  # fmt: skip
