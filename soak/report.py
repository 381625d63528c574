"""The report of a run: text tables of what happened, and whether all was right."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from oracle import RIGHT
from plan import ALONE, RELAYED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from log import Record
    from oracle import Oracle, Verdict

MOMENT: Final = 1e-6

SHOWN: Final = 12
"""How many wrong waits are shown in full."""


def show(oracle: Oracle, leaks: Sequence[str], logs: Path) -> bool:
    """Print the report. Return whether nothing was wrong."""
    verdicts = list(oracle.verdicts())
    _show_waits(verdicts)
    _table("transactions", Counter((r["how"], r["outcome"]) for r in oracle.commits))
    _table("faults", Counter((r["how"], "failed" if r["error"] else "") for r in oracle.faults))
    for fault in oracle.faults:
        if fault["error"]:
            print(f"  {fault['how']} did not come about: {fault['error']}")
    _show_delays(verdicts)
    for whose, relayed in (("their own watchers", False), ("relays", True)):
        samples = [s for s in oracle.samples if s["place"].startswith(RELAYED) is relayed]
        armed = sum(sample["armed"] for sample in samples)
        waiting = armed + sum(sample["polled"] for sample in samples)
        print(f"armed, of those who waited with {whose}: {100 * armed / max(waiting, 1):.0f} %")
    print()
    bad = [(wait, verdict) for wait, verdict in verdicts if verdict.word != RIGHT]
    tasks = [task for record in oracle.ends for task in record["tasks"]]
    wrong = [*leaks, *(f"a task is left: {task}" for task in tasks), *oracle.wrong[:SHOWN]]
    for wait, verdict in bad[:SHOWN]:
        print(f"{verdict.word}: {verdict.why}\n    {wait}")
    for line in wrong:
        print(f"wrong: {line}")
    words = Counter(verdict.word for _, verdict in bad)
    counts = ", ".join(f"{count} {word}" for word, count in sorted(words.items())) or "all right"
    print(f"{len(verdicts):,} waits: {counts}; {len(wrong)} other things wrong")
    if bad or wrong:
        print(f"the logs are in {logs}: python soak/oracle.py {logs}")
    return not bad and not wrong


def _show_waits(verdicts: Sequence[tuple[Record, Verdict]]) -> None:
    outcomes = sorted({wait["outcome"] for wait, _ in verdicts})
    kinds = Counter((wait["manner"], wait["aim"], wait["outcome"]) for wait, _ in verdicts)
    print(f"\n{'waits':<30}" + "".join(f"{outcome:>11}" for outcome in outcomes))
    for manner, aim in sorted({(manner, aim) for manner, aim, _ in kinds}):
        counts = "".join(f"{kinds[manner, aim, outcome]:>11,}" for outcome in outcomes)
        print(f"  {manner:<9}{aim:<19}{counts}")
    total = Counter(wait["outcome"] for wait, _ in verdicts)
    print(f"  {'all':<28}" + "".join(f"{total[outcome]:>11,}" for outcome in outcomes))


def _table(title: str, counts: Mapping[tuple[str, str], int]) -> None:
    print(f"\n{title}")
    for name in sorted({name for name, _ in counts}):
        cells = [f"{count:,} {what}".rstrip() for (n, what), count in counts.items() if n == name]
        print(f"  {name:<22}{', '.join(sorted(cells))}")


def _show_delays(verdicts: Sequence[tuple[Record, Verdict]]) -> None:
    """Print the delays from a commit's acknowledgment to the end of its wait."""
    heads = ("waits", "median", "90 %", "99 %", "99.9 %", "worst")
    print(f"\n{'delays, in milliseconds':<31}" + "".join(f"{head:>10}" for head in heads))
    manners = (
        ("own watchers", {"steady", "passing"}),
        ("relayed ones", {RELAYED}),
        ("shared ones", {ALONE}),
    )
    for whose, which in manners:
        woken = [v for w, v in verdicts if w["manner"] in which and v.delay is not None]
        undisturbed = [v.calm for v in woken if (v.delay or 0.0) - v.calm < MOMENT]
        _show_spread(f"{whose}, no fault meanwhile", undisturbed)
        _show_spread(f"{whose}, faults included", [v.delay or 0.0 for v in woken])
    print()


def _show_spread(name: str, delays: Sequence[float]) -> None:
    if delays:
        ordered, last = sorted(delays), len(delays) - 1
        places = (0.5, 0.9, 0.99, 0.999, 1.0)
        cells = [1e3 * ordered[min(int(place * len(delays)), last)] for place in places]
        print(f"  {name:<29}{len(delays):>10,}" + "".join(f"{cell:>10,.1f}" for cell in cells))
