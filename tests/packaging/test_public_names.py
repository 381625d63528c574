"""The public names: one that is added, renamed or gone is a decision, and changes this file."""

from __future__ import annotations

from importlib import import_module

import pytest

PUBLIC = {
    "rowbell": """
        ABSENT Changes DatabaseStateError Follow FollowArguments FollowMany InvalidArgumentError
        InvalidColumnError InvalidKeyError ListenError LockMode LockTimeoutError ManyArguments
        NotFoundError Outcome PoolExhaustedError Reason RelationshipError Resync ResyncReason
        RowWatcher RowbellError SessionStateError Timing TriggerError TriggerState TriggerStatus
        UnflushedInstanceError UnmappedModelError UnsupportedEngineError WaitArguments WaitEnd
        WaitTimeoutError WatcherState WatcherStateError WatcherStatistics advisory_lock
        cleanup_tables create_database create_db_context create_db_dependency drop_database
        get_transaction install_triggers lock_rows lock_tables m2m_add m2m_remove m2m_set
        remove_triggers trigger_status wait_for_row_change watched
    """,
    "rowbell.alembic": """
        CreateRowTriggersOp DropRowTriggersOp ReplaceRowTriggersOp UpgradeRowTriggersOp register
    """,
    "rowbell.cli": "main",
    "rowbell.embedded": "EmbeddedServer named_server server_url",
    "rowbell.errors": """
        DatabaseStateError InvalidArgumentError InvalidColumnError InvalidKeyError ListenError
        LockTimeoutError NotFoundError PoolExhaustedError RelationshipError RowbellError
        SessionStateError TriggerError UnflushedInstanceError UnmappedModelError
        UnsupportedEngineError WaitTimeoutError WatcherStateError
    """,
    "rowbell.fastapi": """
        EventStream SessionDep StreamEnd StreamingSessionDep WatcherArguments WatcherDep
        add_exception_handlers add_sessions event_stream lifespan long_poll request_session
        run_while_connected watcher_of
    """,
    "rowbell.relay": "NatsNotifier Relay RelayState RelayStatus SocketNotifier",
    "rowbell.telemetry": "BUCKETS instrument instrument_relay",
    "rowbell.testing": "cleanup_tables create_database drop_database rolled_back_session",
}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_module_exports_these_names_and_no_others(name: str) -> None:
    module = import_module(name)
    assert list(module.__all__) == PUBLIC[name].split()
    assert all(hasattr(module, exported) for exported in module.__all__)
