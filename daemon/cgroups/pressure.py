"""Pressure stall information (Documentation/accounting/psi.rst), which v2 directories have, hybrid's too."""

from __future__ import annotations

from daemon.cgroups import files
from daemon.cgroups.stats import Pressure, Stall

RESOURCES = ("cpu", "memory", "io")


def read_pressure(directory: str) -> dict[str, Pressure]:
    """What there is of `cpu.pressure`, `memory.pressure`, `io.pressure`."""
    found = {}
    for name in RESOURCES:
        text = files.read_optional(f"{directory}/{name}.pressure")
        if text:
            found[name] = parse(text)
    return found


def parse(text: str) -> Pressure:
    """`some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, then perhaps `full ...`."""
    stalls: dict[str, Stall] = {}
    for line in text.splitlines():
        kind, *fields = line.split()
        values = dict(field.split("=", 1) for field in fields)
        stalls[kind] = Stall(
            float(values["avg10"]), float(values["avg60"]), float(values["avg300"]), int(values["total"])
        )
    return Pressure(stalls.get("some", Stall()), stalls.get("full"))
