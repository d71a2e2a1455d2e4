"""Git repositories as ADD and contexts name them: URL#ref:directory, URL?ref=..&subdir=..

Source: BuildKit frontend/dockerfile/dfgitutil and util/gitutil.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import parse_qs

from storage.errors import InvalidArgument

_SCP = re.compile(r"[a-zA-Z0-9_.-]+@[a-zA-Z0-9_.-]+:(?!//)[^?#]+")
_URL = re.compile(r"(?:git|ssh)://[^?#]+|https?://[^?#]+\.git")
_SSH = re.compile(r"ssh://|(?![a-z]+://)[^/@:]+@[^/:]+:")
_PREFIX = "git://"
AGENT = "git.mountsshsock"
"""The attribute that asks for a client's agent."""
_BOOLEANS = {"": True, "true": True, "1": True, "t": True, "false": False, "0": False, "f": False}


@dataclass(frozen=True)
class GitRef:
    remote: str
    ref: str = ""
    directory: str = ""
    checksum: str = ""
    keep: bool | None = None
    """The .git directory."""
    submodules: bool = True

    @property
    def identifier(self) -> str:
        """As a source operation names it."""
        place = re.sub(r"^[a-z]+://", "", self.remote)
        fragment = self.ref + (f":{self.directory}" if self.directory else "")
        return f"{_PREFIX}{place}" + (f"#{fragment}" if fragment else "")

    @property
    def attributes(self) -> tuple[tuple[str, str], ...]:
        found = [("git.fullurl", self.remote)]
        found += [("git.keepgitdir", "true")] if self.keep else []
        found += [("git.checksum", self.checksum)] if self.checksum else []
        found += [(AGENT, "default")] if over_ssh(self.remote) else []
        return (*found, ("git.skipsubmodules", "true")) if not self.submodules else tuple(found)

    @property
    def url(self) -> str:
        """With ref and directory behind it, as this engine's fetcher takes it."""
        return self.remote + (f"#{self.ref}:{self.directory}" if self.ref or self.directory else "")


def over_ssh(remote: str) -> bool:
    return _SSH.match(remote) is not None


def parse(text: str, *, context: bool = False) -> GitRef | None:
    """None for what is no repository. `context`: `github.com/a/b` is one too. InvalidArgument for a bad query."""
    rest, _, fragment = text.partition("#")
    remote, _, query = rest.partition("?")
    if context and remote.startswith("github.com/"):
        remote = f"https://{remote}"
    elif not _SCP.fullmatch(remote) and not _URL.fullmatch(remote):
        return None
    ref, _, directory = fragment.partition(":")
    found = GitRef(remote, ref, directory.strip("/"))
    for name, values in parse_qs(query, keep_blank_values=True).items():
        if len(values) > 1:
            raise InvalidArgument(f'query "{name}" has multiple values')
        found = _query(found, name, values[0])
    if ".." in found.directory.split("/"):
        raise InvalidArgument(f"the directory {found.directory} leaves the repository")
    return found


def _query(found: GitRef, name: str, value: str) -> GitRef:
    if not value and name not in ("keep-git-dir", "submodules"):
        raise InvalidArgument(f'query "{name}" has no value')
    match name:
        case "ref" | "tag" | "branch":
            full = {"ref": value, "tag": f"refs/tags/{value}", "branch": f"refs/heads/{value}"}[name]
            if found.ref and found.ref != full:
                raise InvalidArgument(f'ref conflicts: "{found.ref}" vs "{full}"')
            return replace(found, ref=full)
        case "subdir":
            if found.directory and found.directory != value:
                raise InvalidArgument(f'subdir conflicts: "{found.directory}" vs "{value}"')
            return replace(found, directory=value.strip("/"))
        case "checksum" | "commit":
            return replace(found, checksum=value)
        case "keep-git-dir" | "submodules" if value in _BOOLEANS:
            on = _BOOLEANS[value]
            return replace(found, keep=on) if name == "keep-git-dir" else replace(found, submodules=on)
    raise InvalidArgument(f'unexpected query "{name}"')


def of_source(identifier: str, attributes: dict[str, str]) -> GitRef:
    """A source operation's, as clients write it (solver/pb attributes `git.*`)."""
    place, _, fragment = identifier.removeprefix(_PREFIX).partition("#")
    ref, _, directory = fragment.partition(":")
    if ".." in directory.split("/"):
        raise InvalidArgument(f"the directory {directory} leaves the repository")
    return GitRef(
        remote=attributes.get("git.fullurl") or f"https://{place}",
        ref=ref,
        directory=directory.strip("/"),
        checksum=attributes.get("git.checksum", ""),
        keep=attributes.get("git.keepgitdir") == "true",
        submodules=attributes.get("git.skipsubmodules") != "true",
    )
