"""One build of a BuildKit client, from the order to the exporters' answer.

While it runs the client (or a front end here) works through it: solves definitions and front ends into references,
looks into them, and in the end returns a result. What is returned is then made sure of, attested and exported.

Source: BuildKit solver/llbsolver (solver.go, bridge.go), frontend/gateway/gateway.go, frontend/dockerui/build.go.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from daemon.build.bench import Bench, Job, Result
from daemon.build.dockerfile.ignore import lines
from daemon.build.dockerfile.source import MAX_SIZE
from daemon.build.doors.fronts import Front, FrontResult, Ref, UnsupportedSubrequest
from daemon.build.graph import Output
from daemon.build.outcome import BuildRecord, Made, Outcome, SourceUsed
from daemon.build.solver.entitlements import granted
from daemon.build.solver.solve import Solver
from daemon.build.steps import CANCELED, Remark
from daemon.images import platforms
from daemon.images.platforms import Platform
from storage.errors import Gone, InvalidArgument, NotFound, PydError, Unavailable

if TYPE_CHECKING:
    from daemon.build.doors.containers import Containers
    from daemon.build.doors.gateway import Order
    from daemon.build.llb import Known
    from daemon.build.proto import ops_pb2 as pb
    from daemon.build.proto.policy_pb2 import Policy
    from daemon.build.session.sessions import Session
    from daemon.build.sources.policy import SourcePolicies
    from daemon.containers.context import Context

CONFIG, PLATFORMS, EPOCH = "containerimage.config", "refs.platforms", "source.date.epoch"
"""Keys of a result's metadata (exporter/containerimage/exptypes)."""
T = TypeVar("T")


@dataclass(frozen=True)
class ImageFound:
    name: str
    """With its digest."""
    digest: str
    config: bytes


class Stopped(Unavailable):
    """The client is gone, or the build that a question was about."""

    def __init__(self) -> None:
        super().__init__(CANCELED)


