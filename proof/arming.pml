/*
 * The arming protocol of rowbell: one row, one wait after another on it, and WRITERS
 * transactions that change it.
 *
 * The question: can a watch be armed and deaf? That is: the row has changed, and no notification,
 * read or heartbeat is left that would find the change (see "lost" below).
 *
 * check.py builds and runs this file. A -D flag can break one rule of the protocol (a mutation).
 * README.md says what is modelled, what is left out, and why that is allowed.
 * "models:" names the code that a part stands for.
 */

#ifndef WRITERS
#define WRITERS 2       /* 1 to 3 */
#endif
#ifndef FAULTS
#define FAULTS 1        /* lost connections, deleted registrations and failed reads together */
#endif
#ifndef GOAL
#define GOAL lost       /* the state that Monitor looks for */
#endif

mtype:phase = { POLLED, REGISTERING, PROVING, ARMED };
mtype:channel = { NOBODY, LISTENER, EVERYBODY };
#define NONE 255

/* --- The server --- */

byte next_id = 1;               /* the next transaction id */
byte id[3];                     /* the ids of the running writers, 0: none */
bool writes[3];                 /* the writer holds ROW EXCLUSIVE on the watched table */
mtype:channel queued[3] = NOBODY;  /* the channel that the writer will notify at commit */
byte started;                   /* how many writers have got an id */
bool changed;                   /* the committed row differs from the baseline */
bool flag;                      /* the sequence has_registrations */
bool registered;                /* the listener's registration is committed */
bool stale;                     /* there is a registration of a listener that is gone */
bool row_exclusive;             /* a lock on table registration, held by register.sql */
bool share;                     /* a lock on table registration, held by lower_flag.sql */
byte unsent;                    /* the sequence unsent_notifications, minus its known value */

/* --- The connection of the listener --- */

bool connected;                 /* its backend exists and listens */
byte addressed;                 /* notifications on their way, for this row */
byte broadcasts;                /* notifications on their way, for the whole table */
byte faults = FAULTS;

/* --- The board --- */

bool listening;                 /* it has not noticed that the connection is lost */
mtype:phase phase = POLLED;
byte boundary;                  /* of the watch: the xmin of a read must be higher to prove */
byte registration;              /* the boundary of the registration, 0: not registered */
bool watching;                  /* the snapshot of the baseline has been taken */
bool reading;                   /* a read is under way */
bool due;                       /* one more read is due */
bool throttled;                 /* the timer of the throttle is running */
bool coalesced;                 /* and a notification waits for its end */

/* --- What is looked for --- */

/* A heartbeat will find that the registration was deleted. */
#define gone (registration != 0 && !registered)

#define lost (phase == ARMED && changed && !due && !reading && !addressed && !broadcasts \
              && !coalesced && connected && unsent == 0 && !gone)

#define settled (phase == ARMED && !changed)
#define armed (phase == ARMED)
#define armed_after_reconnect (phase == ARMED && stale && registered)
#define OLD(w) (id[w] != 0 && id[w] < registration)
#define armed_beside_old_transaction (phase == ARMED && (OLD(0) || OLD(1)))
#define woken (woken_by_notification)

#ifdef TRACK_WAKE
bool notified, woken_by_notification;
#define TRACK(statement) statement
#else
#define TRACK(statement) skip
#endif

/* --- Transactions that change the row --- */

/* models: sql:notify.sql
 * Muted transactions and those that find the queue full count instead. The counter is a
 * sequence: it changes at once, for all, and even if the transaction rolls back. */
inline notify(channel) {
    if
    :: queued[me] = channel
#ifdef MUTED_UNCOUNTED
    :: skip
#else
    :: unsent++
#endif
    fi
}

/* models: sql:trigger_statement.sql, sql:notify.sql */
proctype Writer(byte me) {
#ifdef OLD_SNAPSHOT
    bool sees;
    sees = registered || stale;     /* the snapshot of a REPEATABLE READ transaction */
#endif
    /* The id. It may come long before the change, because of some other table.
     * All writers are alike, so it is enough to give them their ids in one order. */
    d_step { started == me -> started++; id[me] = next_id; next_id++ }
    /* The change, under a lock on the table. Then the trigger reads the flag. The lock may be
     * older, but a later one is worse: the shortcut can miss this writer for longer. */
    if
    :: atomic { !flag -> writes[me] = true }
    :: atomic { flag -> writes[me] = true }
        if
        /* READ COMMITTED: the probe of the registrations has a new snapshot. */
        :: atomic { registered -> notify(LISTENER) }
        :: atomic { !registered && stale -> notify(NOBODY) }
        :: !registered && !stale
        /* READ COMMITTED: the probe fails, for example at its lock timeout. */
#ifdef SILENT_FALLBACK
        :: true
#else
        :: atomic { true -> notify(EVERYBODY) }
#endif
        /* REPEATABLE READ: the old snapshot is of no use, so the registrations are not read. */
#ifdef OLD_SNAPSHOT
        :: atomic { sees -> notify(LISTENER) }
        :: !sees
#else
        :: atomic { true -> notify(EVERYBODY) }
#endif
        fi
    fi;
    /* The end. Between the two, a transaction may be prepared: nobody else sees a difference. */
    if
    :: d_step {                                     /* COMMIT, COMMIT PREPARED */
        true -> changed = watching;
        if
        :: connected && queued[me] == LISTENER -> addressed++
        :: connected && queued[me] == EVERYBODY -> broadcasts++
        :: else
        fi;
        id[me] = 0; writes[me] = false; queued[me] = NOBODY
       }
    :: d_step {                                     /* ROLLBACK, ROLLBACK PREPARED */
        true -> id[me] = 0; writes[me] = false; queued[me] = NOBODY
       }
    fi
}

