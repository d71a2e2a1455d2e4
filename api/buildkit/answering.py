"""What all services share: one answer to one question, and errors as BuildKit words them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any, NoReturn

from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.server import Stream

from daemon.build.doors import failure
from storage.errors import PydError

log = logging.getLogger("pyd.api")


@contextlib.asynccontextmanager
async def answering(stream: Stream[Any, Any]) -> AsyncIterator[Any]:
    """The request; what the block raises becomes the call's status."""
    request = await stream.recv_message()
    if request is None:
        raise GRPCError(Status.INVALID_ARGUMENT, "a request is missing")
    try:
        yield request
    except GRPCError:
        raise
    except Exception as error:
        if not isinstance(error, (PydError, OSError)):
            log.exception("a BuildKit request failed")
        raise grpc_error(error) from error


def grpc_error(error: BaseException) -> GRPCError:
    found = failure.status(error)
    return GRPCError(Status(found.code), found.message, list(found.details) or None)


def unimplemented(what: str) -> NoReturn:
    raise GRPCError(Status.UNIMPLEMENTED, f"{what} is not implemented by this engine")
