"""Checks the arming protocol with the model checker Spin: ``python proof/check.py``.

It builds the models in a temporary directory, once for each variant, and compares the result of the
search with the expected result:

- safety: an armed watch never misses a change; a list that is relied on is never stale;
- liveness: in the end the watch is armed, and has seen every change; the list is fresh;
- goals: these states must be reachable, so that the other checks do not pass without a reason;
- mutations: one rule of the protocol is broken, and a counterexample must be found.

It needs Spin 6.5 and gcc. The exit status is 1 if a result is not the expected one.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final, NamedTuple

ARMING: Final = Path(__file__).with_name("arming.pml")
CHANGES: Final = Path(__file__).with_name("changes.pml")
RELAY: Final = Path(__file__).with_name("relay.pml")

MEMORY: Final = 8_000
"""The limit of one search, in MiB."""

FEW: Final = 2
"""The number of writers with which all searches are short."""

NOTHING: Final = "nothing"
COUNTEREXAMPLE: Final = "counterexample"
REACHED: Final = "reached"
INCOMPLETE: Final = "incomplete search"

_MODELS: Final = re.compile(r"\bmodels:((?:[\s*]*[\w.]+:[\w.]+,?)+)")
_ERRORS: Final = re.compile(r"errors: (\d+)")
_STATES: Final = re.compile(r"^\s*(\d+) states, stored", re.MULTILINE)
_CAUSE: Final = re.compile(r"^pan:\d+: (.*?)(?: \(at depth .*\))?$", re.MULTILINE)
_PARTIAL: Final = ("Search not completed", "max search depth too small", "memory limit")

GOALS: Final = (
    "armed",
    "woken",
    "armed_after_reconnect",
    "armed_beside_old_transaction",
)
"""The states that must be reachable, by their names in the model."""

BROKEN: Final = (
    "NO_BOUNDARY",
    "EARLY_BOUNDARY",
    "LATE_BOUNDARY",
    "BOUNDARY_KEPT",
    "ARMED_KEPT",
    "AGAIN_ARMED",
    "SHORTCUT_UNMARKED",
    "LOWER_UNLOCKED",
    "RAISE_UNLOCKED",
    "OLD_SNAPSHOT",
    "SILENT_FALLBACK",
    "THROTTLE_DROPS",
    "NO_SECOND_READ",
    "MUTED_UNCOUNTED",
    "DISTRUST_KEEPS_BOUNDARY",
    "FORGET_LATE",
    "JOINS_LATE",
    "RAISE_UNSERIALIZED",
)
"""The mutations that lose a change: an armed watch misses it."""

STUCK: Final = ("COUNTER_UNREAD", "DELETION_UNSEEN")
"""The mutations after which a change may never be seen."""

HARMLESS: Final = ("RAISE_LATE", "RAISE_AFTER_COMMIT")
"""The mutations that lose no change."""


OF_CHANGES: Final = ("LOAD_UNPROVEN", "LOAD_FORGETS", "DELETES_LATE")
"""The mutations of the other model, after which a list may stay stale."""


OF_THE_RELAY: Final = ("ANSWER_FROM_MEMORY", "SESSION_READOPTED", "GAP_OVERTAKES", "HOLE_FILLED")
"""The mutations of the model of the relay, after which a process is armed and misses a change."""

STUCK_AT_THE_RELAY: Final = ("LOCK_KEPT", "HOLE_BESIDE_ANSWER")
"""Those after which a process may never be armed again."""


class ToolError(Exception):
    """A tool is missing or has failed."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One search.

    Attributes:
        name: Its name in the table.
        expected: The result that it must have.
        writers: The number of transactions that change the row.
        faults: The number of faults.
        goal: The state that the search looks for.
        mutation: The broken rule; ``0`` for none.
        liveness: Whether it searches for an endless execution instead, with weak fairness.
        model: The model.
    """

    name: str
    expected: str
    writers: int = 2
    faults: int = 1
    goal: str = "lost"
    mutation: str = "0"
    liveness: bool = False
    model: Path = ARMING

    @property
    def flags(self) -> list[str]:
        """The options for ``spin``."""
        flags = [f"-DWRITERS={self.writers}", f"-DFAULTS={self.faults}", f"-DGOAL={self.goal}"]
        return [*flags, f"-DMUTATION={self.mutation}", *(["-DLIVENESS"] if self.liveness else [])]


class Result(NamedTuple):
    """What a search found.

    Attributes:
        found: ``NOTHING``, ``COUNTEREXAMPLE``, ``REACHED`` or an error.
        states: The number of states that it stored.
        seconds: The time for building and searching.
    """

    found: str
    states: int
    seconds: float


def modelled() -> list[str]:
    """The code that the models represent, as ``module:qualified.name`` or ``sql:file``."""
    names = set[str]()
    for model in (ARMING, CHANGES, RELAY):
        for match in _MODELS.finditer(model.read_text(encoding="utf-8")):
            names.update(re.findall(r"[\w.]+:[\w.]+", match[1]))
    return sorted(names)


def variants(writers: int) -> list[Variant]:
    """All searches.

    Args:
        writers: The number of transactions in the search for lost changes. With 3 the search for
            endless executions is larger as well.
    """
    many = writers > FEW
    return [
        Variant("safety", NOTHING, faults=2),
        *([Variant("safety", NOTHING, writers=writers)] if many else []),
        Variant("liveness", NOTHING, writers=1, faults=2, liveness=True),
        Variant("liveness", NOTHING, faults=1 if many else 0, liveness=True),
        *(Variant(f"goal {goal}", REACHED, goal=goal) for goal in GOALS),
        *(Variant(name, COUNTEREXAMPLE, mutation=name) for name in BROKEN),
        *(Variant(name, COUNTEREXAMPLE, writers=1, mutation=name, liveness=True) for name in STUCK),
        *(Variant(name, NOTHING, mutation=name) for name in HARMLESS),
        Variant("list: safety", NOTHING, writers=3, faults=0, model=CHANGES),
        Variant("list: liveness", NOTHING, writers=3, faults=0, liveness=True, model=CHANGES),
        *(
            Variant(f"list: goal {goal}", REACHED, faults=0, goal=goal, model=CHANGES)
            for goal in ("relies", "told_again")
        ),
        *(
            Variant(f"list: {name}", COUNTEREXAMPLE, faults=0, mutation=name, model=CHANGES)
            for name in OF_CHANGES
        ),
        *_of_relay(writers, many=many),
    ]


def _of_relay(writers: int, *, many: bool) -> list[Variant]:
    """The searches of the model of the relay."""
    goals = ("armed", "armed_after_takeover", "armed_after_hole")
    return [
        Variant("relay: safety", NOTHING, faults=3, model=RELAY),
        *([Variant("relay: safety", NOTHING, writers=writers, model=RELAY)] if many else []),
        Variant("relay: liveness", NOTHING, writers=1, faults=2, liveness=True, model=RELAY),
        *(Variant(f"relay: goal {goal}", REACHED, goal=goal, model=RELAY) for goal in goals),
        *(
            Variant(f"relay: {name}", COUNTEREXAMPLE, mutation=name, model=RELAY)
            for name in OF_THE_RELAY
        ),
        *(
            Variant(
                f"relay: {name}",
                COUNTEREXAMPLE,
                writers=1,
                mutation=name,
                liveness=True,
                model=RELAY,
            )
            for name in STUCK_AT_THE_RELAY
        ),
    ]


def build(variant: Variant, directory: Path, *, shortest: bool = False) -> list[str]:
    """Build the verifier of a variant. Return the command that runs it.

    Args:
        variant: What to build.
        directory: Where to build it.
        shortest: Whether the verifier searches for the shortest counterexample.
    """
    shutil.copy(variant.model, directory)
    _run(["spin", *variant.flags, "-a", variant.model.name], directory)
    options = [f"-DMEMLIM={MEMORY}"]
    command = [str(directory / "pan"), "-m1000000"]
    if variant.liveness:
        options.append("-DNFAIR=4")
        command += ["-a", "-f"]
    else:
        options += ["-DSAFETY", "-DBFS"] if shortest else ["-DSAFETY"]
    if variant.writers > FEW:  # many states: store them compressed
        options.append("-DCOLLAPSE")
        command.append("-w26")
    level = "-O2" if variant.expected == NOTHING else "-O1"
    _run(["gcc", level, "-w", *options, "-o", "pan", "pan.c"], directory)
    return command


def check(variant: Variant) -> Result:
    """Build a variant and run its search."""
    begun = perf_counter()
    with tempfile.TemporaryDirectory() as name:
        report = _run(build(variant, Path(name)), Path(name))
    errors, states = _ERRORS.search(report), _STATES.search(report)
    if errors is None or states is None:
        raise ToolError(f"the verifier says:\n{report}")
    found = NOTHING
    if errors[1] != "0":
        cause = _CAUSE.search(report)
        found = cause[1] if cause else "an error"
        if found.startswith("acceptance cycle" if variant.liveness else "assertion violated"):
            found = COUNTEREXAMPLE if variant.goal == "lost" else REACHED
    elif any(partial in report for partial in _PARTIAL):
        found = INCOMPLETE
    return Result(found, int(states[1]), perf_counter() - begun)


def show_trail(variant: Variant) -> None:
    """Print the shortest counterexample of a variant: its steps, then the last state."""
    with tempfile.TemporaryDirectory() as name:
        _run(build(variant, Path(name), shortest=True), Path(name))
        model = variant.model.name
        if not (Path(name) / f"{model}.trail").exists():
            raise ToolError(f"{variant.name} has no counterexample")
        trail = _run(["spin", *variant.flags, "-t", "-T", model], Path(name))
    lines = [line for line in trail.splitlines() if not line.startswith("Never claim moves")]
    sys.stdout.write("\n".join(lines) + "\n")


def show_table(chosen: list[Variant]) -> bool:
    """Run the variants, and print each result. Return whether all are as expected."""
    line = "{:<34}{:>7}{:>7}  {:<15}{:<15}{:>11}{:>9}  {}\n"
    head = ("variant", "writers", "faults", "expected", "found", "states", "seconds", "")
    sys.stdout.write(line.format(*head))
    good = True
    for v in chosen:
        found, states, seconds = check(v)
        good &= found == v.expected
        mark = "" if found == v.expected else "DEVIATES"
        cells = (v.name, v.writers, v.faults, v.expected, found, f"{states:,}", f"{seconds:.1f}")
        sys.stdout.write(line.format(*cells, mark).rstrip() + "\n")
        sys.stdout.flush()
    return good


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Check the arming protocol with Spin.")
    parser.add_argument("--writers", type=int, choices=(2, 3), default=2)
    parser.add_argument("--trail", metavar="VARIANT", help="print the counterexample of a variant")
    arguments = parser.parse_args()
    chosen = variants(arguments.writers)
    if arguments.trail is not None:
        chosen = [v for v in chosen if arguments.trail in {v.name, v.goal, v.mutation}]
        if not chosen:
            parser.error(f"there is no variant {arguments.trail!r}")
    try:
        _require_tools()
        if arguments.trail is not None:
            show_trail(chosen[0])
            return 0
        return 0 if show_table(chosen) else 1
    except ToolError as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 2


def _require_tools() -> None:
    for tool in ("spin", "gcc"):
        if shutil.which(tool) is None:
            raise ToolError(f"{tool} is missing; on Debian: apt-get install spin gcc")


def _run(command: list[str], directory: Path) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(  # fixed programs, no shell
        command,
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    # The verifier's exit status is ignored: a counterexample may be the expected result.
    if done.returncode != 0 and command[0] in {"spin", "gcc"} and "-t" not in command:
        raise ToolError(f"{' '.join(command)} failed:\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
