"""``rowbell.telemetry``: what a watcher does, as metrics and spans."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from prometheus_client import REGISTRY, generate_latest
from sqlalchemy import delete, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from rowbell import (
    InvalidArgumentError,
    NotFoundError,
    RowWatcher,
    WaitEnd,
    WaitTimeoutError,
    WatcherState,
    wait_for_row_change,
)
from rowbell.telemetry import BUCKETS, instrument, instrument_relay
from support.models import Order
from support.observed import execute, kill_listener
from support.relays import relayed
from support.waits import QUICK, armed_waits, reconnected

ROW = update(Order).where(Order.id == 1)


class Metrics:
    """What a reader has read."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider(metric_readers=[self.reader])

    def read(self) -> dict[str, list[Any]]:
        """The points of each metric."""
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def value(self, name: str) -> Any:
        [point] = self.read()[name]
        return point.value

    def waits(self) -> dict[str, int]:
        """How many waits have ended in each way."""
        points = self.read().get("rowbell.wait.duration", [])
        return {str(point.attributes["rowbell.outcome"]): point.count for point in points}


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    metrics = Metrics()
    yield metrics
    metrics.provider.shutdown()


@pytest.fixture
async def watcher(orders: AsyncEngine) -> AsyncIterator[RowWatcher]:
    async with RowWatcher(orders, mode="listen", recheck=None, timing=QUICK) as watcher:
        yield watcher


