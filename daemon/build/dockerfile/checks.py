"""The build checks that BuildKit publishes (docs: "Build checks", frontend/dockerfile/linter/ruleset.go).

A Dockerfile turns rules off and experimental ones on, or all findings into errors:
`# check=skip=RuleA,RuleB;experimental=RuleC;error=true`. What stands inside stages is looked at as far as the front
end got, with the variables that it found in the base images.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from daemon import parsebool
from daemon.build.dockerfile import instructions as ins
from daemon.build.dockerfile.ignore import Ignore
from daemon.build.dockerfile.parser import Dockerfile
from daemon.build.dockerfile.source import DockerfileError, Source, Span, nearest
from daemon.build.dockerfile.words import Lexer

URL = "https://docs.docker.com/go/dockerfile/rule/{}/"
RESERVED = ("context", "scratch")
PREDEFINED = frozenset(
    f"{prefix}{name}"
    for prefix in ("BUILD", "TARGET")
    for name in ("PLATFORM", "OS", "ARCH", "VARIANT", "OSVERSION")
) | {"TARGETSTAGE"}
ALWAYS_SET = frozenset({"PATH"})
EXPERIMENTAL = frozenset({"CopyIgnoredFile", "InvalidDefinitionDescription"})
_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credential|credentials|key|password|pword|passwd|secret|token)(?:_|$)", re.I
)
_PUBLIC = re.compile(r"(?:_|^)public(?:_|$)", re.I)
_EXPOSE = re.compile(r"\d+(?:-\d+)?(?:/[A-Za-z]+)?")


DESCRIPTIONS = {
    "StageNameCasing": "Stage names should be lowercase",
    "FromAsCasing": "The 'as' keyword should match the case of the 'from' keyword",
    "NoEmptyContinuation": "Empty continuation lines will become errors in a future release",
    "ConsistentInstructionCasing": "All commands within the Dockerfile should use the same casing (either upper or "
    "lower)",
    "DuplicateStageName": "Stage names should be unique",
    "ReservedStageName": "Reserved words should not be used as stage names",
    "JSONArgsRecommended": "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS "
    "signals",
    "MaintainerDeprecated": "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    "UndefinedArgInFrom": "FROM command must use declared ARGs",
    "WorkdirRelativePath": "Relative workdir without an absolute workdir declared within the build can have unexpected "
    "results if the base image changes",
    "UndefinedVar": "Variables should be defined before their use",
    "MultipleInstructionsDisallowed": "Multiple instructions of the same type should not be used in the same stage",
    "LegacyKeyValueFormat": "Legacy key/value format with whitespace separator should not be used",
    "InvalidBaseImagePlatform": "Base image platform does not match expected target platform",
    "RedundantTargetPlatform": "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the "
    "default behavior",
    "SecretsUsedInArgOrEnv": "Sensitive data should not be used in the ARG or ENV commands",
    "InvalidDefaultArgInFrom": "Default value for global ARG results in an empty or invalid base image name",
    "FromPlatformFlagConstDisallowed": "FROM --platform flag should not use a constant value",
    "CopyIgnoredFile": "Attempting to Copy file that is excluded by .dockerignore",
    "InvalidDefinitionDescription": "Comment for build stage or argument should follow the format: `# <arg/stage name> "
    "<description>`. If this is not intended to be a description comment, add an empty line or comment between the "
    "instruction and the comment.",
    "ExposeProtoCasing": "Protocol in EXPOSE instruction should be lowercase",
    "ExposeInvalidFormat": "IP address and host-port mapping should not be used in EXPOSE instruction. This will "
    "become "
    "an error in a future release",
}
"""What clients print beside a finding: BuildKit's words, which users search for."""


@dataclass(frozen=True)
class Finding:
    rule: str
    text: str
    span: Span

    @property
    def url(self) -> str:
        kebab = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", self.rule).lower()
        return URL.format(kebab)