/* models: sql:lower_flag.sql
 * Anybody may call it at any time. It gives up rather than wait. The lock is released at once,
 * and not at the end of the transaction. */
proctype LowerFlag() {
end:
    do
#ifdef LOWER_UNLOCKED
    :: flag && !registered && !stale
#else
    :: atomic { flag && !row_exclusive && !registered && !stale -> share = true }
#endif
       d_step { flag = false; share = false }
    od
}

/* The backend of the listener ends. What was on its way to it is lost. */
inline end_backend() {
    connected = false; row_exclusive = false;
    stale = stale || registered; registered = false;
    addressed = 0; broadcasts = 0; unsent = 0;
    for (i : 0 .. 2) {
        if
        :: queued[i] == LISTENER -> queued[i] = NOBODY
        :: else
        fi
    }
    i = 0
}

/* What other sessions and the network do. */
proctype Others() {
    byte i;
end:
    do
    /* The connection is lost. */
    :: d_step { connected && faults > 0 -> faults--; end_backend() }
    /* Somebody deletes the registrations, or truncates the table. */
    :: d_step {
        (registered || stale) && faults > 0 && !row_exclusive ->
        faults--; registered = false; stale = false
       }
    /* Registrations of listeners that are gone are deleted sooner or later. */
    :: stale -> stale = false
    od
}

/* --- The process that waits --- */

/* A read is wanted. If a read is under way, one more read follows it.
 * A watch that is not armed is polled, and so is read anyway. */
inline want_read() {
#ifdef NO_SECOND_READ
    due = due || (phase == ARMED && !reading)
#else
    due = due || phase == ARMED || (phase != POLLED && reading)
#endif
}

/* models: rowbell.watch.board:Board.ring */
proctype Notifications() {
end:
    do
    :: atomic { addressed > 0 -> addressed--; TRACK(notified = armed && !reading); want_read() }
    /* Notifications for a whole table are throttled: the first causes a read at once, all that
     * come before the end of the timer cause one more read then. */
    :: atomic {
        broadcasts > 0 -> broadcasts--;
        if
#ifdef THROTTLE_DROPS
        :: throttled
#else
        :: throttled -> coalesced = true
#endif
        :: else -> throttled = true; want_read()
        fi
       }
    :: atomic { throttled && coalesced -> coalesced = false; want_read() }
    :: atomic { throttled && !coalesced -> throttled = false }
    od
}

#ifdef NO_BOUNDARY
#define PROVED (captured != NONE)
#elif defined(LATE_BOUNDARY)
#define PROVED (boundary < xmin)
#else
#define PROVED (captured == boundary && captured < xmin)
#endif

/* models: rowbell.watch.reader:Reader.run */
proctype Reader() {
    byte captured, xmin, i;
    bool saw;
end:
    do
    /* A read begins: a watch that is not armed is polled. */
    :: atomic {
        phase != ARMED || due -> due = false; reading = true;
        captured = (phase == PROVING -> boundary : NONE)
       }
       /* The server takes the snapshot: the row, and xmin, the lowest running id. */
       d_step {
        xmin = next_id;
        for (i : 0 .. 2) {
            if
            :: id[i] != 0 && id[i] < xmin -> xmin = id[i]
            :: else
            fi
        }
        i = 0;
        if
        :: watching -> saw = changed
        :: else -> watching = true; changed = false     /* the baseline */
        fi
       }
       /* models: rowbell.watch.watch:Watch.observe, rowbell.watch.watch:Watch.prove,
        * rowbell.watch.board:Board.consider
        * The board takes the result in. */
       atomic {
        if
        /* The read failed. If it was due, it still is. */
        :: phase == ARMED && faults > 0 -> faults--; due = true
        /* The wait ends, and the next one begins. The row stays registered. */
        :: saw ->
            TRACK(woken_by_notification = armed && notified);
            watching = false; changed = false; due = false; phase = POLLED; boundary = 0
        :: !saw ->
            if
            :: !listening
            :: listening && phase == PROVING && PROVED -> phase = ARMED; boundary = 0
            :: listening && phase == PROVING && !PROVED
            :: listening && phase == POLLED && registration != 0 ->
                phase = PROVING; boundary = registration
            :: listening && phase == POLLED && registration == 0 -> phase = REGISTERING
            :: listening && (phase == REGISTERING || phase == ARMED)
            fi
        fi;
        TRACK(notified = false);
        reading = false; captured = 0; xmin = 0; saw = false
       }
    od
}

