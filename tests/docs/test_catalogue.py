"""The catalogue of faults is complete, and its page is up to date."""

from __future__ import annotations

import re
from collections import Counter

from support import catalogue
from support.paths import ROOT, TESTS

PAGE = ROOT / "docs" / "explanation" / "reliability.md"


def counted() -> Counter[str]:
    """The number of tests for each entry."""
    marks = (
        mark
        for path in TESTS.rglob("test_*.py")
        for mark in re.findall(r"^@pytest\.mark\.fault\((.*)\)$", path.read_text(), re.MULTILINE)
    )
    return Counter(number for mark in marks for number in re.findall(r"B\d+", mark))


def test_every_fault_is_broken_by_a_test_or_says_why_not() -> None:
    assert set(counted()) == catalogue.FAULTS.keys() - catalogue.ELSEWHERE.keys()


def test_the_page_shows_every_fault_with_its_tests() -> None:
    """After a test was added, ``make faults`` updates the page."""
    row = re.compile(r"^\| (B\d+) \| (.*?) \| (\d*) ?\| (.*?) ?\|$", re.MULTILINE)
    rows = row.findall(PAGE.read_text())
    shown = {number: (fault, int(tests or 0)) for number, fault, tests, _ in rows}
    tests = counted()
    assert shown == {number: (fault, tests[number]) for number, fault in catalogue.FAULTS.items()}
