"""What a repository that is not everybody's is fetched with: a client's tokens, its ssh agent.

Source: BuildKit source/git (getAuthToken, mountSSHAuthSock) and util/gitutil. The secret's names are those that
BuildKit's clients have for it, with the repository's host first.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from daemon.build.session import asking
from daemon.build.sources import gitrefs

if TYPE_CHECKING:
    from daemon.build.session.sessions import Session

TOKEN, HEADER = "GIT_AUTH_TOKEN", "GIT_AUTH_HEADER"
_EVERYWHERE = ("https://github.com/", "https://www.github.com/")
"""A token for one of its repositories goes to all, submodules for one."""


@dataclass(frozen=True)
class Access:
    """Nothing of it is ever on disk or on a command line."""

    header: str = ""
    """Value of an Authorization header, for `scope`."""
    scope: str = ""
    agent: str = ""
    """Path of an ssh agent's socket."""
    hosts: str = ""
    """Keys of hosts, as known_hosts has them; without any, every host is believed."""

    def fields(self) -> dict[str, Any]:
        return asdict(self)

    def environment(self, known_hosts: str = "/dev/null") -> dict[str, str]:
        """Variables of git. `known_hosts`: the file that `hosts` are in."""
        strict = "yes" if self.hosts else "no"
        options = {
            "UserKnownHostsFile": known_hosts,
            "StrictHostKeyChecking": strict,
            "BatchMode": "yes",
            "LogLevel": "ERROR",
        }
        command = ["ssh", "-F", "/dev/null", *(f"-o {name}={value}" for name, value in options.items())]
        found = {"GIT_SSH_COMMAND": " ".join(command)}
        if self.agent:
            found["SSH_AUTH_SOCK"] = self.agent
        if self.header:
            found |= {
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": f"http.{self.scope}.extraheader",
                "GIT_CONFIG_VALUE_0": f"Authorization: {self.header}",
            }
        return found


NONE = Access()


@contextlib.asynccontextmanager
async def access(
    sessions: Sequence[Session], remote: str, attributes: dict[str, str]
) -> AsyncIterator[Access]:
    """For one repository, as long as the block lasts. `attributes`: the source's `git.*`.

    NotFound when none of the clients forwards the agent that is asked for; the classic door's have none, and it is
    tried all the same.
    """
    if not gitrefs.over_ssh(remote):
        yield Access(await _header(sessions, remote, attributes), _scope(remote))
        return
    hosts, ident = attributes.get("git.knownsshhosts", ""), attributes.get(gitrefs.AGENT, "")
    if not sessions or not ident:
        yield Access(hosts=hosts)
        return
    path, close = await asking.agent(sessions, ident)
    try:
        yield Access(agent=str(path), hosts=hosts)
    finally:
        await close()


async def _header(sessions: Sequence[Session], remote: str, attributes: dict[str, str]) -> str:
    if not remote.startswith(("http://", "https://")):
        return ""
    header = attributes.get("git.authheadersecret", HEADER)
    token = attributes.get("git.authtokensecret", TOKEN)
    host = urlsplit(remote).netloc.rpartition("@")[2]
    for name, is_token in (
        (f"{header}.{host}", False),
        (f"{token}.{host}", True),
        (header, False),
        (token, True),
    ):
        for session in sessions:
            found = await session.secret(name)
            if found is not None and (text := found.decode("utf-8", "replace").strip()).isprintable():
                if not is_token:
                    return text
                return "basic " + base64.b64encode(b"x-access-token:" + text.encode()).decode()
    return ""


def _scope(remote: str) -> str:
    return next((each for each in _EVERYWHERE if remote.startswith(each)), remote)
