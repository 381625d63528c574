"""The style of plots: rowbell in one color and the others in gray, on light and dark pages.

A plot has a transparent background. Its colors are for a light page. A style sheet in the SVG
replaces them if the reader prefers dark pages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from io import StringIO
from pathlib import Path
from typing import Any

TEXT = "#6e7681"
ROWBELL = "#1f6feb"
OTHERS = "#8c959f"
GRID = "#d0d7de"
DARK = {TEXT: "#8b949e", ROWBELL: "#4493f8", OTHERS: "#6e7681", GRID: "#30363d"}
"""The color on a dark page for each color on a light page.

No color has a contrast of 4.5 to both white and GitHub's dark background. TEXT and ROWBELL have
that contrast to their own background, and more than 3 to the other. So they are readable if the
settings of browser and page differ.
"""

FONTS = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
METADATA = {"Date": None, "Creator": None}  # they would change the file of an unchanged plot
STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "rowbell",  # the same plot gives the same file
    "font.size": 10,
    "text.color": TEXT,
    "axes.edgecolor": GRID,
    "axes.labelcolor": TEXT,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "xtick.labelcolor": TEXT,
    "ytick.color": GRID,
    "ytick.labelcolor": TEXT,
}


def color(name: str) -> str:
    """The color for that name."""
    return ROWBELL if name.startswith("rowbell") else OTHERS


def label(name: str) -> dict[str, Any]:
    """The style of the label for that name."""
    ours = name.startswith("rowbell")
    return {"color": ROWBELL if ours else TEXT, "fontweight": "bold" if ours else "normal"}


def rows(axes: Any, names: Iterable[str]) -> None:
    """Label the rows of a horizontal plot, with the first at the top."""
    listed = list(names)
    axes.set_yticks(range(len(listed)), listed)
    axes.set_ylim(len(listed) - 0.5, -0.7)
    for tick, name in zip(axes.get_yticklabels(), listed, strict=True):
        tick.set(**label(name))


def bare(axes: Any, grid: str) -> None:
    """Keep only the grid lines across that axis."""
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.grid(axis=grid)


def beside(axes: Any, x: float, y: float, text: str, higher: float, **look: Any) -> None:
    """Write text to the right of a line's end, that many points higher."""
    place = {"xytext": (6, higher), "textcoords": "offset points", "va": "center"}
    axes.annotate(text, (x, y), annotation_clip=False, **place, **look)


def title(figure: Any, text: str, explanation: str) -> None:
    """Add the title, and a line that explains the plot."""
    figure.suptitle(text, x=0.01, ha="left", fontweight="bold", fontsize=12)
    figure.text(0.01, 0.925, explanation, ha="left", va="top")


def save(draw: Callable[[Any, Any], None], numbers: Any, path: Path) -> None:
    """Draw the numbers on a new figure, and write it as an SVG."""
    from matplotlib import rc_context  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    with rc_context(STYLE):
        figure = Figure(figsize=(9, 4.2))
        draw(figure, numbers)
        written = StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata=METADATA)
    path.parent.mkdir(exist_ok=True)
    path.write_text(adapted(written.getvalue()))


def adapted(svg: str) -> str:
    """The SVG with the reader's fonts, and with other colors on a dark page."""
    svg = re.sub(r"font-family: [^;]*;", f"font-family: {FONTS};", svg)
    rules = [
        f'[style*="{of}: {light}"] {{ {of}: {dark} !important }}'
        for light, dark in DARK.items()
        for of in ("fill", "stroke")
    ]
    sheet = "@media (prefers-color-scheme: dark) {\n" + "\n".join(rules) + "\n}"
    return svg.replace("<defs>", f"<style>\n{sheet}\n</style>\n <defs>", 1)
