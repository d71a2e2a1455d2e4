"""The build checks that BuildKit publishes (docs: "Build checks", frontend/dockerfile/linter/ruleset.go).

A Dockerfile turns rules off, or all findings into errors: `# check=skip=RuleA,RuleB;error=true`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

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
ALWAYS_SET = frozenset(
    name
    for base in ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
    for name in (base, base.upper())
) | {"PATH"}
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
    "RedundantTargetPlatform": "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the "
    "default behavior",
    "SecretsUsedInArgOrEnv": "Sensitive data should not be used in the ARG or ENV commands",
    "InvalidDefaultArgInFrom": "Default value for global ARG results in an empty or invalid base image name",
    "FromPlatformFlagConstDisallowed": "FROM --platform flag should not use a constant value",
    "CopyIgnoredFile": "Attempting to Copy file that is excluded by .dockerignore",
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


def run(
    dockerfile: Dockerfile,
    arguments: Mapping[str, str | None] | None = None,
    *,
    base_env: Mapping[str, frozenset[str]] | None = None,
    ignore: Ignore | None = None,
) -> list[Finding]:
    """All findings but the skipped ones, by line. `base_env`: names set by base images."""
    skipped, _ = _options(dockerfile)
    if "all" in skipped:
        return []
    checker = _Checker(dockerfile, arguments or {}, base_env or {}, ignore)
    found = [each for each in checker.run() if each.rule.lower() not in skipped]
    return sorted(found, key=lambda each: (each.span.first, each.span.last))


def fatal(found: list[Finding], dockerfile: Dockerfile) -> bool:
    return bool(found) and _options(dockerfile)[1]


def report(found: list[Finding], source: Source) -> str:
    """As `docker build --check` prints it."""
    if not found:
        return "Check complete, no warnings found.\n"
    plural = "warning has" if len(found) == 1 else "warnings have"
    parts = [f"Check complete, {len(found)} {plural} been found!\n"]
    for each in found:
        parts.append(f"WARNING: {each.rule} - {each.url}\n{each.text}\n{source.excerpt(each.span)}\n")
    return "\n".join(parts)


def _options(dockerfile: Dockerfile) -> tuple[frozenset[str], bool]:
    """`skip=A,B;error=true`"""
    skip: frozenset[str] = frozenset()
    error = False
    for part in dockerfile.directives.check.split(";"):
        key, _, value = part.partition("=")
        if key.strip().lower() == "skip":
            skip = frozenset(name.strip().lower() for name in value.split(","))
        elif key.strip().lower() == "error":
            error = value.strip().lower() in ("true", "1")
    return skip, error


@dataclass
class _Checker:
    dockerfile: Dockerfile
    arguments: Mapping[str, str | None]
    base_env: Mapping[str, frozenset[str]]
    ignore: Ignore | None
    lexer: Lexer = field(init=False)
    names: dict[str, set[str]] = field(default_factory=dict)
    """Stage alias to the variables that ENV set in it."""

    def __post_init__(self) -> None:
        self.lexer = Lexer(self.dockerfile.directives.escape)

    def run(self) -> Iterator[Finding]:
        for span in self.dockerfile.empty_continuations:
            yield Finding("NoEmptyContinuation", "Empty continuation line", span)
        yield from self._casing()
        yield from self._stages()
        for stage in self.dockerfile.stages:
            yield from self._stage(stage)

    def _casing(self) -> Iterator[Finding]:
        everything = [*self.dockerfile.metaargs]
        named: list[ins.Base] = list(everything)
        for stage in self.dockerfile.stages:
            named += [stage, *stage.commands]
        upper = sum(each.name == each.name.upper() for each in named)
        lower = sum(each.name == each.name.lower() for each in named)
        majority = "lowercase" if lower > upper else "uppercase"
        for each in named:
            wanted = each.name.lower() if majority == "lowercase" else each.name.upper()
            if each.name != wanted:
                text = f"Command '{each.name}' should match the case of the command majority ({majority})"
                yield Finding("ConsistentInstructionCasing", text, each.span)

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
        defaulted = {**values, **{n: v or "" for n, v in self.arguments.items() if n in declared}}
        for text in (stage.base, stage.platform):
            for name in self._used(text):
                if name not in known:
                    hint = nearest(name, tuple(known))
                    yield Finding(
                        "UndefinedArgInFrom", f"FROM argument '{name}' is not declared{hint}", stage.span
                    )
        if "$" in stage.base and all(name in declared for name in self._used(stage.base)):
            try:
                base = self.lexer.word(stage.base, values)
            except DockerfileError:
                return
            if not re.fullmatch(r"[A-Za-z0-9][\w./:@-]*[\w]", base) and defaulted:
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
        if "$" not in text:
            return ()
        try:
            return self.lexer.expansion(text, {}).used
        except DockerfileError:
            return ()

    # -- inside a stage

    def _stage(self, stage: ins.Stage) -> Iterator[Finding]:
        base = stage.base.lower()
        env = set(self.names.get(base, set())) | ALWAYS_SET | set(self.base_env.get(stage.base, ()))
        known_base = base == "scratch" or base in self.names or stage.base in self.base_env
        known = set(env)
        absolute = base in self.names and f"{base}/absolute" in self.names
        for command in stage.commands:
            yield from self._simple(command)
            if known_base:
                yield from self._undefined(command, known)
            if isinstance(command, ins.Workdir):
                if not command.path.startswith("/") and not absolute and "$" not in command.path:
                    text = f'Relative workdir "{command.path}" can have unexpected results if the base image changes'
                    yield Finding("WorkdirRelativePath", text, command.span)
                absolute = absolute or command.path.startswith("/")
            if isinstance(command, ins.Env):
                env |= {pair.key for pair in command.pairs}
            if isinstance(command, ins.Env | ins.Arg):
                known |= {pair.key for pair in command.pairs}
        yield from self._repeated(stage)
        if stage.alias:
            self.names[stage.alias] = env
            if absolute:
                self.names[f"{stage.alias}/absolute"] = set()

    def _repeated(self, stage: ins.Stage) -> Iterator[Finding]:
        for kind in (ins.Cmd, ins.Entrypoint, ins.HealthCheck):
            same = [command for command in stage.commands if isinstance(command, kind)]
            for command in same[:-1]:
                text = (
                    f"Multiple {command.name.upper()} instructions should not be used in the same stage because only "
                    "the last one will be used"
                )
                yield Finding("MultipleInstructionsDisallowed", text, command.span)

    def _simple(self, command: ins.Command) -> Iterator[Finding]:
        verb = command.name.upper()
        match command:
            case ins.Maintainer():
                text = "Maintainer instruction is deprecated in favor of using label"
                yield Finding("MaintainerDeprecated", text, command.span)
            case ins.Cmd() | ins.Entrypoint() if command.shell and command.words:
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

    def _undefined(self, command: ins.Command, known: set[str]) -> Iterator[Finding]:
        for text in _expanded(command):
            for name in self._used(text):
                defaulted = re.search(rf"\$\{{{re.escape(name)}:?[-+]", text)
                if name not in known and not defaulted:
                    hint = nearest(name, sorted(known), fold=False).replace("did you mean ", "did you mean $")
                    yield Finding(
                        "UndefinedVar", f"Usage of undefined variable '${name}'{hint}", command.span
                    )


def _case(word: str) -> str:
    return "upper" if word == word.upper() else "lower" if word == word.lower() else "mixed"


def _expanded(command: ins.Command) -> list[str]:
    """The texts of an instruction that the builder expands."""
    match command:
        case ins.Env() | ins.Label() | ins.Arg():
            return [pair.value for pair in command.pairs if pair.value]
        case ins.Copy() | ins.Add():
            inline = [head.text for head in command.heredocs if head.expand]
            return [*command.sources, command.target, command.chown, command.chmod, *inline]
        case ins.Workdir():
            return [command.path]
        case ins.User():
            return [command.user]
        case ins.StopSignal():
            return [command.signal]
        case ins.Expose():
            return list(command.ports)
        case ins.Volume():
            return list(command.paths)
    return []
