"""Wait for a PostgreSQL row to change, woken by PostgreSQL itself."""

from rowbell.errors import (
    InvalidColumnError,
    InvalidKeyError,
    InvalidWaitError,
    ListenError,
    LockTimeoutError,
    NotFoundError,
    RowbellError,
    SessionStateError,
    TriggerError,
    UnmappedModelError,
    UnsupportedEngineError,
    WaitTimeoutError,
    WatcherStateError,
)
from rowbell.watch.declaration import watched
from rowbell.watch.install import (
    TriggerState,
    TriggerStatus,
    install_triggers,
    remove_triggers,
    trigger_status,
)
from rowbell.watch.state import Reason, WatcherState, WatcherStatistics
from rowbell.watch.timing import Timing
from rowbell.watch.wait import wait_for_row_change
from rowbell.watch.watcher import RowWatcher

__all__ = [
    "InvalidColumnError",
    "InvalidKeyError",
    "InvalidWaitError",
    "ListenError",
    "LockTimeoutError",
    "NotFoundError",
    "Reason",
    "RowWatcher",
    "RowbellError",
    "SessionStateError",
    "Timing",
    "TriggerError",
    "TriggerState",
    "TriggerStatus",
    "UnmappedModelError",
    "UnsupportedEngineError",
    "WaitTimeoutError",
    "WatcherState",
    "WatcherStateError",
    "WatcherStatistics",
    "install_triggers",
    "remove_triggers",
    "trigger_status",
    "wait_for_row_change",
    "watched",
]
