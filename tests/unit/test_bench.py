"""The page of benchmarks: a single part, different runs, goals, and the committed page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import plot
import record
from goal import Goal, row
from page import page
from parts import PARTS, written
from record import Record, Run
from section import Section
from spread import Spread, cell, extremes, middle_half, ratios
from support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = ROOT / "docs"
FIRST = Run(date="2026-01-01", machine="2 cores", server="PostgreSQL 18", packages="Python 3.11")
LATER = Run(date="2026-02-02", machine="4 cores", server="PostgreSQL 18", packages="Python 3.11")


def section(title: str, value: str = "1") -> Section:
    return Section(title, f"How {title} is measured.", ["way", "ms"], [["rowbell", value]])


def without_head(text: str) -> list[str]:
    return text.split("\n## ")[1:]


def test_the_committed_page_is_what_the_committed_numbers_give() -> None:
    assert (DOCS / "explanation" / "benchmarks.md").read_text() == written()


def test_every_part_has_numbers_and_every_plot_is_on_the_page() -> None:
    text = (DOCS / "explanation" / "benchmarks.md").read_text()
    for name, part in PARTS.items():
        kept = record.load(name)
        assert kept is not None, name
        assert (part.section(kept["numbers"]).plot is not None) == (part.draw is not None)
    for drawn in (DOCS / "plots").glob("*.svg"):
        assert f"](../plots/{drawn.name})" in text


def test_a_part_that_is_measured_alone_changes_only_its_own_section() -> None:
    titles = ["Wake", "Crowd", "Bulk"]
    before = page([(section(title), FIRST) for title in titles])
    again = [(section("Wake"), FIRST), (section("Crowd", "2"), LATER), (section("Bulk"), FIRST)]
    after = page(again)
    assert before.split("\n## ")[0] == after.split("\n## ")[0]
    wake, crowd, bulk = without_head(after)
    assert [wake, bulk] == without_head(before)[::2]
    assert "| rowbell | 2 |" in crowd


def test_a_section_of_another_run_says_when_and_what_differs() -> None:
    same_day = FIRST.copy()
    same_day["packages"] = "Python 3.14"
    runs = [FIRST, FIRST, LATER, same_day]
    text = page([(section(str(number)), run) for number, run in enumerate(runs)])
    first, second, later, other = without_head(text)
    head = "Measured on 2026-01-01: 2 cores; PostgreSQL 18; Python 3.11."
    assert head in text.split("\n## ")[0]
    assert "Measured" not in first + second
    assert "\nMeasured on 2026-02-02: 4 cores.\n" in later
    assert "\nMeasured on 2026-01-01: Python 3.14.\n" in other


def test_a_later_run_on_the_same_machine_gives_its_date() -> None:
    later = FIRST.copy()
    later["date"] = "2026-03-03"
    text = page([(section("a"), FIRST), (section("b"), FIRST), (section("c"), later)])
    assert "\nMeasured on 2026-03-03.\n" in without_head(text)[2]


def test_the_head_names_the_newest_of_runs_that_measured_as_much() -> None:
    text = page([(section("a"), FIRST), (section("b"), LATER)])
    assert "Measured on 2026-02-02" in text.split("\n## ")[0]
    assert "Measured on 2026-01-01: 2 cores." in without_head(text)[0]


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(1.9, "≤ 2 s: reached"), (2, "≤ 2 s: reached"), (2.001, "≤ 2 s: **missed**")],
)
def test_a_goal_is_reached_up_to_its_value(value: float, verdict: str) -> None:
    assert Goal(2, " s").verdict(value) == verdict


def test_the_median_decides_about_a_goal() -> None:
    spread = Spread(median=2.5, low=1.0, high=9.0)
    assert row("time", spread, 1, " s", Goal(3, " s"))[1:] == ["2.5 s [1.0..9.0]", "≤ 3 s: reached"]
    assert row("time", 4.0, 1, " s", Goal(3, " s"))[1:] == ["4.0 s", "≤ 3 s: **missed**"]
    assert row("time", 4.0, 1)[2] == ""


def test_a_spread_is_the_median_with_a_range() -> None:
    assert cell(extremes([3.0, 1.0, 2.0])) == "2.00 [1.00..3.00]"
    assert cell(extremes([10_000]), 0, " s") == "10,000 s [10,000..10,000]"
    assert middle_half([1, 2, 3, 4, 100]) == Spread(median=3, low=2, high=4)
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    numbers = {"rounds": 3, "way": extremes([1.0, 2.0]), "list": [1, 2], "empty": list[int]()}
    kept = Record(run=FIRST, numbers=numbers)
    record.save("part", kept, tmp_path)
    assert record.load("part", tmp_path) == kept
    assert '"way": {"median": 1.5, "low": 1.0, "high": 2.0}' in (tmp_path / "part.json").read_text()
    assert record.load("another", tmp_path) is None


def contrast(color: str, other: str) -> float:
    darker, lighter = sorted((luminance(color), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(color: str) -> float:
    red, green, blue = linear(color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def linear(color: str) -> Iterator[float]:
    for start in (1, 3, 5):
        value = int(color[start : start + 2], 16) / 255
        yield value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


@pytest.mark.parametrize(("color", "least"), [("TEXT", 4.5), ("ROWBELL", 4.5), ("OTHERS", 3)])
def test_plots_are_readable_on_light_and_on_dark_pages(color: str, least: float) -> None:
    light: str = getattr(plot, color)
    white, black = "#ffffff", "#0d1117"
    assert contrast(light, white) >= least
    assert contrast(plot.DARK[light], black) >= least
    assert min(contrast(light, black), contrast(plot.DARK[light], white)) >= 3


def test_a_plot_changes_its_colors_on_a_dark_page() -> None:
    for drawn in (DOCS / "plots").glob("*.svg"):
        svg = drawn.read_text()
        assert "@media (prefers-color-scheme: dark)" in svg
        assert "<text" in svg
        assert "DejaVu" not in svg
