"""The benchmark's table says "met" only where a target is met."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks.__main__ import BEGIN, CASES, END, README, line, options, with_table
from benchmarks.measure import Row, alternate, family, number, proportional, resident


@pytest.mark.parametrize(
    ("row", "met"),
    [
        (Row("r", "ms", 49.0, 240.0, limit=50), True),
        (Row("r", "ms", 51.0, 240.0, limit=50), False),
        (Row("r", "ms", 10.0, 11.0, ratio_limit=1), True),
        (Row("r", "ms", 12.0, 11.0, ratio_limit=1), False),
        (Row("r", "ms", 12.0, None, ratio_limit=1), None),
        (Row("r", "ms", 12.0), None),
        (Row("r", "1/s", 30.0, 10.0, ratio_limit=3, more_is_better=True), True),
        (Row("r", "1/s", 29.0, 10.0, ratio_limit=3, more_is_better=True), False),
        (Row("r", "GB/s", 0.4, 0.2, limit=1, ratio_limit=1, more_is_better=True), True),
        (Row("r", "GB/s", 0.4, 0.5, limit=1, ratio_limit=1, more_is_better=True), False),
    ],
)
def test_targets(row: Row, met: bool | None) -> None:
    assert row.met is met


def test_lines() -> None:
    row = Row.of("docker ps", "ms", [17.84, 17.3], ratio_limit=1)
    assert line(row, markdown=True) == "| docker ps | 17.8 ms | 17.3 | 1.03 | ≤ 1.00 x | MISSED |"
    assert line(Row.of("pyd ps", "ms", [94.0], limit=150), markdown=False).split() == (
        ["pyd", "ps", "94.0", "ms", "-", "-", "≤", "150", "ms", "met"]
    )


def test_three_digits() -> None:
    assert [number(value) for value in (0.178, 5.0, 54.6, 1234.5)] == ["0.18", "5.00", "54.6", "1,234"]


def test_alternating_takes_the_median_of_each() -> None:
    called: list[str] = []
    medians = alternate([lambda: called.append("a"), lambda: called.append("b")], 3, warm=1)
    assert called == ["a", "b"] * 4
    assert all(0 <= median < 1000 for median in medians)


def test_processes_are_followed_and_measured_until_they_are_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert child.pid in family([os.getpid()])
        assert 1 < proportional([os.getpid()]) <= resident([os.getpid()])
    finally:
        child.communicate(b"\n")
    assert resident([child.pid]) == 0


def test_options_name_cases_that_exist() -> None:
    assert options(["--rounds", "3", "run", "ps"]).case == ["run", "ps"]
    assert options([]).case == []
    with pytest.raises(SystemExit):
        options(["nonsense"])
    assert len(CASES) > 8


def test_the_readme_has_a_place_for_the_table() -> None:
    page = with_table(README.read_text(), ["| one |", "| two |"])
    assert f"{BEGIN}\n| one |\n| two |\n{END}" in page
    assert with_table(page, ["| three |"]).count("|") == page.count("|") - 2
