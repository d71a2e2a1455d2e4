"""What an image was made of, as SLSA provenance in BuildKit's form: v0.2 and v1. Pure.

mode=min leaves out what may be secret (build arguments, labels, names of secrets) and how it was built; mode=max has
all of it, the graph and the Dockerfile included.

Source: BuildKit solver/llbsolver/provenance (predicate.go, types), util/purl; docs/attestations/slsa-definitions.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from daemon import parsebool
from daemon.images import reference, times
from storage.errors import InvalidArgument

Json = dict[str, Any]
TYPE_02, TYPE_1 = "https://slsa.dev/provenance/v0.2", "https://slsa.dev/provenance/v1"
_BUILD_02 = "https://mobyproject.org/buildkit@v1"
_BUILD_1 = "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md"
_OF_THE_HOST = frozenset(("cgroup-parent", "image-resolve-mode", "platform", "cache-imports"))
_SECRET = ("build-arg:", "label:")


@dataclass(frozen=True)
class ImageUsed:
    name: str
    digest: str
    platform: str = ""


@dataclass(frozen=True)
class Facts:
    """Of one platform's result. Times in nanoseconds."""

    frontend: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)
    """The front end's attributes, all of them."""
    images: tuple[ImageUsed, ...] = ()
    repositories: tuple[tuple[str, str], ...] = ()
    """(URL, commit)"""
    files: tuple[tuple[str, str], ...] = ()
    """(URL, digest)"""
    locals: tuple[str, ...] = ()
    secrets: tuple[tuple[str, bool], ...] = ()
    """(ID, whether the build goes on without it)"""
    agents: tuple[tuple[str, bool], ...] = ()
    network: bool = False
    """A step could reach it."""
    platform: str = ""
    """Of the machine that built."""
    started: int = 0
    finished: int = 0
    invocation: str = ""
    config: Json | None = None
    source: Json | None = None
    layers: Json | None = None
    usage: list[Json] = field(default_factory=list)
    """Samples of the machine (usage.py)."""


def predicate(facts: Facts, attributes: Mapping[str, str]) -> tuple[str, Json]:
    """(predicate type, predicate). InvalidArgument for attributes that make no sense."""
    minimal = attributes.get("mode", "max") == "min"
    reproducible = _boolean(attributes, "reproducible")
    made = _Predicate(
        facts, minimal=minimal, reproducible=reproducible, builder=attributes.get("builder-id", "")
    )
    if attributes.get("version") == "v1":
        return TYPE_1, made.version_1()
    return TYPE_02, made.version_02()


def _boolean(attributes: Mapping[str, str], name: str) -> bool:
    text = attributes.get(name)
    if text is None:
        return False
    if text not in parsebool.TRUE | parsebool.FALSE:
        raise InvalidArgument(f'failed to parse {name} flag "{text}": {parsebool.invalid(text)}')
    return text in parsebool.TRUE


