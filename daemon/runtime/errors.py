"""The runtime's own error hierarchy; it imports nothing, so that the runtime stands alone.

RuntimeFailure
├── SpecError      the OCI configuration asks for something malformed or unsupported; names the field
├── LaunchError    the container's first process could not be made to run; has stage, errno, exit_code
│   └── Vanished   it died without a word: somebody killed it
└── StateError     the container (of `pyd-oci`) is not in the state the command needs
"""

from __future__ import annotations

EXIT_NOT_FOUND = 127
EXIT_NOT_EXECUTABLE = 126
EXIT_FAILED = 128


class RuntimeFailure(Exception):
    """Base of everything the runtime raises on purpose; `str(error)` is the user's message."""


class SpecError(RuntimeFailure):
    """A field of the OCI configuration is malformed or not supported."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class LaunchError(RuntimeFailure):
    """Starting a process failed at `stage`.

    `exit_code` is what `docker run` exits with: 127 when the executable was not found, 126 when it
    cannot be executed, 128 for everything else.
    """

    def __init__(self, message: str, *, stage: str, errno: int = 0, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.stage = stage
        self.errno = errno
        self.exit_code = exit_code


class Vanished(LaunchError):
    """A clone died before its program ran and never said why. A spare is replaced by a clone made for the start."""

    def __init__(self) -> None:
        super().__init__("the process died before it could start the program", stage="init")


class StateError(RuntimeFailure):
    """The container does not exist, exists already, or is in the wrong state."""
