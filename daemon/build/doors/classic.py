"""The classic door's side of a build: `Step 1/4 : FROM ...` as people know it.

Steps run side by side; what is shown is in order, each step's output whole, as if they had not. (moby
builder/dockerfile/dispatchers.go and evaluator.go for the texts.)
"""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import AsyncIterator, Callable
from typing import Any

from daemon.build.bench import Bench
from daemon.build.doors.building import INLINE_CACHE, Building, explain_unused
from daemon.build.frontend.terms import Built, Step
from daemon.build.graph import Exec, File, Source, digest_of
from daemon.build.imageconfig import readable
from daemon.build.request import BuildRequest
from daemon.build.solver.processes import ProcessFailed
from daemon.build.solver.solve import StepFailed
from daemon.build.steps import Progress
from daemon.containers.context import Context
from storage.errors import PydError

Say = Callable[[dict[str, Any]], None]
_MOST_SHOWN = 20_000


class ClassicBuild:
    def __init__(self, bench: Bench, request: BuildRequest, say: Say, ctx: Context) -> None:
        self._bench, self._request, self._raw_say, self._ctx = bench, request, say, ctx
        self._step = 0
        self._shown: set[str] = set()
        self._mark = ""

    async def run(self, body: AsyncIterator[bytes]) -> None:
        """Raises what is wrong before anything was shown; says the rest, and the end only when all is tidy."""
        try:
            async with Building(self._bench, self._request, self._ctx, self._say) as building:
                dockerfile = await building.receive(body)
                if self._request.check:
                    self._check(dockerfile)
                    return
                await self._build(building, await building.plan(dockerfile))
        except StepFailed as failed:
            self._failed(failed)

    def _say(self, line: dict[str, Any]) -> None:
        if not self._request.quiet or "error" in line or "aux" in line:
            self._raw_say(line)

    def _text(self, text: str) -> None:
        self._say({"stream": readable(text)})

    def _check(self, dockerfile: Any) -> None:
        from daemon.build.dockerfile import checks

        found = checks.run(dockerfile, self._request.arguments)
        self._raw_say({"stream": checks.report(found, dockerfile.source)})
        if violation := checks.violation(found, dockerfile):
            self._raw_say({"errorDetail": {"message": violation}, "error": violation})

    async def _build(self, building: Building, built: Built) -> None:
        solving = asyncio.ensure_future(building.solve(built))
        showing = asyncio.ensure_future(self._show(building, built))
        try:
            await asyncio.wait((solving, showing), return_when=asyncio.FIRST_COMPLETED)
            if solving.done() and solving.exception() is not None:
                showing.cancel()
                await asyncio.gather(showing, return_exceptions=True)
            result = await solving
            await showing
        finally:
            for task in (solving, showing):
                task.cancel()
            await asyncio.gather(solving, showing, return_exceptions=True)
        image = await building.export(built, result)
        self._say({"aux": {"ID": image.id}})
        if unused := [name for name in built.unused_arguments if name != INLINE_CACHE]:
            self._text(explain_unused(unused))
        if self._request.quiet:
            self._raw_say({"stream": f"{image.id}\n"})
        self._text(f"Successfully built {image.id.partition(':')[2][:12]}\n")
        for name in building.names:
            self._text(f"Successfully tagged {name.familiar}\n")

    async def _show(self, building: Building, built: Built) -> None:
        for step in built.steps:
            self._head(step, len(built.steps))
            if step.output is None:
                self._text(" ---> \n")
                continue
            progress = building.job.of(step.output.vertex)
            if not step.builds:
                self._configured(step)
                self._text(f" ---> {_short(progress)}\n")
                continue
            await self._follow(progress)
            if progress.state == "failed":
                return  # the error comes by itself

    def _configured(self, step: Step) -> None:
        """An instruction without files is cached when it was shown before behind the same steps."""
        assert step.output is not None
        self._mark = digest_of([self._mark, step.stage, step.text, step.output.vertex.digest])
        seen = self._bench.shown
        if self._mark in seen and not self._request.no_cache:
            self._text(" ---> Using cache\n")
        if len(seen) > _MOST_SHOWN:
            seen.clear()
        seen[self._mark] = None

    def _head(self, step: Step, total: int) -> None:
        self._step += 1
        first = step.text.split("\n", 1)[0]
        self._text(f"Step {self._step}/{total} : {first}")
        self._text("\n")

    async def _follow(self, progress: Progress) -> None:
        """A step from its start to its end; cached ones say so."""
        if progress.vertex.digest in self._shown:
            self._text(f" ---> {_short(progress)}\n")
            return
        self._shown.add(progress.vertex.digest)
        announced = False
        sent = 0
        decoders = {n: codecs.getincrementaldecoder("utf-8")("replace") for n in (1, 2)}
        while True:
            changed = progress.changed
            process = isinstance(progress.vertex.operation, Exec)
            if process and progress.state != "waiting" and progress.state != "cached" and not announced:
                announced = True
                self._text(f" ---> Running in {_container(progress)}\n")
            while sent < len(progress.chunks):
                stream, data = progress.chunks[sent]
                if text := decoders[stream].decode(data):
                    self._text(text if stream == 1 else f"\x1b[91m{text}\x1b[0m")
                sent += 1
            if progress.over:
                break
            await changed.wait()
        if progress.state == "failed":
            return
        if progress.state == "cached" and not isinstance(progress.vertex.operation, Source):
            self._text(" ---> Using cache\n")
        elif announced:
            self._text(f" ---> Removed intermediate container {_container(progress)}\n")
        self._text(f" ---> {_short(progress)}\n")

    def _failed(self, failed: StepFailed) -> None:
        """The failing step's output if it was not shown, and the error as dockerd's builder words it."""
        progress, cause = failed.progress, failed.cause
        if failed.vertex.digest not in self._shown and isinstance(
            failed.vertex.operation, Exec | File | Source
        ):
            self._text(f"Step : {failed.vertex.about.name}\n")
            self._text(progress.tail().decode("utf-8", "replace"))
        elif progress.exit_code is not None and self._request.quiet:
            self._raw_say({"stream": progress.tail().decode("utf-8", "replace")})
        self._raw_say(_error(cause))


def _error(cause: PydError) -> dict[str, Any]:
    message = str(cause)
    message = readable(message)
    detail: dict[str, Any] = {"message": message}
    if isinstance(cause, ProcessFailed):
        command = readable(" ".join(cause.arguments))
        if "exit code" in message and "memory" not in message:
            message = f"The command '{command}' returned a non-zero code: {cause.exit_code}"
        detail = {"code": cause.exit_code, "message": message}
    return {"errorDetail": detail, "error": message}


def _short(progress: Progress) -> str:
    return progress.vertex.digest.partition(":")[2][:12]


def _container(progress: Progress) -> str:
    return progress.vertex.digest.partition(":")[2][12:24]
