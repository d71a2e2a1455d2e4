"""Which platforms a processor's flags and the kernel's handlers make: the words are /proc's own."""

from __future__ import annotations

import pytest

from daemon.images.machine import emulated, levels

V2 = "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"
V3 = f"{V2} abm avx avx2 bmi1 bmi2 f16c fma movbe xsave"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu sse sse2", []),
        (f"fpu {V2}", ["v2"]),
        (V3, ["v2", "v3"]),
        (V3.replace(" ssse3", ""), []),  # a level stands on those below
        (f"{V3} avx512bw avx512cd avx512dq avx512f", ["v2", "v3"]),
        (f"{V3} avx512bw avx512cd avx512dq avx512f avx512vl", ["v2", "v3", "v4"]),
    ],
)
def test_levels(flags: str, expected: list[str]) -> None:
    assert levels(frozenset(flags.split())) == expected


def handler(machine: str, *, on: bool = True, flags: str = "OCF", size: str = "02", order: str = "01") -> str:
    """As Debian's qemu-user-static registers one."""
    return (
        f"{'enabled' if on else 'disabled'}\ninterpreter /usr/libexec/qemu-binfmt/x-binfmt-P\nflags: {flags}\n"
        f"offset 0\nmagic 7f454c46{size}{order}01000000000000000000{machine}\n"
        "mask ffffffffffffff00fffffffffffffffffeffffff\n"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (handler("0200b700"), {"arm64"}),
        (handler("0200f300"), {"riscv64"}),
        (handler("02001500"), {"ppc64le"}),
        (handler("00020016", order="02").replace("fffffffffeffffff", "fffffffffffeffff"), {"s390x"}),
        (handler("02002800", size="01"), {"arm"}),
        (handler("0200b700", on=False), set()),
        (handler("0200b700", flags="OC"), set()),  # its interpreter is not there in a container
        ("enabled\ninterpreter /usr/bin/python3\nflags: F\noffset 0\nmagic 0d0d0a\n", set()),
        ("enabled\ninterpreter /usr/bin/jar\nflags: F\nextension .jar\n", set()),
        ("enabled\nflags: F\noffset 0\nmagic zz\n", set()),
        ("", set()),
    ],
)
def test_handlers(text: str, expected: set[str]) -> None:
    assert emulated([text]) == expected
