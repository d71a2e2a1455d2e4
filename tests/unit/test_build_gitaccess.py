"""What git is run with for repositories that are not everybody's; nothing of it on a command line."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from daemon.build.sources.gitaccess import Access, access
from daemon.build.sources.gitrefs import parse
from storage.errors import NotFound


class Client:
    def __init__(self, secrets: Mapping[str, bytes], agent: bool = False) -> None:
        self.secrets, self.agent, self.closed = secrets, agent, 0

    async def secret(self, id: str) -> bytes | None:
        return self.secrets.get(id)

    async def open_agent(self, id: str) -> tuple[Path, Any]:
        if not self.agent:
            raise NotFound(id)

        async def close() -> None:
            self.closed += 1

        return Path(f"/agents/{id}"), close


async def given(client: Client, remote: str, **attributes: str) -> Access:
    async with access([client], remote, attributes) as found:  # type: ignore[list-item]
        return found


async def test_tokens_and_headers_by_host_then_for_all() -> None:
    basic = "basic " + base64.b64encode(b"x-access-token:t").decode()
    url = "https://example.org/a/b.git"
    assert (await given(Client({"GIT_AUTH_TOKEN": b"t\n"}), url)).header == basic
    both = {
        "GIT_AUTH_TOKEN.example.org": b"t",
        "GIT_AUTH_HEADER": b"bearer h",
        "GIT_AUTH_TOKEN.other.org": b"no",
    }
    assert (await given(Client(both), url)).header == basic
    assert (await given(Client({"GIT_AUTH_HEADER": b"bearer h"}), url)).header == "bearer h"
    assert (await given(Client({"GIT_AUTH_TOKEN": b"a\nb: c"}), url)).header == "", "no second header"
    assert (await given(Client({"GIT_AUTH_TOKEN": b"t"}), "git://example.org/a.git")).header == ""


async def test_a_header_is_for_its_repository_alone() -> None:
    client = Client({"GIT_AUTH_HEADER": b"h"})
    environment = (await given(client, "https://example.org/a.git")).environment()
    assert environment["GIT_CONFIG_KEY_0"] == "http.https://example.org/a.git.extraheader"
    assert environment["GIT_CONFIG_VALUE_0"] == "Authorization: h" and environment["GIT_CONFIG_COUNT"] == "1"
    assert (await given(client, "https://github.com/a/b.git")).scope == "https://github.com/"
    assert "GIT_CONFIG_COUNT" not in Access().environment()


@pytest.mark.parametrize("remote", ["ssh://git@example.org/a.git", "git@example.org:a/b.git"])
async def test_agents_are_for_ssh_and_closed_again(remote: str) -> None:
    client = Client({}, agent=True)
    found = await given(client, remote, **{"git.mountsshsock": "default"})
    assert found.agent == "/agents/default" and client.closed == 1
    assert found.environment()["SSH_AUTH_SOCK"] == "/agents/default"
    assert "StrictHostKeyChecking=no" in found.environment()["GIT_SSH_COMMAND"]
    known = await given(
        client, remote, **{"git.mountsshsock": "other", "git.knownsshhosts": "example.org ssh-rsa A"}
    )
    assert known.agent == "/agents/other"
    command = known.environment("/tmp/hosts")["GIT_SSH_COMMAND"]
    assert "UserKnownHostsFile=/tmp/hosts" in command and "StrictHostKeyChecking=yes" in command
    with pytest.raises(NotFound):
        await given(Client({}), remote, **{"git.mountsshsock": "default"})
    assert (await given(client, remote)).agent == "", "who asks for none gets none"
    async with access([], remote, {"git.mountsshsock": "default"}) as alone:
        assert alone.agent == "", "the classic door's clients have none"


def test_repositories_over_ssh_ask_for_the_agent() -> None:
    for text in ("ssh://git@example.org:22/a.git#main", "git@example.org:a/b.git"):
        found = parse(text)
        assert found is not None and ("git.mountsshsock", "default") in found.attributes
    found = parse("https://example.org/a.git")
    assert found is not None and "git.mountsshsock" not in dict(found.attributes)
