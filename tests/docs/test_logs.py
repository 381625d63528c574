"""The page on logs names every record that rowbell writes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from support.paths import ROOT

LEVELS = {"debug": "DEBUG", "info": "INFO", "warning": "WARNING", "exception": "ERROR"}
NOT_A_TEXT = {"rowbell %s: %s", "%s %s: %s"}
"""Formats whose text is in their arguments: states, notes, and requests."""


def records() -> Iterator[tuple[str, str]]:
    """The level and the format of each call of a logger."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="logger"), attr=name),
                    args=[ast.Constant(value=str(text)), *_],
                ):
                    yield LEVELS[name], text
                case _:
                    pass


def notes() -> Iterator[tuple[str, str]]:
    """What is logged as an event that does not change a watcher's state."""
    for path in sorted((ROOT / "src" / "rowbell" / "_watch").rglob("*.py")):
        for found in re.findall(r"\.?_?note\(f?\"(.*)\"\)", path.read_text()):
            yield "WARNING", re.sub(r"\{.*?\}", "%s", found)


@pytest.mark.parametrize(("level", "text"), sorted({*records(), *notes()}))
def test_each_record_is_on_the_page_with_its_level(level: str, text: str) -> None:
    if text in NOT_A_TEXT:
        return
    page = (ROOT / "docs" / "reference" / "logs.md").read_text()
    words = [part.strip(" :") for part in re.split(r"%[rs]", text)]
    rows = [row for row in page.splitlines() if all(word in row for word in words)]
    assert any(f"| {level}" in row for row in rows), text


def test_the_page_has_as_many_notes_as_the_code() -> None:
    assert len(set(notes())) == 3
