"""OpenTelemetry: what a watcher does as metrics, and each wait as a duration and a span.

``pip install rowbell[telemetry]``. It needs only the API, which FastAPI brings anyway. Without an
SDK that exports, the API does nothing.
"""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING, Any, Final

try:
    from opentelemetry import metrics, trace
    from opentelemetry.metrics import CallbackOptions, Observation
    from opentelemetry.trace import SpanKind, StatusCode
except ImportError as _error:
    raise ImportError(
        "rowbell.telemetry needs OpenTelemetry's API: pip install rowbell[telemetry]"
    ) from _error

from rowbell._watch.state import WatcherState
from rowbell._watch.waits import Outcome, WaitEnd
from rowbell._watch.watcher import RowWatcher
from rowbell.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import Histogram, Meter, MeterProvider
    from opentelemetry.trace import TracerProvider

    from rowbell._watch.statistics import WatcherStatistics
    from rowbell.relay import Relay, RelayStatus

    Callback = Callable[[CallbackOptions], Iterable[Observation]]
    Measured = Iterable[tuple[float, dict[str, str]]]

__all__ = ["BUCKETS", "instrument", "instrument_relay"]

BUCKETS: Final = (0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0)
"""The bounds of the buckets of ``rowbell.wait.duration``, in seconds, unless others are given."""

_GAUGES: Final[dict[str, tuple[str, str, Callable[[WatcherStatistics], float | None]]]] = {
    "rowbell.waits.armed": ("{wait}", "Waits that a notification will wake", lambda now: now.armed),
    "rowbell.waits.polled": ("{wait}", "Waits that are polled", lambda now: now.polled),
    "rowbell.queue.usage": (
        "1",
        "Used part of the server's notification queue",
        lambda now: now.queue_usage,
    ),
}
_COUNTERS: Final[dict[str, tuple[str, str, Callable[[WatcherStatistics], int]]]] = {
    "rowbell.notifications": (
        "{notification}",
        "Notifications that were received and understood",
        lambda now: now.notifications,
    ),
    "rowbell.payloads.ignored": (
        "{payload}",
        "Received payloads that are not rowbell's",
        lambda now: now.ignored,
    ),
    "rowbell.rereads": (
        "{row}",
        "Rows read again for waits, after their first read",
        lambda now: now.rereads,
    ),
    "rowbell.queries": ("{query}", "SELECT statements of all reads", lambda now: now.queries),
    "rowbell.reads.failed": (
        "{read}",
        "Reads that failed for a reason that passes",
        lambda now: now.failed_reads,
    ),
    "rowbell.reconnects": (
        "{reconnect}",
        "How often it listens again after a loss",
        lambda now: now.reconnects,
    ),
}


_OF_RELAYS: Final = {
    "term": ("1", "The number of the relay's last term"),
    "sessions": ("{session}", "Processes that the relay listens for"),
    "rows": ("{row}", "Rows that are registered for them"),
    "held": ("{message}", "Messages that wait for the database's answer"),
    "answer_time": ("s", "How long the last request of a process waited"),
}
_COUNTED_BY_RELAYS: Final = {
    "notifications": ("{notification}", "Notifications that were received"),
    "messages": ("{message}", "Messages that were sent to processes"),
}


def instrument(
    watcher: RowWatcher,
    *,
    meter_provider: MeterProvider | None = None,
    tracer_provider: TracerProvider | None = None,
    spans: bool = False,
    buckets: Iterable[float] = BUCKETS,
) -> Callable[[], None]:
    """Measure a watcher.

    The metrics are those of ``RowWatcher.statistics()``, and ``rowbell.wait.duration``, a histogram
    of the waits by table and outcome. With ``spans``, each wait is a span, too. No key and no value
    is ever an attribute. A wait on a session's own connection uses no watcher, so it is not
    measured. The watcher is not kept.

    Args:
        watcher: The watcher, open or not yet.
        meter_provider: Where the metrics go (default: OpenTelemetry's global one).
        tracer_provider: Where the spans go (default: the global one).
        spans: Whether each wait is a span.
        buckets: The bounds of the histogram's buckets, in seconds, ascending. The first call for a
            meter provider decides.

    Returns:
        A function that stops it.

    Raises:
        InvalidArgumentError: An argument is invalid.

    Example:
        .. code-block:: python

            stop = rowbell.telemetry.instrument(watcher, spans=True)
    """
    if not isinstance(watcher, RowWatcher):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArgumentError("watcher", watcher, "a RowWatcher")
    bounds = _bounds(buckets)
    provider = metrics.get_meter_provider() if meter_provider is None else meter_provider
    instruments = _of_provider.get(provider)
    if instruments is None:
        instruments = _of_provider[provider] = _Instruments(provider.get_meter("rowbell"), bounds)
    instruments.watchers.add(watcher)
    tracer = trace.get_tracer("rowbell", tracer_provider=tracer_provider) if spans else None
    duration, database = instruments.duration, _database(watcher)

    def ended(end: WaitEnd) -> None:
        attributes = {
            "db.namespace": database,
            "rowbell.table": end.table,
            "rowbell.outcome": end.outcome.value,
        }
        duration.record(end.seconds, attributes)
        if tracer is not None:
            now = time.time_ns()
            begun = now - int(end.seconds * 1e9)
            span = tracer.start_span(
                "rowbell.wait", kind=SpanKind.CLIENT, attributes=attributes, start_time=begun
            )
            if end.outcome is Outcome.FAILED:
                span.set_status(StatusCode.ERROR)
            span.end(now)

    remove = watcher.waits.on_end(ended)

    def stop() -> None:
        remove()
        instruments.watchers.discard(watcher)

    return stop


