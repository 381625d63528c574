"""What a command prints: for people with colors, for scripts as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_STYLES = {
    "ok": "green",
    "installed": "green",
    "warning": "yellow",
    "unknown": "yellow",
    "outdated": "yellow",
    "disabled": "yellow",
    "failed": "bold red",
    "missing": "red",
    "untrusted": "bold red",
}


@dataclass
class Output:
    """Where a command prints.

    Attributes:
        as_json: Whether it prints JSON.
    """

    as_json: bool
    console: Console = field(default_factory=lambda: Console(soft_wrap=True, highlight=False))

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """A table, or a list of objects."""
        if self.as_json:
            self.json(list(rows))
            return
        if not rows:
            self.console.print("nothing")
            return
        table = Table(box=None, pad_edge=False)
        for name in rows[0]:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*(_cell(value) for value in row.values()))
        self.console.print(table)

    def line(self, text: str, style: str = "") -> None:
        """A line for people. Scripts do not get it."""
        if not self.as_json:
            self.console.print(Text(escaped(text), style=style))

    def script(self, statements: Sequence[str]) -> None:
        """SQL, which may be executed as it is printed."""
        if self.as_json:
            self.json(list(statements))
            return
        lines = "".join(f"{statement};\n" for statement in statements).split("\n")
        if self.console.is_terminal:  # elsewhere it must stay what it is
            lines = [escaped(line) for line in lines]
        self.console.out("\n".join(lines), end="")

    def comment(self, text: str) -> None:
        """A comment in a script."""
        if not self.as_json:
            self.console.out(f"-- {text}")

    def json(self, value: Any) -> None:
        """One value on one line."""
        self.console.out(json.dumps(_plain(value), default=str, allow_nan=False))


def _plain(value: Any) -> Any:
    """The value without what JSON does not have."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value.hex() if isinstance(value, bytes | memoryview) else value


def _cell(value: Any) -> Text:
    text = "" if value is None else escaped(str(value))
    return Text(text, style=_STYLES.get(text, ""))


def escaped(text: str) -> str:
    """The text with its control characters written out: they could change the terminal."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