class _Predicate:
    def __init__(self, facts: Facts, *, minimal: bool, reproducible: bool, builder: str) -> None:
        self._facts, self._minimal, self._reproducible, self._builder = facts, minimal, reproducible, builder
        arguments = {
            name: value
            for name, value in sorted(facts.arguments.items())
            if name not in _OF_THE_HOST and not name.startswith("attest:")
        }
        self._vcs = _versions(arguments)
        self._uri, self._digest, self._path = self._configuration(arguments)
        secret = {name for name in arguments if minimal and name.startswith(_SECRET)}
        self._arguments = {name: value for name, value in arguments.items() if name not in secret}
        self._known = bool(facts.frontend) and not secret
        """Whether the parameters are all there."""
        self._complete = not facts.locals
        """Whether the materials are."""

    def _configuration(self, arguments: dict[str, str]) -> tuple[str, Json, str]:
        """Where the Dockerfile came from, which is no argument then: (URI, digest, path)."""
        name = arguments.get("contextkey") or (
            "input:context" if arguments.get("input:context") else "context"
        )
        for each in list(arguments):
            if each == name or each.startswith("context:"):
                arguments[each] = redacted(arguments[each])
        path = arguments.pop("filename", "")
        uri = arguments.pop(name, "")
        return uri, self._material_of(uri), path

    def _material_of(self, uri: str) -> Json:
        for url, commit in self._facts.repositories:
            if uri and uri.partition("#")[0] == redacted(url).partition("#")[0]:
                return _commit(commit)
        for url, digest in self._facts.files:
            if uri and redacted(url) == uri:
                return _digest(digest)
        return {}

    def _materials(self) -> list[Json]:
        found: list[Json] = []
        for image in sorted(self._facts.images, key=lambda each: each.name):
            found.append({"uri": package(image.name, image.platform), "digest": _digest(image.digest)})
        for url, commit in sorted(self._facts.repositories):
            found.append({"uri": redacted(url), "digest": _commit(commit)})
        for url, digest in sorted(self._facts.files):
            found.append({"uri": redacted(url), "digest": _digest(digest)})
        return [{name: value for name, value in each.items() if value} for each in found]

    def _request(self) -> Json:
        facts = self._facts
        secrets = [] if self._minimal else [_named(*each) for each in sorted(facts.secrets)]
        agents = [] if self._minimal else [_named(*each) for each in sorted(facts.agents)]
        return _filled(
            frontend=facts.frontend,
            args=self._arguments,
            secrets=secrets,
            ssh=agents,
            locals=[{"name": name} for name in sorted(facts.locals)],
        )

    def _metadata(self) -> Json:
        facts = self._facts
        if self._minimal:
            return _filled(vcs=self._vcs, sysUsage=facts.usage)
        return _filled(vcs=self._vcs, source=facts.source, layers=facts.layers, sysUsage=facts.usage)

    @property
    def _hermetic(self) -> bool:
        return self._complete and not self._facts.network

    def version_02(self) -> Json:
        facts = self._facts
        metadata: Json = {
            "buildInvocationID": facts.invocation,
            "buildStartedOn": times.rfc3339(facts.started),
            "buildFinishedOn": times.rfc3339(facts.finished),
            "completeness": {"parameters": self._known, "environment": True, "materials": self._complete},
            "reproducible": self._reproducible,
            f"{_BUILD_02}#metadata": self._metadata(),
        }
        if self._hermetic:
            metadata[f"{_BUILD_02}#hermetic"] = True
        made: Json = {"builder": {"id": self._builder}, "buildType": _BUILD_02}
        if materials := self._materials():
            made["materials"] = materials
        made["invocation"] = {
            "configSource": _filled(uri=self._uri, digest=self._digest, entryPoint=self._path),
            "parameters": self._request(),
            "environment": {"platform": facts.platform},
        }
        if facts.config is not None and not self._minimal:
            made["buildConfig"] = facts.config
        return made | {"metadata": metadata}

    def version_1(self) -> Json:
        facts = self._facts
        internal: Json = {"builderPlatform": facts.platform}
        if facts.config is not None and not self._minimal:
            internal["buildConfig"] = facts.config
        definition: Json = {
            "buildType": _BUILD_1,
            "externalParameters": {
                "configSource": _filled(uri=self._uri, digest=self._digest, path=self._path),
                "request": self._request(),
            },
            "internalParameters": internal,
        }
        if materials := self._materials():
            definition["resolvedDependencies"] = materials
        metadata: Json = {
            "invocationId": facts.invocation,
            "startedOn": times.rfc3339(facts.started),
            "finishedOn": times.rfc3339(facts.finished),
            "buildkit_metadata": self._metadata(),
            "buildkit_completeness": {"request": self._known, "resolvedDependencies": self._complete},
        }
        if self._hermetic:
            metadata["buildkit_hermetic"] = True
        if self._reproducible:
            metadata["buildkit_reproducible"] = True
        details = {"builder": {"id": self._builder}, "metadata": metadata}
        return {"buildDefinition": definition, "runDetails": details}


def _versions(arguments: dict[str, str]) -> dict[str, str]:
    """What the client found out about the context's repository (vcs:*), taken out of the arguments."""
    found = {}
    for name in [name for name in arguments if name.startswith("vcs:")]:
        value = arguments.pop(name)
        if value:
            found[name.removeprefix("vcs:")] = redacted(value) if name == "vcs:source" else value
    return found


def _filled(**members: Any) -> Json:
    return {name: value for name, value in members.items() if value}


def _named(id: str, optional: bool) -> Json:
    return {"id": id, "optional": True} if optional else {"id": id}


def _digest(digest: str) -> Json:
    algorithm, _, encoded = digest.partition(":")
    return {algorithm: encoded} if encoded else {}


def _commit(commit: str) -> Json:
    return {"sha256" if len(commit) == 64 else "sha1": commit} if commit else {}


def redacted(url: str) -> str:
    """Without the password: nobody has to know it who reads the image."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if not at:
        return url
    name, colon, _ = user.partition(":")
    return urlunsplit(parts._replace(netloc=f"{name}:xxxxx@{host}" if colon else f"xxxxx@{host}"))


def package(name: str, platform: str = "", kind: str = "docker") -> str:
    """A package URL. InvalidArgument when the name is none."""
    parsed = reference.parse(name).with_default_tag()
    path = "/".join(quote(part, safe=":$&+=@~") for part in parsed.familiar_name.split("/"))
    version = f"@{quote(parsed.tag, safe='')}" if parsed.tag else ""
    qualifiers = {"digest": parsed.digest, "platform": quote(platform, safe="")}
    shown = "&".join(f"{key}={value}" for key, value in qualifiers.items() if value)
    return f"pkg:{kind}/{path}{version}" + (f"?{shown}" if shown else "")
