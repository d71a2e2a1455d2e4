"""What vertices of a Dockerfile are called: `[linux/arm64 build 2/4] RUN make` (dockerfile2llb's prefixCommand)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from daemon.build.dockerfile import instructions as ins
from daemon.build.dockerfile.source import DockerfileError
from daemon.build.dockerfile.words import Lexer

MASK = "****"


@dataclass
class Naming:
    """Counts a stage's steps. `platform` and `stage` are empty where there is only one."""

    stage: str = ""
    total: int = 0
    platform: str = ""
    index: int = 0

    def following(self, text: str, *, trigger: bool = False) -> str:
        """The name of the next step."""
        if not self.total:
            return text
        self.index += 1
        return self.same(text, trigger=trigger)

    def same(self, text: str, *, trigger: bool = False) -> str:
        """Another name for the step that was named last."""
        if not self.total:
            return text
        number = str(self.index).rjust(len(str(self.total)))
        words = [word for word in (self.platform, self.stage) if word]
        return f"[{' '.join([*words, f'{number}/{self.total}'])}] {'ONBUILD ' if trigger else ''}{text}"


def steps(commands: tuple[ins.Command, ...]) -> int:
    """How many of a stage's instructions make something."""
    return sum(isinstance(each, ins.Run | ins.Copy | ins.Add | ins.Workdir) for each in commands)


def shown(command: ins.Command, lexer: Lexer, values: Mapping[str, str]) -> str:
    """The instruction as it was written, its variables expanded; as it is where that fails."""
    verb, _, rest = command.original.partition(" ")
    text = f"{verb.upper()} {rest}" if rest else verb.upper()
    if isinstance(command, ins.Run):
        hidden = {mount.env: MASK for mount in command.mounts if mount.env}
        values = {**values, **hidden}
        lexer = replace(lexer, raw_quotes=True, keep_unset=True)
        if command.heredocs:
            text += f" ({_summary(command.heredocs[0].content)})"
    if "$" not in text and isinstance(command, ins.Run):
        return text
    try:
        return lexer.word(text, values)
    except DockerfileError:
        return text


def _summary(document: str) -> str:
    lines = document.strip().splitlines() or [""]
    return lines[0] + ("..." if len(lines) > 1 else "")