@dataclass(frozen=True)
class Base:
    """An image that a stage is FROM: the variables it sets, the platform that was wanted, and its own."""

    reference: str
    variables: frozenset[str]
    expected: str = ""
    actual: str = ""
    shell: bool = False
    """Whether it says which shell runs commands."""


@dataclass(frozen=True)
class Seen:
    """How far the front end got, by stages' numbers."""

    bases: Mapping[int, Base]
    lines: Mapping[int, int]
    """The last line that was followed of each stage that was begun."""


@dataclass(frozen=True)
class Rules:
    """`# check=`."""

    skipped: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    fatal: bool = False

    def wants(self, rule: str) -> bool:
        if rule in EXPERIMENTAL:
            return not self.experimental.isdisjoint(("all", rule))
        return self.skipped.isdisjoint(("all", rule))


def rules(dockerfile: Dockerfile) -> Rules:
    """DockerfileError for an option that there is not (linter.ParseLintOptions)."""
    found: dict[str, frozenset[str]] = {}
    fatal = False
    text = dockerfile.directives.check.strip().partition(" ")[0]
    for part in text.split(";", 2) if text else ():
        key, equals, value = (each.strip() for each in part.partition("="))
        if key in ("skip", "experimental") and equals:
            found[key] = frozenset(name.strip() for name in value.split(","))
        elif key == "error" and equals:
            if value not in parsebool.TRUE | parsebool.FALSE:
                reason = parsebool.invalid(value)
                raise DockerfileError(f'{_BAD_OPTIONS}: failed to parse check option "{part}": {reason}')
            fatal = value in parsebool.TRUE
        else:
            raise DockerfileError(f'{_BAD_OPTIONS}: invalid check option "{key}"')
    return Rules(found.get("skip", frozenset()), found.get("experimental", frozenset()), fatal)


_BAD_OPTIONS = "failed to parse check options"


def run(
    dockerfile: Dockerfile,
    arguments: Mapping[str, str | None] | None = None,
    *,
    seen: Seen | None = None,
    ignore: Ignore | None = None,
) -> list[Finding]:
    """All findings that are wanted, by line. Without `seen` stages are looked at to their ends, images unknown."""
    wanted = rules(dockerfile)
    checker = _Checker(dockerfile, arguments or {}, seen, ignore)
    found = [each for each in checker.run() if wanted.wants(each.rule)]
    return sorted(found, key=lambda each: (each.span.first, each.span.last))


def violation(found: list[Finding], dockerfile: Dockerfile) -> str:
    """What a build fails with for its findings; empty: it goes on."""
    if not found or not rules(dockerfile).fatal:
        return ""
    names = dict.fromkeys(each.rule for each in found)
    return f"lint violation found for rules: {', '.join(names)}"


def report(found: list[Finding], source: Source) -> str:
    """As `docker build --check` prints it."""
    if not found:
        return "Check complete, no warnings found.\n"
    plural = "warning has" if len(found) == 1 else "warnings have"
    parts = [f"Check complete, {len(found)} {plural} been found!\n"]
    for each in found:
        parts.append(f"WARNING: {each.rule} - {each.url}\n{each.text}\n{source.excerpt(each.span)}\n")
    return "\n".join(parts)


class _Scope:
    """What is set in a stage: its own and, by reference, that of the one it is FROM. There may be thousands."""

    def __init__(self, below: _Scope | None) -> None:
        self._below = below
        self.known: bool = below is not None and below.known
        """Whether all variables are, since the image is."""
        self.variables: set[str] = set()
        """Of ENV, and of ARG with a value: what could be meant by another name."""
        self.declared: set[str] = set()
        """By ARG."""
        self.directory: bool = below is not None and below.directory
        """Whether a WORKDIR was."""
        self.shell: bool = below is not None and below.shell

    def _all(self) -> Iterator[_Scope]:
        scope: _Scope | None = self
        while scope is not None:
            yield scope
            scope = scope._below

    def has(self, name: str) -> bool:
        return any(name in each.variables or name in each.declared for each in self._all())

    def options(self) -> set[str]:
        return set().union(*(each.variables for each in self._all()))


