"""What a registry's refusals mean. Texts are those that dockerd passes on from its client library.

Sources: distribution-spec "Error Codes"; github.com/docker/distribution registry/client/errors.go.
"""

from __future__ import annotations

import json
from http import HTTPStatus

from daemon.images.model import Json

_DEFAULT_TEXTS = {
    "UNAUTHORIZED": "authentication required",
    "DENIED": "requested access to the resource is denied",
    "TOOMANYREQUESTS": "too many requests",
    "MANIFEST_UNKNOWN": "manifest unknown",
    "NAME_UNKNOWN": "repository name not known to registry",
    "BLOB_UNKNOWN": "blob unknown to registry",
    "UNSUPPORTED": "The operation is unsupported.",
    "UNKNOWN": "unknown error",
}


NO_CREDENTIALS = "no basic auth credentials"


class RegistryError(Exception):
    """A transfer failed. `code` is the registry's error code, or one of ours in lower case:

    transport     no usable HTTP answer came (refused, reset, timed out, TLS)
    status        an answer that the protocol does not foresee
    credentials   the registry wants credentials and there are none
    corrupt       what came does not have the digest or size it should have
    """

    def __init__(self, code: str, message: str, retry: bool = False):
        super().__init__(message)
        self.code = code
        self.retry = retry
        """Whether trying again on the same endpoint makes sense."""

    def fields(self) -> Json:
        return {"code": self.code, "message": str(self), "retry": self.retry}

    @classmethod
    def of(cls, fields: Json) -> RegistryError:
        return cls(fields["code"], fields["message"], fields["retry"])


def refusal(status: int, body: bytes, challenge: str = "") -> RegistryError:
    """Turns an HTTP error answer into a RegistryError."""
    if "insufficient_scope" in challenge:
        return _coded("DENIED", _DEFAULT_TEXTS["DENIED"])
    if 400 <= status < 500:
        return _client_refusal(status, body)
    return RegistryError(
        "status", f"received unexpected HTTP status: {status_line(status)}", retry=status >= 500
    )


def _client_refusal(status: int, body: bytes) -> RegistryError:
    try:
        document = json.loads(body)
        problem = "no error details found in HTTP response body"
    except ValueError as error:
        document, problem = {}, _go_json_error(error, body)
    document = document if isinstance(document, dict) else {}
    if details := document.get("details"):
        code = {401: "UNAUTHORIZED", 429: "TOOMANYREQUESTS"}.get(status, "UNKNOWN")
        return _coded(code, str(details))
    errors = document.get("errors")
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else None
    if first is None:
        text = body.decode("utf-8", "replace")
        if status == 401:
            return _coded("UNAUTHORIZED", _DEFAULT_TEXTS["UNAUTHORIZED"])
        return RegistryError(
            "status", f"error parsing HTTP {status} response body: {problem}: {json.dumps(text)}"
        )
    code = str(first.get("code") or "UNKNOWN")
    return _coded(code, str(first.get("message") or _DEFAULT_TEXTS.get(code, "unknown error")))


def _coded(code: str, message: str) -> RegistryError:
    return RegistryError(code, f"{code.lower().replace('_', ' ')}: {message}")


def _go_json_error(error: ValueError, body: bytes) -> str:
    if not body.strip():
        return "unexpected end of JSON input"
    first = body.lstrip()[:1].decode("latin-1")
    return f"invalid character '{first}' looking for beginning of value"


def status_line(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
