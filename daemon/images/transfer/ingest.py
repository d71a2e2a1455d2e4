"""A layer from any stream into the content store and a snapshot's directory, in one pass.

gzip and zstd blobs are kept as they came, so a later push sends the same bytes; everything else is
compressed with gzip while it passes, and the archive that its diff ID names can be had back exactly.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from isal import isal_zlib

from daemon.images.manifests import DOCKER_LAYER, OCI_LAYER
from daemon.images.transfer.compression import LEVEL, Decompressed, Pushback, read_head, sniff
from storage import errors
from storage.content import BlobWriter, ContentStore
from storage.streams import Readable

PIECE = 1 << 20
MEDIA_TYPES = {"gzip": DOCKER_LAYER, "zstd": f"{OCI_LAYER}+zstd"}
ROOT = str(Path(__file__).parents[3])
_BOOT = (
    f"import sys; sys.path.insert(0, {ROOT!r})\n"
    "from daemon.images.transfer.unpack import main\n"
    "sys.exit(main())"
)
_PASSED_ON = ("PYD_FAILPOINTS", "LANG", "LC_ALL")


class WorkerStore(ContentStore):
    """The daemon's store as its worker uses it: opening it must not clear what others are writing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ingest = root / "ingest"
        self._blobs = root / "blobs"


@dataclass(frozen=True)
class Layer:
    """What became of a layer."""

    diff_id: str
    tar_size: int
    """Bytes of the uncompressed archive."""
    size: int
    """Bytes of the files in it: what Docker calls the layer's size."""
    blob: str
    blob_size: int
    media_type: str

    def fields(self) -> dict[str, Any]:
        return asdict(self)


def unpack_command(directory: Path) -> list[str]:
    return [sys.executable, "-I", "-c", _BOOT, str(directory), str(os.getpid())]


def unpack_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ}


def unpack_result(output: bytes, status: int) -> dict[str, Any]:
    """The unpack process's answer, or its error raised: dockerd's `failed to register layer: ..`."""
    try:
        answer = json.loads(output)
    except ValueError:
        raise errors.Internal(
            f"failed to register layer: unpack process ended with status {status}"
        ) from None
    if "error" in answer:
        kind = getattr(errors, answer["error"], errors.Internal)
        raise kind(f"failed to register layer: {answer['message']}")
    assert isinstance(answer, dict)
    return answer


class Unpacking:
    """The unpack process, fed by blocking writes."""

    def __init__(self, directory: Path):
        self._process = subprocess.Popen(
            unpack_command(directory),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=unpack_environment(),
            bufsize=0,
        )

    def write(self, data: bytes) -> None:
        """A process that has failed takes no more; finish() tells why."""
        pipe = self._process.stdin
        assert pipe is not None
        try:
            view = memoryview(data)
            while view:
                view = view[pipe.write(view) :]
        except BrokenPipeError:
            pass

    def finish(self) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        output = self._process.stdout.read()
        return unpack_result(output, self._process.wait())

    def __enter__(self) -> Unpacking:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()
        self._process.wait()


def ingest(
    source: Readable, directory: Path, store: ContentStore, report: Callable[[int], None] = lambda count: None
) -> Layer:
    """Stores and unpacks; `report` hears how many bytes of the source have been read."""
    counted = Counted(source, report)
    head = read_head(counted)
    compression = sniff(head)
    stream = Pushback(head, counted)
    with Unpacking(directory) as unpacking, store.writer() as blob:
        if compression in MEDIA_TYPES:
            _copy(stream, blob, unpacking)
        else:
            _compress(Decompressed(stream), blob, unpacking)
        size = blob.tell()
        result = unpacking.finish()
        digest = blob.commit()
    media_type = MEDIA_TYPES.get(compression, DOCKER_LAYER)
    return Layer(result["diff_id"], result["tar_size"], result["size"], digest, size, media_type)


def unpack_again(digest: str, media_type: str, directory: Path, store: ContentStore) -> Layer:
    """A layer whose blob is in the store already, for another place in another image."""
    with Unpacking(directory) as unpacking, store.open(digest) as blob:
        while piece := blob.read(PIECE):
            unpacking.write(piece)
        result = unpacking.finish()
    return Layer(
        result["diff_id"], result["tar_size"], result["size"], digest, store.size(digest), media_type
    )


def _copy(stream: Pushback, blob: BlobWriter, unpacking: Unpacking) -> None:
    while piece := stream.read(PIECE):
        blob.write(piece)
        unpacking.write(piece)


def _compress(plain: Readable, blob: BlobWriter, unpacking: Unpacking) -> None:
    compressor = isal_zlib.compressobj(level=LEVEL, wbits=31)
    while piece := plain.read(PIECE):
        if packed := compressor.compress(piece):
            blob.write(packed)
        unpacking.write(piece)
    blob.write(compressor.flush())


class Counted:
    """Tells how far a stream was read."""

    def __init__(self, source: Readable, report: Callable[[int], None]):
        self._source, self._report, self._count = source, report, 0

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._count += len(data)
        self._report(self._count)
        return data
