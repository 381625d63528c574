"""A section of the page: the results of one part of the benchmark as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Section:
    """One section.

    Attributes:
        title: Its heading.
        how: What was measured, and how.
        head: The table's head.
        rows: The table.
        notes: Text under the table.
        plot: The name of the plot's file, if there is one.
    """

    title: str
    how: str
    head: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list[Sequence[str]])
    notes: str = ""
    plot: str | None = None

    def markdown(self, measured: str = "") -> str:
        """The section's text; ``measured`` says when and where, if the page's head does not."""
        paragraphs = [f"## {self.title}", self.how, measured]
        table = [self.head, ["---"] * len(self.head), *self.rows]
        paragraphs += ["\n".join(f"| {' | '.join(cells)} |" for cells in table), self.notes]
        if self.plot:
            paragraphs.append(f"![{self.title}](../plots/{self.plot})")
        return "\n\n".join(paragraph for paragraph in paragraphs if paragraph) + "\n"
