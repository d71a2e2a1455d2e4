"""BuildKit's definitions (solver/pb/ops.proto) to this engine's graph and back.

`decode` makes vertices of a definition, `encode` a definition of vertices. A `Known` table remembers which vertex
an operation's digest stands for, so that what was encoded here comes back as the very vertex that it was, with
everything that the wire has no word for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.build.graph import Output

# Before the functions of these modules' names, which are not to be replaced by the modules.
from daemon.build.llb.decode import Decoder
from daemon.build.llb.encode import Encoder
from daemon.build.llb.known import Known

if TYPE_CHECKING:
    from daemon.build.proto import ops_pb2 as pb

__all__ = ["Known", "decode", "encode"]


def decode(definition: pb.Definition, known: Known) -> Output | None:
    """The output that the definition is about; None is scratch. Adds to `known`. InvalidArgument says what is wrong."""
    return Decoder(definition, known).run()


def encode(output: Output | None, known: Known | None = None) -> pb.Definition:
    """The definition of an output, empty for scratch. Adds to `known`."""
    return Encoder({} if known is None else known).run(output)
