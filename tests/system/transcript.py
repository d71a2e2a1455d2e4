"""The same scene played with `docker` and with `pyd`: what both say must be equal, apart from what is new each time."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.system.host import Host

_NEW_EACH_TIME = (
    (re.compile(r"sha256:[0-9a-f]{64}"), "sha256:<digest>"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "<long id>"),
    (re.compile(r"\b[0-9a-f]{12}\b"), "<id>"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:\d\d)"), "<time>"),
    (re.compile(r"(Less than a second|About a minute|\d+ seconds?|\d+ minutes?)( ago)?"), "<while>"),
    (re.compile(r" {2,}"), "  "),
    (re.compile(r"\bpyd\b"), "docker"),
)


def normalised(text: str) -> str:
    for pattern, name in _NEW_EACH_TIME:
        text = pattern.sub(name, text)
    return text


@dataclass
class Client:
    """One of the two commands. Calling it runs it, checks its exit code and returns its output."""

    host: Host
    name: str
    config: str = ""
    said: list[tuple[str, ...]] = field(default_factory=list)

    def command(self, *arguments: str) -> list[str]:
        base = self.host._docker() if self.name == "docker" else self.host._pyd()
        return [*base, *(("--config", self.config) if self.config else ()), *arguments]

    def __call__(
        self, *arguments: str, input: bytes | None = None, code: int = 0, sorted_lines: bool = False
    ) -> str:
        """stdout, then stderr; both are noted for the comparison, `sorted_lines` where order is chance."""
        result = self.host.run(self.command(*arguments), input=input)
        out, err = (stream.decode(errors="replace") for stream in (result.stdout, result.stderr))
        assert result.returncode == code, f"{self.name} {arguments}: {result.returncode}\n{out}\n{err}"
        shown = [normalised(out), normalised(err)]
        if sorted_lines:
            shown = ["\n".join(sorted(text.splitlines())) for text in shown]
        self.said.append((normalised(" ".join(arguments)), *shown))
        return out + err

    def quietly(self, *arguments: str, input: bytes | None = None) -> bytes:
        """stdout, compared with nothing."""
        result = self.host.run(self.command(*arguments), input=input)
        assert result.returncode == 0, f"{self.name} {arguments}: {result.stdout!r}\n{result.stderr!r}"
        return result.stdout


def alike(host: Host, scene: Callable[[Client], None]) -> None:
    """Play `scene` with both commands and compare, step by step."""
    told = []
    for name in ("docker", "pyd"):
        client = Client(host, name)
        scene(client)
        told.append(client.said)
    for docker, pyd in zip(*told, strict=True):
        assert pyd == docker, f"docker: {docker}\npyd:    {pyd}"