async def test_each_wait_is_measured_by_how_it_has_ended(
    orders: AsyncEngine, watcher: RowWatcher, metrics: Metrics
) -> None:
    instrument(watcher, meter_provider=metrics.provider)
    wait = asyncio.create_task(watcher.wait_for_change(Order, 1))
    await watcher.reached(lambda now: now.armed == 1)
    await execute(orders, ROW.values(n=1))
    await wait
    await watcher.wait_for_change(Order, 1, since={"n": 0})
    with pytest.raises(WaitTimeoutError):
        await watcher.wait_for_change(Order, 1, timeout=0.01)
    with pytest.raises(NotFoundError):
        await watcher.wait_for_change(Order, 999)
    wait = asyncio.create_task(watcher.wait_for_change(Order, 2))
    await watcher.reached(lambda now: now.armed == 1)
    await execute(orders, delete(Order).where(Order.id == 2))
    with pytest.raises(NotFoundError):
        await wait
    wait = asyncio.create_task(watcher.wait_for_change(Order, 3))
    await watcher.reached(lambda now: now.armed == 1)
    wait.cancel()
    await asyncio.wait({wait})
    with pytest.raises(ZeroDivisionError):
        await watcher.wait_for_change(Order, 1, until=lambda order: 1 // (order.n - 1) > 0)
    expected = {"notified": 1, "polled": 1, "timed_out": 1, "deleted": 2, "cancelled": 1}
    assert metrics.waits() == expected | {"failed": 1}
    assert sum(point.sum for point in metrics.read()["rowbell.wait.duration"]) > 0


async def test_a_session_s_wait_and_one_for_a_missing_row_are_measured_too(
    orders: AsyncEngine, watcher: RowWatcher, metrics: Metrics
) -> None:
    instrument(watcher, meter_provider=metrics.provider)
    async with AsyncSession(orders) as session:
        wait = asyncio.create_task(wait_for_row_change(session, Order, 1))
        await watcher.reached(lambda now: now.armed == 1)
        await execute(orders, ROW.values(n=1))
        await wait
    wait = asyncio.create_task(watcher.wait_for_change(Order, 1, missing="wait", since={"n": 1}))
    await watcher.reached(lambda now: now.armed == 1)
    await execute(orders, ROW.values(n=2))
    await wait
    assert metrics.waits() == {"notified": 2}


async def test_attributes_are_database_table_and_outcome(
    orders: AsyncEngine, watcher: RowWatcher, metrics: Metrics
) -> None:
    """Never a key or a value."""
    exporter = InMemorySpanExporter()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    instrument(watcher, meter_provider=metrics.provider, tracer_provider=tracers, spans=True)
    with tracers.get_tracer("test").start_as_current_span("request"):
        begun = time.time_ns()
        await watcher.wait_for_change(Order, 1, since={"n": 77})
    with pytest.raises(ZeroDivisionError):
        await watcher.wait_for_change(Order, 1, until=lambda _: 1 // 0 > 0)
    [point, _] = metrics.read()["rowbell.wait.duration"]
    names = {"db.namespace": orders.url.database, "rowbell.table": "orders"}
    assert point.attributes == names | {"rowbell.outcome": "polled"}
    assert list(point.explicit_bounds) == list(BUCKETS)
    wait, request, failed = exporter.get_finished_spans()
    assert (wait.name, dict(wait.attributes or {})) == (
        "rowbell.wait",
        names | {"rowbell.outcome": "polled"},
    )
    assert wait.parent == request.get_span_context()
    assert begun - 1_000_000 <= (wait.start_time or 0) <= (wait.end_time or 0)
    assert failed.status.status_code is StatusCode.ERROR
    tracers.shutdown()


async def test_gauges_and_counters_are_those_of_the_statistics(
    orders: AsyncEngine, watcher: RowWatcher, metrics: Metrics
) -> None:
    instrument(watcher, meter_provider=metrics.provider)
    wait = asyncio.create_task(watcher.wait_for_change(Order, 1))
    await watcher.reached(lambda now: now.armed == 1)
    await kill_listener(orders)
    await watcher.reached(reconnected(0, armed=1))
    await watcher.reached(lambda now: now.queue_usage is not None)
    now = watcher.statistics()
    assert metrics.value("rowbell.waits.armed") == 1
    assert metrics.value("rowbell.waits.polled") == 0
    assert metrics.value("rowbell.reconnects") == 1
    assert metrics.value("rowbell.queue.usage") == now.queue_usage == 0
    for name in ("notifications", "payloads.ignored", "rereads", "queries", "reads.failed"):
        attribute = {"payloads.ignored": "ignored", "reads.failed": "failed_reads"}.get(name, name)
        assert metrics.value(f"rowbell.{name}") == getattr(now, attribute)
    states = {
        point.attributes["rowbell.state"]: point.value
        for point in metrics.read()["rowbell.watcher.state"]
    }
    assert {state for state, value in states.items() if value} == {"listening"}
    assert set(states) == {state.value for state in WatcherState}
    wait.cancel()
    await asyncio.wait({wait})


async def test_two_watchers_share_the_instruments(
    orders: AsyncEngine, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    """A closed one says so, one that is dropped nothing; and the SDK complains of nothing."""
    first, second = RowWatcher(orders, mode="poll"), RowWatcher(orders, mode="poll")
    for watcher in (first, second):
        instrument(watcher, meter_provider=metrics.provider)
    assert len(metrics.read()["rowbell.queries"]) >= 1
    del first, second, watcher
    gc.collect()
    assert metrics.read().get("rowbell.waits.armed", []) == []
    assert caplog.records == []


async def test_it_can_be_stopped(
    orders: AsyncEngine, watcher: RowWatcher, metrics: Metrics
) -> None:
    stop = instrument(watcher, meter_provider=metrics.provider)
    stop()
    stop()
    await watcher.wait_for_change(Order, 1, since={"n": 77})
    assert metrics.waits() == {}
    assert metrics.read().get("rowbell.waits.armed", []) == []


async def test_another_thread_may_read_while_waits_come_and_go(
    orders: AsyncEngine, metrics: Metrics
) -> None:
    """As an exporter does."""
    async with RowWatcher(orders, mode="poll", timing=QUICK) as watcher:
        instrument(watcher, meter_provider=metrics.provider)
        ended, failures = threading.Event(), list[BaseException]()

        def read() -> None:
            try:
                while not ended.is_set():
                    metrics.read()
            except BaseException as error:  # noqa: BLE001  # any is a failure
                failures.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        for _ in range(20):
            waits = [
                asyncio.create_task(watcher.wait_for_change(Order, key, since={"n": 77}))
                for key in range(1, 51)
            ]
            await asyncio.gather(*waits)
        ended.set()
        thread.join()
    assert failures == []
    assert metrics.waits() == {"polled": 1000}


async def test_prometheus_gets_them_through_the_exporter_of_opentelemetry(
    orders: AsyncEngine, watcher: RowWatcher
) -> None:
    provider = MeterProvider(metric_readers=[PrometheusMetricReader()])
    instrument(watcher, meter_provider=provider)
    await watcher.wait_for_change(Order, 1, since={"n": 77})
    text = generate_latest(REGISTRY).decode()
    assert "rowbell_waits_armed" in text
    assert "rowbell_wait_duration_seconds_bucket" in text
    assert 'rowbell_outcome="polled"' in text
    provider.shutdown()


async def test_an_observer_without_telemetry(orders: AsyncEngine, watcher: RowWatcher) -> None:
    ends: list[WaitEnd] = []
    remove = watcher.waits.on_end(ends.append)
    await watcher.wait_for_change(Order, 1, since={"n": 77})
    remove()
    await watcher.wait_for_change(Order, 1, since={"n": 77})
    [end] = ends
    assert (end.table, end.outcome) == ("orders", "polled")
    assert end.seconds >= 0


@pytest.mark.parametrize("buckets", [[], [0], [2, 1], [1, 1], ["x"], 5])
async def test_bad_buckets_are_refused(orders: AsyncEngine, buckets: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="buckets must be"):
        instrument(RowWatcher(orders), buckets=buckets)


def test_something_else_than_a_watcher_is_refused() -> None:
    nothing: Any = None
    with pytest.raises(InvalidArgumentError, match="watcher must be a RowWatcher"):
        instrument(nothing)


async def test_a_relay_is_measured(orders: AsyncEngine, tmp_path: Path) -> None:
    metrics = Metrics()
    async with relayed(orders, tmp_path) as (relay, watcher):
        instrument_relay(relay, meter_provider=metrics.provider)
        [wait] = await armed_waits(watcher, [1])
        assert metrics.value("rowbell.relay.sessions") == 1
        assert metrics.value("rowbell.relay.rows") == 1
        assert metrics.value("rowbell.relay.term") == relay.status().term
        async with orders.begin() as connection:
            await connection.execute(text("SET LOCAL rowbell.notify = off"))
            await connection.execute(ROW.values(n=1))
        await wait
        points = metrics.read()
        states = {
            point.attributes["rowbell.state"]: point.value
            for point in points["rowbell.relay.state"]
        }
        assert states["leading"] == 1
        assert sum(states.values()) == 1
        [gap] = points["rowbell.relay.gaps"]
        assert (gap.attributes["rowbell.cause"], gap.value) == ("not sent", 1)
        assert points["rowbell.relay.messages"][0].value > 3
    with pytest.raises(InvalidArgumentError):
        instrument_relay(watcher)  # type: ignore[arg-type]