@dataclass
class _Checker:
    dockerfile: Dockerfile
    arguments: Mapping[str, str | None]
    seen: Seen | None
    ignore: Ignore | None
    lexer: Lexer = field(init=False)
    scopes: dict[str, _Scope] = field(default_factory=dict)
    """By stages' names."""

    def __post_init__(self) -> None:
        self.lexer = Lexer(self.dockerfile.directives.escape)

    def run(self) -> Iterator[Finding]:
        for span in self.dockerfile.empty_continuations:
            yield Finding("NoEmptyContinuation", "Empty continuation line", span)
        yield from self._casing()
        yield from self._stages()
        for number, stage in enumerate(self.dockerfile.stages):
            yield from self._stage(number, stage)

    def _casing(self) -> Iterator[Finding]:
        everything = [*self.dockerfile.metaargs]
        named: list[ins.Base] = list(everything)
        for stage in self.dockerfile.stages:
            named += [stage, *stage.commands]
        upper = sum(each.name == each.name.upper() for each in named)
        lower = sum(each.name == each.name.lower() for each in named)
        majority = "lowercase" if lower > upper else "uppercase"
        for each in named:
            yield from self._described(each)
            if isinstance(each, ins.Maintainer):
                text = "Maintainer instruction is deprecated in favor of using label"
                yield Finding("MaintainerDeprecated", text, each.span)
            wanted = each.name.lower() if majority == "lowercase" else each.name.upper()
            if each.name != wanted:
                text = f"Command '{each.name}' should match the case of the command majority ({majority})"
                yield Finding("ConsistentInstructionCasing", text, each.span)

    @staticmethod
    def _described(command: ins.Base) -> Iterator[Finding]:
        if isinstance(command, ins.Stage):
            verb, names = "FROM", [command.alias] if command.alias else []
        elif isinstance(command, ins.Arg):
            verb, names = "ARG", [pair.key for pair in command.pairs]
        else:
            return
        if command.comments and names and command.comments[-1].split(" ")[0] not in names:
            example = names[0] if len(names) == 1 else "<arg_key>"
            text = f"Comment for {verb} should follow the format: `# {example} <description>`"
            yield Finding("InvalidDefinitionDescription", text, command.span)

    def _stages(self) -> Iterator[Finding]:
        seen: set[str] = set()
        declared = {pair.key: pair.value for arg in self.dockerfile.metaargs for pair in arg.pairs}
        for stage in self.dockerfile.stages:
            words = stage.original.split()
            yield from self._stage_name(stage, words, seen)
            yield from self._from_arguments(stage, declared)
            yield from self._platform(stage)

    def _stage_name(self, stage: ins.Stage, words: list[str], seen: set[str]) -> Iterator[Finding]:
        if not stage.alias:
            return
        written, keyword = words[-1], words[-2]
        if written != written.lower():
            yield Finding("StageNameCasing", f"Stage name '{written}' should be lowercase", stage.span)
        if _case(keyword) != _case(stage.name):
            text = f"'{keyword}' and '{stage.name}' keywords' casing do not match"
            yield Finding("FromAsCasing", text, stage.span)
        if stage.alias in RESERVED:
            text = f'Stage name should not use the same name as reserved stage "{stage.alias}"'
            yield Finding("ReservedStageName", text, stage.span)
        if stage.alias in seen:
            text = f'Duplicate stage name "{stage.alias}", stage names should be unique'
            yield Finding("DuplicateStageName", text, stage.span)
        seen.add(stage.alias)

    def _from_arguments(self, stage: ins.Stage, declared: Mapping[str, str | None]) -> Iterator[Finding]:
        known = {**dict.fromkeys(PREDEFINED, ""), **declared}
        values = {name: value or "" for name, value in declared.items()}
        for text in (stage.base, stage.platform):
            for name in self._used(text):
                if name not in known:
                    hint = nearest(name, tuple(known))
                    yield Finding(
                        "UndefinedArgInFrom", f"FROM argument '{name}' is not declared{hint}", stage.span
                    )
        if "$" in stage.base:
            try:
                base = self.lexer.word(stage.base, values)
            except DockerfileError:
                return
            if not re.fullmatch(r"[A-Za-z0-9][\w./:@-]*[\w]", base):
                text = f"Default value for ARG {stage.base} results in empty or invalid base image name"
                yield Finding("InvalidDefaultArgInFrom", text, stage.span)

    def _platform(self, stage: ins.Stage) -> Iterator[Finding]:
        if not stage.platform:
            return
        if stage.platform in ("$TARGETPLATFORM", "${TARGETPLATFORM}"):
            what = f"Setting platform to predefined {stage.platform} in FROM"
            text = f"{what} is redundant as this is the default behavior"
            yield Finding("RedundantTargetPlatform", text, stage.span)
        elif "$" not in stage.platform and not self._platform_in_alias(stage):
            text = f'FROM --platform flag should not use constant value "{stage.platform}"'
            yield Finding("FromPlatformFlagConstDisallowed", text, stage.span)

    @staticmethod
    def _platform_in_alias(stage: ins.Stage) -> bool:
        """A stage that is named after the platform means it."""
        parts = [part for part in stage.platform.lower().split("/") if part]
        return bool(stage.alias) and any(part in stage.alias for part in parts)

    def _used(self, text: str) -> tuple[str, ...]:
        return self.lexer.names(text)

    # -- inside a stage

    def _stage(self, number: int, stage: ins.Stage) -> Iterator[Finding]:
        last = None if self.seen is None else self.seen.lines.get(number, 0)
        commands = [each for each in stage.commands if last is None or each.span.first <= last]
        image = None if self.seen is None else self.seen.bases.get(number)
        if image is not None and image.expected != image.actual:
            text = f'Base image {image.reference} was pulled with platform "{image.actual}", expected '
            yield Finding(
                "InvalidBaseImagePlatform", f'{text}"{image.expected}" for current build', stage.span
            )
        scope = _Scope(self.scopes.get(stage.base.lower()))
        if image is not None or stage.base.lower() == "scratch":
            scope.known = True
            scope.variables = set(image.variables if image else ()) | ALWAYS_SET
            scope.shell = bool(image and image.shell)
        for command in commands:
            yield from self._simple(command, scope.shell)
            if scope.known:
                yield from self._undefined(command, scope)
            if isinstance(command, ins.Workdir):
                if not scope.directory and not command.path.startswith("/") and "$" not in command.path:
                    text = f'Relative workdir "{command.path}" can have unexpected results if the base image changes'
                    yield Finding("WorkdirRelativePath", text, command.span)
                scope.directory = True
            elif isinstance(command, ins.Shell):
                scope.shell = True
            elif isinstance(command, ins.Env):
                scope.variables |= {pair.key for pair in command.pairs}
            elif isinstance(command, ins.Arg):
                scope.declared |= {pair.key for pair in command.pairs}
                given = {pair.key for pair in command.pairs if pair.value or self.arguments.get(pair.key)}
                scope.variables |= given
        yield from self._repeated(commands)
        if stage.alias:
            self.scopes[stage.alias] = scope

    def _repeated(self, commands: list[ins.Command]) -> Iterator[Finding]:
        for kind in (ins.Cmd, ins.Entrypoint, ins.HealthCheck):
            same = [command for command in commands if isinstance(command, kind)]
            for command in same[:-1]:
                text = (
                    f"Multiple {command.name.upper()} instructions should not be used in the same stage because only "
                    "the last one will be used"
                )
                yield Finding("MultipleInstructionsDisallowed", text, command.span)

    def _simple(self, command: ins.Command, shell: bool) -> Iterator[Finding]:
        """`shell`: somebody has chosen one."""
        verb = command.name.upper()
        match command:
            case ins.Cmd() | ins.Entrypoint() if command.shell and not shell:
                text = f"JSON arguments recommended for {verb} to prevent unintended behavior related to OS signals"
                yield Finding("JSONArgsRecommended", text, command.span)
            case ins.Expose():
                yield from self._expose(command)
            case ins.Copy() | ins.Add():
                yield from self._ignored(command)
            case ins.Env() | ins.Label() | ins.Arg():
                if any(pair.bare for pair in command.pairs):
                    text = f'"{verb} key=value" should be used instead of legacy "{verb} key value" format'
                    yield Finding("LegacyKeyValueFormat", text, command.span)
                if not isinstance(command, ins.Label):
                    for pair in command.pairs:
                        if _SECRET.search(pair.key) and not _PUBLIC.search(pair.key):
                            text = (
                                f'Do not use ARG or ENV instructions for sensitive data ({verb} "{pair.key}")'
                            )
                            yield Finding("SecretsUsedInArgOrEnv", text, command.span)

    def _expose(self, command: ins.Expose) -> Iterator[Finding]:
        for port in command.ports:
            if "$" in port:
                continue
            kind = port.partition("/")[2]
            if kind and kind != kind.lower():
                text = f"Defined protocol '{port}' in EXPOSE instruction should be lowercase"
                yield Finding("ExposeProtoCasing", text, command.span)
            if not _EXPOSE.fullmatch(port):
                text = (
                    f"EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
                )
                yield Finding("ExposeInvalidFormat", text, command.span)

    def _ignored(self, command: ins.Copy | ins.Add) -> Iterator[Finding]:
        if self.ignore is None or (isinstance(command, ins.Copy) and command.origin):
            return
        for source in command.sources:
            path = source.strip("/").removeprefix("./").rstrip("/")
            if path and "*" not in path and "$" not in path and self.ignore.ignored(path):
                verb = command.name.title()
                text = f'Attempting to {verb} file "{source}" that is excluded by .dockerignore'
                yield Finding("CopyIgnoredFile", text, command.span)

    def _undefined(self, command: ins.Command, scope: _Scope) -> Iterator[Finding]:
        own = {pair.key for pair in command.pairs} if isinstance(command, ins.Arg) else set()
        for text in _expanded(command, self.arguments):
            for name in self._used(text):
                if name in own:
                    continue  # ARG takes one after the other
                if not scope.has(name):
                    hint = nearest(name, sorted(scope.options()), fold=False).replace(
                        "did you mean ", "did you mean $"
                    )
                    yield Finding(
                        "UndefinedVar", f"Usage of undefined variable '${name}'{hint}", command.span
                    )


def _case(word: str) -> str:
    return "upper" if word == word.upper() else "lower" if word == word.lower() else "mixed"


def _expanded(command: ins.Command, given: Mapping[str, str | None]) -> list[str]:
    """The texts of an instruction that the builder expands."""
    match command:
        case ins.Env() | ins.Label():
            return [text for pair in command.pairs for text in (pair.key, pair.value or "")]
        case ins.Arg():
            own = [pair.value or "" for pair in command.pairs if pair.key not in given]
            return [*(pair.key for pair in command.pairs), *own]
        case ins.Run():
            return [text for mount in command.mounts for text in (mount.target, mount.source, mount.id)]
        case ins.Copy() | ins.Add():
            inline = [head.text for head in command.heredocs if head.expand]
            return [*command.sources, command.target, command.chown, command.chmod, *inline]
        case ins.Workdir():
            return [command.path]
        case ins.User():
            return [command.user]
        case ins.StopSignal():
            return [command.signal]
        case ins.Volume():
            return list(command.paths)
    return []