#ifdef ARMED_KEPT
#define wants_registration (registration == 0 && (phase == REGISTERING || phase == ARMED))
#else
#define wants_registration (registration == 0 && phase == REGISTERING)
#endif

#ifdef BOUNDARY_KEPT
byte kept;
#endif

/* models: sql:register.sql
 * It ends with the commit, which releases the lock. */
inline register() {
#ifdef RAISE_UNLOCKED
    flag = true;
    atomic { !share -> row_exclusive = true };
#elif defined(RAISE_LATE) || defined(RAISE_AFTER_COMMIT)
    atomic { !share -> row_exclusive = true };
#else
    atomic { !share -> row_exclusive = true; flag = true };
#endif
#ifdef RAISE_LATE
    flag = true;
#endif
    d_step { registered = true; row_exclusive = false };
#ifdef RAISE_AFTER_COMMIT
    flag = true;
#endif
}

/* A transaction gets an id and ends. The ids of transactions that got one before are lower. */
inline take_boundary() {
    d_step { given = next_id; next_id++ }
}

#define OLD_WRITER(w) (writes[w] && id[w] < boundary)
#define NO_OLD_WRITERS (!OLD_WRITER(0) && !OLD_WRITER(1) && !OLD_WRITER(2))

/* models: rowbell.watch.listener:Listener.run */
proctype Listener() {
    byte given, counted, i;
end:
    do
    /* Connect, LISTEN, and read the counter. */
    :: atomic { connected = true; listening = true; unsent = 0 };
       {
end_connected:
        do
        :: wants_registration ->
#ifdef EARLY_BOUNDARY
            take_boundary();
            register();
#else
            register();
            take_boundary();
#endif
            /* models: rowbell.watch.board:Board.registered */
            atomic {
#ifdef BOUNDARY_KEPT
                given = (kept != 0 -> kept : given); kept = given;
#endif
                registration = given; given = 0;
                if
                :: phase == REGISTERING -> phase = PROVING; boundary = registration; want_read()
                :: else
                fi
            }
        /* The heartbeat finds that the registration was deleted, and closes the connection. */
        :: d_step { gone -> end_backend() }
        /* The heartbeat finds that notifications were not sent. */
        :: atomic { unsent > 0 -> counted = unsent };
            take_boundary();
            /* models: rowbell.watch.board:Board.distrust */
            atomic {
                unsent = unsent - counted; counted = 0;
#ifdef DISTRUST_KEEPS_BOUNDARY
                given = registration;
#endif
                if
                :: registration != 0 -> registration = given
                :: else
                fi;
                if
                :: phase == PROVING || phase == ARMED ->
                    phase = PROVING; boundary = given; want_read()
                :: else
                fi;
                given = 0
            }
        /* models: sql:tables_without_writers.sql
         * The shortcut: no transaction from before the boundary holds a lock on the table. */
        :: atomic {
            phase == PROVING && boundary != 0 && NO_OLD_WRITERS -> given = boundary
           };
            /* models: rowbell.watch.board:Board.clear
             * A read that begins from now on proves. */
            atomic {
                if
                :: phase == PROVING && boundary <= given -> boundary = 0; want_read()
                :: else
                fi;
                given = 0
            }
        /* models: rowbell.watch.board:Board.take_idle
         * Nobody waits for the row. The board forgets the registration, then it is deleted. */
#ifdef FORGET_LATE
        :: phase == POLLED && registration != 0 -> registered = false; registration = 0
#else
        :: atomic { phase == POLLED && registration != 0 -> registration = 0 };
            registered = false
#endif
        od
       } unless { !connected };
       /* models: rowbell.watch.board:Board.unarm
        * The process notices that the connection is lost. */
       atomic {
        given = 0; counted = 0;
        listening = false; registration = 0; boundary = 0;
        throttled = false; coalesced = false;
#ifdef ARMED_KEPT
        want_read();
        phase = (phase == ARMED -> ARMED : POLLED)
#else
        phase = POLLED; due = false
#endif
       }
    od
}

proctype Monitor() {
end:
    GOAL -> assert(false)
}

init {
    byte i;
    atomic {
        if
        :: flag = false
        :: flag = true      /* somebody else was registered before */
        fi;
        run Reader(); run Notifications(); run Listener(); run LowerFlag(); run Others();
        run Monitor();
        for (i : 0 .. WRITERS - 1) { run Writer(i) }
        i = 0
    }
}
