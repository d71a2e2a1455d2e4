"""Docker's image references: grammar, normalisation, familiar form.

    reference  = name [ ":" tag ] [ "@" digest ]
    name       = [ domain "/" ] path          docker.io is the domain when none is given
    domain     = host [ ":" port ]            a first component with "." or ":", "localhost", or upper case
    path       = component *( "/" component ) docker.io/x means docker.io/library/x
    component  = [a-z0-9]+ ( ( "." | "_" | "__" | "-"+ ) [a-z0-9]+ )*
    tag        = [A-Za-z0-9_][A-Za-z0-9_.-]{0,127}
    digest     = algorithm ":" hex

Source: github.com/distribution/reference, regexp.go and normalize.go; the texts of the errors are its.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from storage.errors import InvalidArgument

DEFAULT_DOMAIN = "docker.io"
LEGACY_DOMAIN = "index.docker.io"
OFFICIAL = "library/"
DEFAULT_TAG = "latest"
LONGEST_PATH = 255

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])"
_DOMAIN = rf"{_HOST}(?::[0-9]+)?"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
_REFERENCE = re.compile(
    rf"(?:(?P<domain>{_DOMAIN})/)?(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    rf"(?::(?P<tag>{_TAG}))?(?:@(?P<digest>{_DIGEST}))?",
    re.ASCII,
)
_TAG_ONLY = re.compile(_TAG, re.ASCII)
_IDENTIFIER = re.compile(r"[a-f0-9]{64}", re.ASCII)
_HEX_LENGTH = {"sha256": 64, "sha384": 96, "sha512": 128}


@dataclass(frozen=True, slots=True)
class Reference:
    """A normalised reference; `tag` and `digest` may be empty, both together only as `name:tag@digest`."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """What users see: no docker.io, no library/."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        path = self.path.removeprefix(OFFICIAL)
        return path if "/" not in path else self.path

    @property
    def familiar(self) -> str:
        return self.familiar_name + self._suffix

    @property
    def is_name_only(self) -> bool:
        return not self.tag and not self.digest

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return self.name + self._suffix

    def with_default_tag(self) -> Reference:
        return replace(self, tag=DEFAULT_TAG) if self.is_name_only else self

    def with_tag(self, tag: str) -> Reference:
        if not _TAG_ONLY.fullmatch(tag):
            raise InvalidArgument("invalid tag format")
        return replace(self, tag=tag)

    def with_digest(self, digest: str) -> Reference:
        """The canonical form: a digest and no tag."""
        return replace(self, tag="", digest=validate_digest(digest))

    def trimmed(self) -> Reference:
        return replace(self, tag="", digest="")


def validate_digest(digest: str) -> str:
    algorithm, _, encoded = digest.partition(":")
    if not re.fullmatch(_DIGEST, digest, re.ASCII):
        raise InvalidArgument("invalid checksum digest format")
    if algorithm not in _HEX_LENGTH:
        raise InvalidArgument("unsupported digest algorithm")
    if len(encoded) != _HEX_LENGTH[algorithm]:
        raise InvalidArgument("invalid checksum digest length")
    if not re.fullmatch(r"[a-f0-9]+", encoded):
        raise InvalidArgument("invalid checksum digest format")
    return digest


def is_digest(text: str) -> bool:
    try:
        validate_digest(text)
    except InvalidArgument:
        return False
    return True


def parse(text: str) -> Reference:
    """Normalises what a user typed; InvalidArgument with Docker's text when it is no reference."""
    if _IDENTIFIER.fullmatch(text):
        raise InvalidArgument(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    domain, remainder = _split_domain(text)
    path = remainder.partition("@")[0]
    path = path[: path.index(":")] if ":" in path else path
    if path.lower() != path:
        raise InvalidArgument(f"invalid reference format: repository name ({path}) must be lowercase")
    match = _REFERENCE.fullmatch(f"{domain}/{remainder}")
    if match is None or not match["domain"]:
        raise InvalidArgument("invalid reference format")
    if len(match["path"]) > LONGEST_PATH:
        raise InvalidArgument(f"repository name must not be more than {LONGEST_PATH} characters")
    digest = validate_digest(match["digest"]) if match["digest"] else ""
    return Reference(match["domain"], match["path"], match["tag"] or "", digest)


def parse_any(text: str) -> Reference | str:
    """A full image ID (64 hex digits, with or without `sha256:`) comes back as its digest, else `parse`."""
    if _IDENTIFIER.fullmatch(text):
        return f"sha256:{text}"
    if is_digest(text):
        return text
    return parse(text)


def parse_with(name: str, tag_or_digest: str) -> Reference:
    """The API's pair of parameters (`fromImage` and `tag`, `repo` and `tag`); the second wins when given."""
    reference = parse(name)
    if not tag_or_digest:
        return reference
    if is_digest(tag_or_digest):
        return reference.with_digest(tag_or_digest)
    return reference.trimmed().with_tag(tag_or_digest)


def _split_domain(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    looks_like_host = "." in first or ":" in first or first == "localhost" or first.lower() != first
    domain, remainder = (first, rest) if slash and looks_like_host else (DEFAULT_DOMAIN, text)
    if domain == LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in remainder:
        remainder = OFFICIAL + remainder
    return domain, remainder


def matches(pattern: str, reference: Reference) -> bool:
    """The `reference` filter: a shell pattern on the familiar form, with or without the tag."""
    compiled = _glob(pattern)
    return any(compiled.fullmatch(text) for text in (reference.familiar, reference.familiar_name))


def _glob(pattern: str) -> re.Pattern[str]:
    """Go's path.Match: `*` and `?` stop at a slash, `[a-z]` and `[^a-z]` classes, backslash escapes."""
    out, index = "", 0
    while index < len(pattern):
        char = pattern[index]
        if char == "*":
            out += "[^/]*"
        elif char == "?":
            out += "[^/]"
        elif char == "\\" and index + 1 < len(pattern):
            index += 1
            out += re.escape(pattern[index])
        elif char == "[":
            end = pattern.find("]", index + 2)
            if end < 0:
                raise InvalidArgument("syntax error in pattern")
            body = pattern[index + 1 : end]
            negated = body.startswith("^")
            body = body[1:].replace("\\", "\\\\").replace("[", "\\[") if negated else body.replace("[", "\\[")
            out += f"[{'^' if negated else ''}{body}]"
            index = end
        else:
            out += re.escape(char)
        index += 1
    try:
        return re.compile(out)
    except re.error:
        raise InvalidArgument("syntax error in pattern") from None
