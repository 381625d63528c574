"""Errors of reads are logged once, and copied for each wait."""

from __future__ import annotations

from rowbell._watch.failures import own
from rowbell._watch.reading.failing_reads import FailingReads


def test_a_failure_is_logged_once_a_minute_and_so_is_its_end() -> None:
    """This holds for any number of groups of reads, and any number of repetitions."""
    now, said = 0.0, list[str]()
    failing = FailingReads(lambda: now, said.append)
    for name in range(50):
        failing.failed(name, "gone\nwith the rest")
        failing.failed(name, "gone")
    assert len(said) == 1
    assert failing.times(7) == 2
    for name in range(50):
        failing.succeeded(name)
    assert said[1:] == ["the reads succeed again"]
    failing.failed("one", "gone")
    failing.succeeded("one")
    assert len(said) == 2
    now = 61.0
    failing.failed("one", "gone")
    assert len(said) == 3


class ConstructedError(Exception):
    def __init__(self, message: str, more: object) -> None:
        self.more = more
        super().__init__(f"{message}!")


def test_an_error_that_several_get_is_each_ones_own() -> None:
    """The copy keeps text, attributes and notes. The constructor is not called again."""
    error = ConstructedError("no", more=[1])
    error.add_note("look there")
    copied = own(error)
    assert copied is not error
    assert (str(copied), copied.more, copied.__notes__) == ("no!", [1], ["look there"])
    copied.add_note("mine")
    assert error.__notes__ == ["look there"]
