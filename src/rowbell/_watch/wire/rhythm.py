"""How often a process and its relay show each other that they live, and for how long that holds.

No clocks are compared: each side measures on its own, from what it has sent itself.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """The times between a process and its relay, all in seconds.

    Attributes:
        ping: The time between two pings of a process, and between two queries of a leader.
        fresh: How long a process relies on an answered ping, from when it was sent.
        forget: After this time without a ping a relay forgets a session, for good.
        speak: A leader sends nothing while its last answered query is older than this, measured
            from when the query was sent: it may be a leader no longer.
        idle: The server ends a leader's connection that sends no query for this time, and frees
            the lock.
        attempt: The time between two attempts of a stand-by to become the leader.
        pause: The longest pause before a process looks for its relay again.
    """

    ping: float = 1.0
    fresh: float = 3.0
    forget: float = 10.0
    speak: float = 1.5
    idle: float = 3.0
    attempt: float = 1.0
    pause: float = 3.0


class Freshness:
    """Whether the way to the relay and back works now.

    That messages arrive without a hole does not show it: a process that was stopped receives old
    messages. A ping that was sent a short time ago, and is answered, shows it.

    Args:
        lasts: How long an answered ping holds, in seconds.
        now: The time, in seconds, on the process's own clock.
    """

    def __init__(self, lasts: float, now: float) -> None:
        self._lasts = lasts
        self._sent: dict[int, float] = {}
        self._number = 0
        self._newest = now

    def ping(self, now: float) -> int:
        """A ping is sent now: its number."""
        self._number += 1
        self._sent[self._number] = now
        return self._number

    def answered(self, number: int) -> None:
        """A ping was answered. Earlier ones need no answer any more."""
        sent = self._sent.get(number)
        if sent is None:
            return
        self._newest = max(self._newest, sent)
        self._sent = {one: when for one, when in self._sent.items() if one > number}

    @property
    def until(self) -> float:
        """When it ends, unless another ping is answered before."""
        return self._newest + self._lasts

    def holds(self, now: float) -> bool:
        """Whether the newest answered ping was sent a short time ago."""
        return now < self.until