class Bridge:
    """`async with`: everything the build holds is given back at the end, whatever happens."""

    def __init__(
        self, bench: Bench, ctx: Context, order: Order, body: AsyncIterator[bytes] | None = None
    ) -> None:
        """`body`: an archive, or a lone Dockerfile, that is the context."""
        self._body = body
        self._bench, self._ctx, self.order = bench, ctx, order
        ident = secrets.token_hex(8)
        self.job = Job(ident, bench.spool / f"build-{ident}", bench.store.lease())
        self.job.left = {}
        self.job.entitlements = granted(order.entitlements, ctx.config.builder.entitlements)
        self._refs: dict[str, Ref] = {}
        self._known: Known = {}
        self.client = Front(self, order.inputs)
        """The client, as a front end of its own."""
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._working: set[asyncio.Task[Any]] = set()
        self._over = False
        self._ready.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def __aenter__(self) -> Bridge:
        await asyncio.to_thread(self.job.directory.mkdir, mode=0o700, parents=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over = True
        await asyncio.shield(self._release())

    async def _release(self) -> None:
        working = list(self._working)
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
        self._ready.cancel()
        try:
            await self.client.leave()
            await self.job.stack.aclose()
        finally:
            self._forget_left()
            self.job.lease.release()
            self._bench.discard(self.job.directory)

    def _forget_left(self) -> None:
        snapshots = self._bench.store.snapshots
        for name in {each.snapshot for each in (self.job.left or {}).values() if each.snapshot}:
            with contextlib.suppress(PydError):  # in use, or gone: the collection knows
                snapshots.remove(name)
            self._bench.ctx.purge_wanted.set()

    async def trees(self, refs: Sequence[Ref]) -> list[Result]:
        """Makes references' trees, layers all of them."""
        await asyncio.shield(self._ready)
        return await Solver(self._bench, self.job).solve_all([each.output for each in refs])

    def containers(self) -> Containers:
        """A front end's own, none yet."""
        from daemon.build.doors.containers import Containers

        return Containers(self._bench, self.job, self)

    # -- the whole

    async def run(self) -> dict[str, str]:
        """The build itself; raises what it fails of. A client that goes takes it with it."""
        session = await self._session()
        self.job.sessions = (session,) if session else ()
        if session is None:
            return await self._run(None)
        working = asyncio.ensure_future(self._run(session))
        gone = asyncio.ensure_future(session.closed.wait())
        try:
            await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise Stopped
            return working.result()
        finally:
            for task in (working, gone):
                task.cancel()
            await asyncio.gather(working, gone, return_exceptions=True)

    async def _session(self) -> Session | None:
        return await self._bench.sessions.get(self.order.session) if self.order.session else None

    async def _run(self, session: Session | None) -> dict[str, str]:
        from daemon.build import attest, remotecache
        from daemon.build import export as exporting
        from daemon.build.sources.images import Images

        order, job = self.order, self.job
        exporting.check(order.exporters)
        remotecache.check(order.cache_exports)
        requests = attest.parse(order.attrs)
        attest.watch(self.job, requests)
        if order.policy is not None:
            self.job.policy = self._policies([order.policy])
        if self._body is not None:
            await self._receive(self._body)
        if order.cache_imports:
            await remotecache.import_caches(self._bench, job, order.cache_imports)
        job.resolver = Images(self._bench, job, self._ctx, credentials=job.credentials)
        self._ready.set_result(None)
        returned = await self._first()
        outcome = await self._outcome(returned)
        answer: dict[str, str] = {}
        record = self.record(outcome, returned)
        self.done = (outcome, record)
        statements = await attest.make(self._bench, job, self._ctx, outcome, record) if requests else []
        inline = None
        if any(kind == "inline" for kind, _ in order.cache_exports):
            inline = remotecache.inline(self._bench, job, outcome)
        for exporter in order.exporters:
            answer |= await exporting.export(
                self._bench, job, self._ctx, outcome, exporter, record, session, statements, inline
            )
        rest = [spec for spec in order.cache_exports if spec[0] != "inline"]
        if rest:
            answer |= await remotecache.export_caches(self._bench, job, outcome, rest, session)
        told = {name: value for name, value in returned.metadata.items() if name.startswith("frontend.")}
        return answer | {name: value.decode("utf-8", "replace") for name, value in told.items()}

    def _policies(self, more: Sequence[Policy]) -> SourcePolicies | None:
        """The build's own, and those of one call."""
        if not more:
            return self.job.policy
        from daemon.build.sources.policy import SourcePolicies

        return (self.job.policy or SourcePolicies()).and_also(more)

    async def _receive(self, body: AsyncIterator[bytes]) -> None:
        """The context from a request's body, without what .dockerignore names."""
        directory = self.job.directory / "context"
        directory.mkdir()
        workshop = self._bench.workshop
        await workshop.context(body, directory)
        dockerfile = self.order.attrs.get("filename") or "Dockerfile"
        names = (dockerfile, f"{dockerfile}.dockerignore", ".dockerignore")
        texts = []
        for name in names:
            found = await workshop.call("read", directory=str(directory), path=name, limit=MAX_SIZE)
            texts.append(None if found is None else base64.b64decode(found))
        own = self.job.directory / "dockerfile"  # it may be ignored, and is read all the same
        await asyncio.to_thread(_write, own, dict(zip(names, texts, strict=True)))
        if ignore := texts[1] or texts[2]:
            patterns = lines(ignore.decode("utf-8", "replace"))
            await workshop.call("prune", directory=str(directory), patterns=patterns)
        self.job.contexts |= {"context": directory, "dockerfile": own}

    async def _first(self) -> FrontResult:
        """What is to be exported: the client's result, or that of the front end it named."""
        order = self.order
        if order.frontend or order.definition is not None:
            return await self._solved(order.frontend, order.attrs, order.definition, order.inputs)
        return await self.client.returned()

    async def _outcome(self, returned: FrontResult) -> Outcome:
        named = _platforms(returned.metadata)
        order = {name: place for place, name in enumerate(named)}
        pairs = [(name, ref) for name, ref in returned.each() if ref is not None or returned.refs is not None]
        pairs.sort(key=lambda pair: order.get(pair[0], 0))  # a map has no order on the wire
        results = await Solver(self._bench, self.job).solve_all(
            [ref.output if ref else None for _, ref in pairs]
        )
        made = []
        for number, ((name, _), result) in enumerate(zip(pairs, results, strict=True)):
            platform = (
                named.get(name) or (list(named.values())[number : number + 1] or [platforms.local()])[0]
            )
            text = returned.metadata.get(f"{CONFIG}/{name}" if name else CONFIG)
            made.append(Made(platform, result, _document(text)))
        return Outcome(tuple(made), returned.refs is not None, dict(returned.metadata))

    def record(self, outcome: Outcome, returned: FrontResult) -> BuildRecord:
        """What history and provenance tell of the build, so far."""
        job, order = self.job, self.order
        images = {
            name.removeprefix("docker-image://"): digest
            for name, digest in job.resolved.items()
            if name.startswith("docker-image://")
        }
        sources = [
            SourceUsed(name, digest)
            for name, digest in job.resolved.items()
            if not name.startswith("docker-image://")
        ]
        attrs = dict(self._front[1]) if self._front else dict(order.attrs)
        attrs |= {name: value for name, value in order.attrs.items() if name not in attrs}
        return BuildRecord(
            ref=order.ref,
            frontend=self._front[0] if self._front else order.frontend,
            attrs=attrs,
            started=job.started,
            finished=time.time_ns(),
            locals=_locals(job),
            images=images,
            sources=tuple(sources),
            outputs=tuple(self._read(ref.output if ref else None) for _, ref in returned.each()),
            scans=tuple(ref.scans if ref else {} for _, ref in returned.each()),
        )

    def _read(self, output: Output | None) -> Output | None:
        """With the sources that were read."""
        return self.job.policy.applied([output])[0] if self.job.policy else output

    done: tuple[Outcome, BuildRecord] | None = None
    """What was solved."""
    _front: tuple[str, Mapping[str, str]] | None = None
    """The front end that was asked for first, and its attributes."""

    @property
    def front(self) -> tuple[str, Mapping[str, str]]:
        return self._front or (self.order.frontend, self.order.attrs)

    async def provenance(self) -> list[tuple[str, str, bytes]]:
        """Of a build that is over, all that is known: (platform, predicate's type, predicate)."""
        from daemon.build import attest

        if self.done is None:
            return []
        outcome, record = self.done
        plain = {name: value for name, value in record.attrs.items() if "attest" not in name.lower()}
        asked = replace(record, attrs=plain | {"attest:provenance": "mode=max"}, finished=time.time_ns())
        made = await attest.make(self._bench, self.job, self._ctx, outcome, asked)
        return [
            (str(outcome.made[each.platform_index].platform), each.predicate_type, each.predicate)
            for each in made
        ]

    # -- what front ends ask for

    async def attend(self, work: Coroutine[Any, Any, T]) -> T:
        """Work that belongs to the build: it ends with the build, and the build with it."""
        if self._over:
            work.close()
            raise Gone(f"no such job {self.order.ref}")
        task = asyncio.ensure_future(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        try:
            return await task
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if me is None or me.cancelling():
                raise
            raise Stopped from None  # the build ended, not its caller
        finally:
            task.cancel()

    async def solve(
        self,
        frontend: str,
        attrs: Mapping[str, str],
        definition: pb.Definition | None,
        inputs: Mapping[str, pb.Definition],
        *,
        evaluate: bool = False,
        policies: Sequence[Policy] = (),
    ) -> FrontResult:
        """References for a definition, or for what a front end makes of its attributes.

        `policies`: for the definition, besides the build's own.
        """
        await asyncio.shield(self._ready)
        found = await self._solved(frontend, attrs, definition, inputs)
        if policies and not frontend and found.ref is not None and (under := self._policies(policies)):
            found = FrontResult(ref=self._keep(under.applied([found.ref.output])[0]))
        if evaluate:
            await self._trees([ref for _, ref in found.each()])
        return found

    async def _solved(
        self,
        frontend: str,
        attrs: Mapping[str, str],
        definition: pb.Definition | None,
        inputs: Mapping[str, pb.Definition],
    ) -> FrontResult:
        from daemon.build import llb
        from daemon.build.doors import frontends

        if definition is not None and (definition.ops or not frontend):
            output = llb.decode(definition, self._known) if definition.ops else None
            return FrontResult(ref=self._keep(output) if output else None)
        if not frontend:
            return FrontResult()
        if frontend not in ("dockerfile.v0", "gateway.v0"):
            raise NotFound(f"frontend not found: {frontend}")
        given = {name: llb.decode(each, self._known) for name, each in inputs.items()}
        if frontend == "gateway.v0" and not frontends.built_in(frontends.source(attrs)):
            return await self._image_front_end(attrs, inputs, given)
        return await self._dockerfile(attrs, inputs, given)

    async def _image_front_end(
        self,
        attrs: Mapping[str, str],
        inputs: Mapping[str, pb.Definition],
        given: Mapping[str, Output | None],
    ) -> FrontResult:
        from daemon.build.doors import frontends

        self._front = self._front or ("gateway.v0", attrs)
        return await frontends.run(self._bench, self.job, self._ctx, Front(self, inputs), attrs, given)

    async def _dockerfile(
        self,
        attrs: Mapping[str, str],
        inputs: Mapping[str, pb.Definition],
        given: Mapping[str, Output | None],
    ) -> FrontResult:
        """The front end dockerfile.v0, or the image that its file names as another."""
        from daemon.build.doors import frontends
        from daemon.build.frontend import planning

        refusal = frontends.refusal(attrs)
        if refusal is not None and not refusal.forward:
            raise refusal
        planned_for = {name: value for name, value in attrs.items() if name not in ("source", "cmdline")}
        planner = planning.begin(self._bench, self.job, self._ctx, planned_for, given)
        if (other := await frontends.other(planner, attrs)) is not None:
            with other.blamed():
                return await self._image_front_end(other.attrs, inputs, given)
        if refusal is not None:
            raise refusal
        self._front = self._front or ("dockerfile.v0", planned_for)
        if request := attrs.get("requestid"):
            answer = await planner.subrequest(request)
            if answer is None:
                raise UnsupportedSubrequest(request)
            return FrontResult(metadata=answer)
        planned = await planner.plan()
        several = planning.multi(attrs)
        metadata: dict[str, bytes] = {}
        refs: dict[str, Ref] = {}
        shown = []
        for each in planned:
            name = str(each.platform)
            suffix = f"/{name}" if several else ""
            metadata[CONFIG + suffix] = json.dumps(each.built.document, separators=(",", ":")).encode()
            if each.built.epoch is not None:
                metadata[EPOCH + suffix] = str(each.built.epoch // 1_000_000_000).encode()
            refs[name] = self._keep(each.built.output, each.built.scans)
            shown.append({"ID": name, "Platform": _spec(each.platform)})
        metadata[PLATFORMS] = json.dumps({"Platforms": shown}, separators=(",", ":")).encode()
        if several:
            return FrontResult(refs=refs, metadata=metadata)
        return FrontResult(ref=next(iter(refs.values())), metadata=metadata)

    def _keep(self, output: Output | None, scans: Mapping[str, Output | None] | None = None) -> Ref:
        if output is None:
            return Ref("")
        ref = Ref(secrets.token_hex(12), output, scans or {})
        self._refs[ref.id] = ref
        return ref

    def ref(self, id: str) -> Ref:
        """NotFound for one that this build did not give."""
        if not id:
            return Ref("")
        if (found := self._refs.get(id)) is None:
            raise NotFound(f"no such ref: {id}")
        return found

    def definition(self, ref: Ref) -> pb.Definition:
        """A reference's graph, for clients that build upon it elsewhere."""
        from daemon.build import llb

        return llb.encode(ref.output, self._known)

    async def evaluate(self, id: str) -> Result:
        """Makes the tree of a reference."""
        return (await self._trees([self.ref(id)]))[0]

    async def _trees(self, refs: list[Ref | None]) -> list[Result]:
        await asyncio.shield(self._ready)
        return await Solver(self._bench, self.job).trees([ref.output if ref else None for ref in refs])

    async def read_file(self, id: str, path: str, offset: int = 0, length: int = 0) -> bytes:
        """A file of a reference's tree; `length` 0: to its end."""
        found: str = await self._look(id, "tree_read", path=path, offset=offset, length=length)
        return base64.b64decode(found)

    async def read_directory(self, id: str, path: str, pattern: str = "") -> list[dict[str, Any]]:
        """Members of fsutil's Stat for each entry."""
        found: list[dict[str, Any]] = await self._look(id, "tree_list", path=path, pattern=pattern)
        return found

    async def stat_file(self, id: str, path: str) -> dict[str, Any]:
        found: dict[str, Any] = await self._look(id, "tree_stat", path=path)
        return found

    async def _look(self, id: str, operation: str, **arguments: Any) -> Any:
        """A question to the worker about a reference's tree (daemon.build.files.looking)."""
        tree = self._bench.overlay(await self.evaluate(id))
        return await self._bench.workshop.call(operation, tree=tree, **arguments)

    def source(
        self, identifier: str, attributes: Mapping[str, str], policies: Sequence[Policy]
    ) -> tuple[str, dict[str, str]]:
        """What would be read (resolving.py). `policies`: besides the build's own."""
        from daemon.build.doors.resolving import allowed

        return allowed(self._policies(policies), identifier, attributes)

    async def image(
        self,
        name: str,
        platform: Platform | None,
        mode: str,
        policies: Sequence[Policy] = (),
        shown: str = "",
    ) -> ImageFound:
        """What an image's name means, and its configuration. `policies`: besides the build's own; `shown`: the step."""
        from daemon.build.sources.images import Images

        await asyncio.shield(self._ready)
        step = shown or f"resolve image config for docker-image://{name}"
        images = Images(
            self._bench, self.job, self._ctx, mode or "default", self.job.credentials,
            lambda _: self.job.step(step), worded=False, policy=self._policies(policies),
        )  # fmt: skip
        found = await images.image(name, str(platform) if platform else "")
        pinned = found.identifier.removeprefix("docker-image://")
        config = json.dumps(found.config, separators=(",", ":")).encode()
        return ImageFound(pinned, pinned.partition("@")[2], config)

    def warn(self, digest: str, remark: Remark) -> None:
        """The front end's own remark, at the vertex it names (by the digest of its operation), else at the first."""
        job = self.job
        if (named := self._known.get((digest, 0))) is not None:
            job.of(named.vertex).warn(remark)
            return
        progress = job.progress.get(digest) or job.feed.first
        if progress is not None:
            progress.warn(remark)


def _write(directory: Path, files: Mapping[str, bytes | None]) -> None:
    for name, data in files.items():
        if data is not None:
            path = directory / os.path.normpath(f"/{name}").lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def _document(text: bytes | None) -> dict[str, Any] | None:
    if not text:
        return None
    with contextlib.suppress(ValueError):
        found = json.loads(text)
        if isinstance(found, dict):
            return found
    raise InvalidArgument("failed to unmarshal the image config")


def _platforms(metadata: Mapping[str, bytes]) -> dict[str, Platform]:
    """IDs of platforms to these, as the front end ordered them."""
    text = metadata.get(PLATFORMS)
    if not text:
        return {}
    try:
        entries = json.loads(text)["Platforms"] or []
        found = {}
        for each in entries:
            spec = each["Platform"]
            found[each["ID"]] = Platform(spec["os"], spec["architecture"], spec.get("variant", ""))
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidArgument("failed to parse platforms passed to exporter") from error
    return found


def _spec(platform: Platform) -> dict[str, str]:
    spec = {"architecture": platform.architecture, "os": platform.os}
    return spec | {"variant": platform.variant} if platform.variant else spec


def _locals(job: Job) -> tuple[str, ...]:
    """Names of the client's directories that were read."""
    names: dict[str, None] = {}
    for progress in job.progress.values():
        identifier = getattr(progress.vertex.operation, "identifier", "")
        if identifier.startswith("local://"):
            names[identifier.removeprefix("local://")] = None
    return tuple(names)
