"""The reference is complete, and what it says holds for the code."""

from __future__ import annotations

import re
from importlib import import_module

import pytest

import rowbell
from rowbell import errors
from rowbell._watch.board import phases
from rowbell._watch.database.schema import SCHEMA_VERSION
from rowbell._watch.rows.evidence import Evidence
from support.paths import ROOT

DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
PUBLIC = ["", ".alembic", ".embedded", ".fastapi", ".telemetry", ".testing"]


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_in_the_api(module: str) -> None:
    pages = "\n".join(path.read_text() for path in (REFERENCE / "api").glob("*.md"))
    named = re.findall(r"^\.\. (?:auto\w+|data):: (?:[\w.]+\.)?(\w+)$", pages, re.MULTILINE)
    assert set(import_module(f"rowbell{module}").__all__) <= set(named)


def test_every_error_is_on_its_page_with_the_python_error_that_it_is() -> None:
    page = (REFERENCE / "errors.md").read_text()
    for name in {*errors.__all__} - {"RowbellError"}:
        kinds = page.split(f"\n## {name}\n\n")[1].splitlines()[0]
        error: type[Exception] = getattr(errors, name)
        bases = [base for base in error.__bases__ if base is not errors.RowbellError]
        assert all(base.__name__ in kinds for base in bases if base is not Exception), name


def test_every_reason_is_on_its_page() -> None:
    page = (REFERENCE / "reasons.md").read_text()
    named = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (.*?) \|", page, re.MULTILINE))))
    assert {*rowbell.Reason} <= named


def test_the_version_of_the_schema_is_that_of_the_code() -> None:
    page = (REFERENCE / "versions.md").read_text()
    project = (ROOT / "pyproject.toml").read_text()
    [version] = re.findall(r'^version = "(\d+\.\d+)\.', project, re.MULTILINE)
    assert f"| {version} | {SCHEMA_VERSION} |" in page


PHASES: dict[str, phases.Phase] = {
    "polled": phases.Polled(0.0),
    "registering": phases.Registering(0.0),
    "proving": phases.Proving(0.0, boundary=5),
    "armed": phases.Armed(0.0),
}
EVIDENCE = Evidence(row_ids=(), xmin=6, server=1.0)


def events(phase: phases.Phase) -> list[phases.Event]:
    """One event of each kind, each as it leads out of the phase if any does."""
    return [
        phases.Unnotified(),
        phases.Wanted(),
        phases.Registered(boundary=5),
        phases.Read(phase, EVIDENCE),
        phases.OtherServer(),
        phases.OtherRowIds(),
        phases.WritersGone(boundary=5),
        phases.Gap(boundary=5),
    ]


def test_the_drawing_of_the_phases_shows_every_transition_between_two_phases() -> None:
    drawing = (DOCS / "pictures" / "phases.svg").read_text()
    arrows = re.findall(r'data-from="(\w+)" data-to="(\w+)" data-events="([\w ]+)"', drawing)
    drawn = {(start, end, event) for start, end, names in arrows for event in names.split()}
    kinds = {type(phase): name for name, phase in PHASES.items()}
    possible = {
        (start, kinds[type(after)], type(event).__name__)
        for start, phase in PHASES.items()
        for event in events(phase)
        if kinds[type(after := phases.following(phase, event, 1.0))] != start
    }
    assert drawn == possible
