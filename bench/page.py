"""The page ``docs/explanation/benchmarks.md``: the sections of all measured parts."""

from __future__ import annotations

from collections.abc import Sequence

from record import Run
from section import Section

INTRODUCTION = """# Benchmarks

`make bench` writes this page. The parts are in [bench/](../../bench), and the numbers in
[bench/numbers/](../../bench/numbers). Values are compared within one run, because absolute times
depend on the machine more than on the library. The peers are other libraries for the same purpose.
A goal is reached if the median is within it. Where a goal is missed,
[How it scales](scaling.md) and the [decisions](../decisions/index.md) say what is known about the
reason.

{run} A section that was measured in another run says so.
"""


def page(sections: Sequence[tuple[Section, Run]]) -> str:
    """The page, with the sections in the given order.

    Its head names the run that measured the most sections, and of several such runs the newest.
    """
    runs = [run for _, run in sections]
    head = max(runs, key=lambda run: (runs.count(run), run["date"]))
    texts = [section.markdown(difference(run, head)) for section, run in sections]
    return "\n".join([INTRODUCTION.format(run=described(head)), *texts])


def described(run: Run) -> str:
    """The full description of a run."""
    return f"Measured on {run['date']}: {run['machine']}; {run['server']}; {run['packages']}."


def difference(run: Run, head: Run) -> str:
    """How a section describes its run: only what differs from the page's head."""
    if run == head:
        return ""
    facts = [run["machine"], run["server"], run["packages"]]
    known = [head["machine"], head["server"], head["packages"]]
    others = [fact for fact, same in zip(facts, known, strict=True) if fact != same]
    return f"Measured on {run['date']}{': ' if others else ''}{'; '.join(others)}."