def instrument_relay(relay: Relay, *, meter_provider: MeterProvider | None = None) -> None:
    """Measure a relay, for as long as it exists.

    The metrics are those of ``Relay.status()``. The relay is not kept.

    Args:
        relay: The relay, open or not yet.
        meter_provider: Where the metrics go (default: OpenTelemetry's global one).

    Raises:
        InvalidArgumentError: It is not a relay.

    Example:
        .. code-block:: python

            relay = Relay(engine, socket="relay.sock")
            rowbell.telemetry.instrument_relay(relay)
    """
    from rowbell.relay import Relay, RelayState  # noqa: PLC0415  # of another extra

    if not isinstance(relay, Relay):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArgumentError("relay", relay, "a Relay")
    provider = metrics.get_meter_provider() if meter_provider is None else meter_provider
    meter, kept = provider.get_meter("rowbell"), weakref.ref(relay)

    def observed(observe: Callable[[RelayStatus], Measured]) -> list[Callback]:
        def callback(_: CallbackOptions) -> Iterable[Observation]:
            if (one := kept()) is not None:
                for value, more in observe(one.status()):
                    yield Observation(value, {"db.namespace": _database(one), **more})

        return [callback]

    meter.create_observable_gauge(
        "rowbell.relay.state",
        observed(lambda now: [(int(s is now.state), {"rowbell.state": s}) for s in RelayState]),
        "1",
        "1 for the state that the relay is in, 0 for the others",
    )
    meter.create_observable_counter(
        "rowbell.relay.gaps",
        observed(lambda now: [(count, {"rowbell.cause": why}) for why, count in now.gaps.items()]),
        "{gap}",
        "How often processes were told that notifications may have been missed",
    )
    for name, (unit, description) in _OF_RELAYS.items():
        callbacks = observed(_number(name))
        meter.create_observable_gauge(f"rowbell.relay.{name}", callbacks, unit, description)
    for name, (unit, description) in _COUNTED_BY_RELAYS.items():
        callbacks = observed(_number(name))
        meter.create_observable_counter(f"rowbell.relay.{name}", callbacks, unit, description)


def _number(name: str) -> Callable[[RelayStatus], Measured]:
    return lambda now: [(getattr(now, name), {})]


class _Instruments:
    """The instruments of one meter provider, for all its watchers. The API cannot remove them.

    Attributes:
        watchers: The measured watchers.
        duration: The histogram of waits.
    """

    def __init__(self, meter: Meter, bounds: list[float]) -> None:
        self.watchers: weakref.WeakSet[RowWatcher] = weakref.WeakSet()
        self.duration: Histogram = meter.create_histogram(
            "rowbell.wait.duration",
            unit="s",
            description="How long waits last",
            explicit_bucket_boundaries_advisory=bounds,
        )
        meter.create_observable_gauge(
            "rowbell.watcher.state",
            callbacks=[self._states],
            unit="1",
            description="1 for the state that the watcher is in, 0 for the others",
        )
        for name, (unit, description, value) in _GAUGES.items():
            meter.create_observable_gauge(
                name, callbacks=[self._observed(value)], unit=unit, description=description
            )
        for name, (unit, description, count) in _COUNTERS.items():
            meter.create_observable_counter(
                name, callbacks=[self._observed(count)], unit=unit, description=description
            )

    def _observed(
        self, value: Callable[[WatcherStatistics], float | None]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observed(_: CallbackOptions) -> Iterable[Observation]:
            for watcher in list(self.watchers):
                if (now := value(watcher.statistics())) is not None:
                    yield Observation(now, {"db.namespace": _database(watcher)})

        return observed

    def _states(self, _: CallbackOptions) -> Iterable[Observation]:
        for watcher in list(self.watchers):
            now = watcher.statistics().state
            for state in WatcherState:
                attributes = {"db.namespace": _database(watcher), "rowbell.state": state.value}
                yield Observation(int(state is now), attributes)


_of_provider: weakref.WeakKeyDictionary[Any, _Instruments] = weakref.WeakKeyDictionary()


def _database(watched: RowWatcher | Relay) -> str:
    return watched.engine.url.database or ""


def _bounds(buckets: Iterable[float]) -> list[float]:
    expected = "at least one positive number of seconds, ascending"
    try:
        bounds = [float(bound) for bound in buckets]
    except (TypeError, ValueError):
        raise InvalidArgumentError("buckets", buckets, expected) from None
    if not bounds or bounds != sorted(set(bounds)) or bounds[0] <= 0:
        raise InvalidArgumentError("buckets", buckets, expected)
    return bounds
