"""The one error hierarchy of pyd. The lowest layer owns it so that every layer may raise it.

    PydError                      HTTP   raised when
    ├── NotModified               304    the container already is in the state asked for
    ├── InvalidArgument           400    the caller's value is malformed, unknown or out of range
    ├── Unauthenticated           401    a registry wants (other) credentials
    ├── Forbidden                 403    the operation is understood and refused (in use, read-only, denied)
    ├── NotFound                  404    no such container, image, network, volume, exec, path ...
    ├── Conflict                  409    the object's state or name rules the operation out
    ├── Gone                      410    the object existed and does no more
    ├── Internal                  500    pyd or the kernel failed
    │   ├── DataCorrupted         500    a digest, size or archive does not hold what it claims
    │   └── NoSpace               500    the file system is full
    ├── NotImplementedYet         501    Docker has this operation, this engine does not have it yet
    └── Unavailable               503    a peer (registry, supervisor, swarm) cannot be reached or used

`api/errors.py` maps it to statuses in one table. Messages follow Docker's texts, name the offending
value and go to the user as they are.
"""


class PydError(Exception):
    """Base of everything pyd raises on purpose; `str(error)` is the user's message."""

    status = 500

    @property
    def message(self) -> str:
        return str(self)


class NotModified(PydError):
    status = 304


class InvalidArgument(PydError):
    status = 400


class Unauthenticated(PydError):
    status = 401


class Forbidden(PydError):
    status = 403


class NotFound(PydError):
    status = 404


class Conflict(PydError):
    status = 409


class Gone(PydError):
    status = 410


class Internal(PydError):
    status = 500


class DataCorrupted(Internal):
    pass


class NoSpace(Internal):
    pass


class NotImplementedYet(PydError):
    status = 501


class Unavailable(PydError):
    status = 503
