"""Every container, exec and system operation by raw request, beside what dockerd 28.5 answered.

tests/system/parity has the requests (scenario.py, fields.py) and dockerd's recorded answers (recorded.json; record.py
makes them anew). A difference that is meant stands in DIFFERENT with our status and the reason; one that has
gone fails too. One rule needs no entry: where dockerd answers a bad request with 500, we answer with 400 (or
404 for what is missing) and the same text.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.system.host import Host
from tests.system.parity import record
from tests.system.parity.steps import SHAPE

STEPS = record.named()
RECORDED: dict[str, dict[str, Any]] = json.loads(record.RECORDED.read_text())

_LATE = "refused at create; dockerd accepts it and the start fails"
_IGNORED = "refused; dockerd ignores it silently"
_NO_PS = "the recorded dockerd's root had no ps"
_NO_DIGESTS = "an image without digests has an empty list of them"
_VERSIONS = ("", "/v1.24", "/v1.30", "/v1.40", "/v1.43", "/v1.47")
_FIELDS = "/containers/create?name=x-"
DIFFERENT: dict[str, tuple[int, str]] = {
    "GET /containers/made/json [never started]": (200, "the default runtime is called pyd"),
    "GET /containers/run/top": (200, _NO_PS),
    "GET /containers/ice/top": (200, _NO_PS),
    "GET /containers/run/top?ps_args=-eo%20pid,comm": (200, _NO_PS),
    "GET /containers/run/top?ps_args=-eo%20comm [without pid]": (500, _NO_PS),
    "GET /containers/made/archive": (400, "dockerd's text lacks a space"),
    "PUT /containers/made/archive?path=": (400, "dockerd's text lacks a space"),
    "GET /containers/run/logs?stdout=1&since=x": (400, "says which parameter is wrong"),
    "GET /containers/run/stats?stream=0&one-shot=1": (200, "more of the kernel's counters, and the name"),
    "GET /info": (200, "no containerd; other runtimes"),
    "GET /v1.24/info": (200, "no containerd; other runtimes; no lists of Windows' layers"),
    **{f"GET {version}/version": (200, "run from source: no build time") for version in _VERSIONS},
    **{f"GET {version}/system/df": (200, _NO_DIGESTS) for version in _VERSIONS},
    "GET /v1.24/images/json": (200, _NO_DIGESTS),
    "GET /v1.30/images/json": (200, _NO_DIGESTS),
    "GET /v1.40/images/json": (200, _NO_DIGESTS),
    f"POST {_FIELDS}cgroup [cgroup]": (400, _IGNORED),
    f"POST {_FIELDS}console [console]": (400, _IGNORED),
    f"POST {_FIELDS}device-rule [device rule]": (400, _LATE),
    f"POST {_FIELDS}empty-image [empty image]": (400, _LATE),
    f"POST {_FIELDS}exposed-port [exposed port]": (400, _IGNORED),
    f"POST {_FIELDS}health [health]": (400, "refused; dockerd runs no check and says so in its log alone"),
    f"POST {_FIELDS}kernel-memory-tcp [kernel memory tcp]": (
        201,
        "ignored with a warning: the kernel lacks it",
    ),
    f"POST {_FIELDS}seccomp [seccomp]": (400, _LATE),
    f"POST {_FIELDS}ulimit [ulimit]": (400, _LATE),
    f"POST {_FIELDS}userns-mode [userns mode]": (400, _IGNORED),
    f"POST {_FIELDS}weight [weight]": (
        400,
        "out of range; dockerd discards it on kernels without the controller",
    ),
    f"POST {_FIELDS}weight-of-device [weight of device]": (400, "out of range; dockerd discards it"),
}


@pytest.fixture(scope="module")
def answers(host: Host) -> dict[str, Any]:
    """What pydd answers to the whole scenario."""
    return record.play(str(host.socket))


@pytest.mark.parametrize("name", RECORDED)
def test_pydd_answers_as_dockerd(answers: dict[str, Any], name: str) -> None:
    ours, theirs = answers[name], RECORDED[name]
    if name in DIFFERENT:
        status, reason = DIFFERENT[name]
        assert ours["status"] == status, (reason, ours)
        assert not alike(name, ours), f"no longer different, though it should be: {reason}"
    else:
        assert alike(name, ours), f"dockerd {json.dumps(theirs)}\npydd    {json.dumps(ours)}"


def test_the_recording_is_of_this_scenario(answers: dict[str, Any]) -> None:
    assert answers.keys() == RECORDED.keys()
    assert DIFFERENT.keys() <= RECORDED.keys()


def alike(name: str, ours: Any) -> bool:
    """As recorded; a bad request's status may be 400 for dockerd's 500."""
    theirs = RECORDED[name]
    if theirs["status"] == 500 and ours["status"] in (400, 404):
        theirs = theirs | {"status": ours["status"]}
    return fits(theirs, ours) if STEPS[name].how == SHAPE else bool(theirs == ours)


def fits(theirs: Any, ours: Any) -> bool:
    """Whether two shapes are the same as far as they show: an empty list or map tells nothing of its members."""
    if isinstance(theirs, dict) and isinstance(ours, dict) and theirs and ours:
        return theirs.keys() == ours.keys() and all(fits(theirs[key], ours[key]) for key in theirs)
    if isinstance(theirs, list) and isinstance(ours, list) and theirs and ours:
        return len(theirs) == len(ours) and all(map(fits, theirs, ours))
    if isinstance(theirs, dict | list):
        return type(theirs) is type(ours)
    return bool(theirs == ours)
