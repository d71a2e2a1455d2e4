"""libnftables in process: nft's own language in, one atomic transaction each, no tool spawned.

https://manpages.debian.org/libnftables: `nft_run_cmd_from_buffer` parses and commits a whole buffer as
one transaction. A context's socket belongs to the namespace of the thread that makes it. Not thread-safe.
"""

from __future__ import annotations

import ctypes
import json
from typing import Any

from storage.errors import Internal

OUTPUT_JSON = 1 << 4
LIBRARY = "libnftables.so.1"


class FirewallError(Internal):
    """The kernel or the parser refused a transaction; nothing of it took effect."""


class NoSuchObject(FirewallError):
    """A table, chain, set or element that a transaction names does not exist."""


class Nftables:
    """One libnftables context in the namespace of the thread that makes it."""

    def __init__(self) -> None:
        self._library = _load()
        self._context = self._library.nft_ctx_new(0)
        if not self._context:
            raise FirewallError("libnftables: no context")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def close(self) -> None:
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = None

    def run(self, commands: str) -> None:
        """Commit all commands or none."""
        self._library.nft_ctx_output_set_flags(self._context, 0)
        self._run(commands)

    def query(self, command: str) -> list[dict[str, Any]]:
        """The objects that a `list` command shows (libnftables-json(5)), without the metainfo."""
        self._library.nft_ctx_output_set_flags(self._context, OUTPUT_JSON)
        output = self._run(command)
        found: list[dict[str, Any]] = json.loads(output)["nftables"] if output else []
        return [item for item in found if "metainfo" not in item]

    def _run(self, commands: str) -> str:
        failed = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        output: bytes = self._library.nft_ctx_get_output_buffer(self._context) or b""
        error: bytes = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if failed:
            text = error.decode(errors="replace").strip()
            kind = NoSuchObject if "No such file" in text else FirewallError
            raise kind(f"nftables: {text or 'transaction failed'}")
        return output.decode()


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise FirewallError(f"{LIBRARY} is needed for bridge networks: {error}") from None
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_ctx_output_set_flags.restype = None
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error", "nft_ctx_free"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = ctypes.c_char_p
    return library
