"""Wait for a PostgreSQL row to change. A notification from PostgreSQL ends the wait.

Also: sessions, transactions, locks, test databases and many-to-many relationships.
"""

from rowbell._locks.advisory import advisory_lock
from rowbell._locks.rows import lock_rows
from rowbell._locks.tables import LockMode, lock_tables
from rowbell._m2m.related import m2m_add, m2m_remove, m2m_set
from rowbell._sessions.dependency import create_db_context, create_db_dependency
from rowbell._sessions.transaction import get_transaction
from rowbell._watch.arguments import ABSENT, FollowArguments, ManyArguments, WaitArguments
from rowbell._watch.changes import Changes, Resync, ResyncReason
from rowbell._watch.database.inspection import TriggerState, TriggerStatus
from rowbell._watch.database.install import install_triggers, remove_triggers, trigger_status
from rowbell._watch.declaration import watched
from rowbell._watch.follow import Follow
from rowbell._watch.follow_many import FollowMany
from rowbell._watch.reasons import Reason
from rowbell._watch.state import WatcherState
from rowbell._watch.statistics import WatcherStatistics
from rowbell._watch.timing import Timing
from rowbell._watch.wait import wait_for_row_change
from rowbell._watch.waits import Outcome, WaitEnd
from rowbell._watch.watcher import RowWatcher
from rowbell.errors import (
    DatabaseStateError,
    InvalidArgumentError,
    InvalidColumnError,
    InvalidKeyError,
    ListenError,
    LockTimeoutError,
    NotFoundError,
    PoolExhaustedError,
    RelationshipError,
    RowbellError,
    SessionStateError,
    TriggerError,
    UnflushedInstanceError,
    UnmappedModelError,
    UnsupportedEngineError,
    WaitTimeoutError,
    WatcherStateError,
)
from rowbell.testing import cleanup_tables, create_database, drop_database

__all__ = [
    "ABSENT",
    "Changes",
    "DatabaseStateError",
    "Follow",
    "FollowArguments",
    "FollowMany",
    "InvalidArgumentError",
    "InvalidColumnError",
    "InvalidKeyError",
    "ListenError",
    "LockMode",
    "LockTimeoutError",
    "ManyArguments",
    "NotFoundError",
    "Outcome",
    "PoolExhaustedError",
    "Reason",
    "RelationshipError",
    "Resync",
    "ResyncReason",
    "RowWatcher",
    "RowbellError",
    "SessionStateError",
    "Timing",
    "TriggerError",
    "TriggerState",
    "TriggerStatus",
    "UnflushedInstanceError",
    "UnmappedModelError",
    "UnsupportedEngineError",
    "WaitArguments",
    "WaitEnd",
    "WaitTimeoutError",
    "WatcherState",
    "WatcherStateError",
    "WatcherStatistics",
    "advisory_lock",
    "cleanup_tables",
    "create_database",
    "create_db_context",
    "create_db_dependency",
    "drop_database",
    "get_transaction",
    "install_triggers",
    "lock_rows",
    "lock_tables",
    "m2m_add",
    "m2m_remove",
    "m2m_set",
    "remove_triggers",
    "trigger_status",
    "wait_for_row_change",
    "watched",
]
