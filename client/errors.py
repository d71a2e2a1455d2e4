"""What can end a command, and the exit code it ends with.

    ClientError            1    the message is printed as it is
    ├── UsageError         125  a flag is unknown or its value malformed: message, usage line, hint
    ├── ArgumentsError     1    too few or too many arguments: message, usage line, hint
    ├── ApiError           1    the daemon answered with an error; carries the HTTP status
    └── ConnectionFailed   1    nobody answers at the daemon's address
    Exit                   n    end silently with the code n (a container's own code, for one)

`run` and `create` turn every ClientError into code 125, as docker does (docs: "docker run", exit status).
"""

from __future__ import annotations

import json


class ClientError(Exception):
    """Base: `str(error)` is printed on stderr and `code` is the exit code."""

    code = 1

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class UsageError(ClientError):
    code = 125


class ArgumentsError(ClientError):
    pass


class ApiError(ClientError):
    """An error in Docker's form, `{"message": ...}`, with its HTTP status."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"Error response from daemon: {detail}")
        self.status = status
        self.detail = detail

    @classmethod
    def of(cls, status: int, body: bytes) -> ApiError:
        """Of an answer; where it is not in Docker's form, whatever text came instead."""
        try:
            message = json.loads(body)["message"]
        except (ValueError, KeyError, TypeError):
            message = body.decode(errors="replace").strip() or f"request returned status {status}"
        return cls(status, str(message).strip())


class ConnectionFailed(ClientError):
    pass


class Exit(Exception):
    """Leave with this code and say nothing."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
