/*
 * The arming protocol of rowbell, for one row. WRITERS transactions change the row, and one
 * process waits for a change again and again.
 *
 * The question: can an armed watch miss a change? It does if the row has changed, and no
 * notification, read or heartbeat remains that would find the change (see "lost" below).
 *
 * check.py builds and runs this file. README.md says what is left out, and why.
 * "models:" names the code that a part of the model stands for.
 *
 * check.py sets these macros:
 * WRITERS      how many transactions change the row: 1 to 3
 * FAULTS       how many faults happen: lost connections, deleted registrations, failed reads
 * GOAL         the state that Monitor looks for
 * LIVENESS     if defined: the property "settles" is checked instead
 * MUTATION     0, or one rule to break. Each of these breaks the protocol:
 */
#define NO_BOUNDARY 1               /* the first read after the registration arms */
#define EARLY_BOUNDARY 2            /* the boundary is taken before the registration */
#define LATE_BOUNDARY 3             /* a read is compared with the boundary at its end */
#define BOUNDARY_KEPT 4             /* the boundary is kept after a reconnect */
#define ARMED_KEPT 5                /* a watch stays armed after a reconnect */
#define AGAIN_ARMED 6               /* a watch stays armed when its row is registered again */
#define SHORTCUT_UNMARKED 7         /* the shortcut makes all boundaries the same one */
#define LOWER_UNLOCKED 8            /* the flag is lowered without the lock */
#define RAISE_UNLOCKED 9            /* the flag is raised before the lock is taken */
#define OLD_SNAPSHOT 10             /* REPEATABLE READ writers read the registrations */
#define SILENT_FALLBACK 11          /* a probe that fails sends no notification */
#define THROTTLE_DROPS 12           /* a notification that comes too soon is dropped */
#define NO_SECOND_READ 13           /* a notification during a read causes no other read */
#define MUTED_UNCOUNTED 14          /* notifications that are not sent are not counted */
#define DISTRUST_KEEPS_BOUNDARY 15  /* counted notifications cause no new boundary */
#define FORGET_LATE 16              /* a registration is deleted before the board forgets it */
#define COUNTER_UNREAD 17           /* heartbeats do not read unsent_notifications */
#define DELETION_UNSEEN 18          /* heartbeats do not look for deleted registrations */
#define JOINS_LATE 19               /* a wait joins a kept registration after its first read */
#define RAISE_UNSERIALIZED 20       /* two sessions write table_flags at once */
/* These do no harm: */
#define RAISE_LATE 21               /* the flag is raised at the end of the transaction */
#define RAISE_AFTER_COMMIT 22       /* the flag is raised between commit and boundary */
#define is(mutation) (MUTATION == mutation)

mtype:phase = { POLLED, REGISTERING, PROVING, ARMED };
mtype:channel = { NOBODY, LISTENER, EVERYBODY };
#define NONE 255
#define CLEAR 128                   /* added to a boundary for which the shortcut found no writer */

/* The server. Registrations are those of the row. */
byte next_id = 1;                   /* the next transaction id */
byte id[3];                         /* the id of each running writer; 0: none */
bool writes[3];                     /* the writer holds ROW EXCLUSIVE on the watched table */
mtype:channel queued[3] = NOBODY;   /* the channel that the writer will notify at commit */
byte started;                       /* how many writers have got an id */
bool changed;                       /* the committed row differs from the baseline */
bool flag;                          /* the bit of the table in the sequence table_flags */
bool registered;                    /* the registration of the listener is committed */
bool stale;                         /* a registration of an ended listener is committed */
bool row_exclusive, share;          /* register.sql, lower_flags.sql lock table registration */
bool raising;                       /* another session adds the flag of another table */
byte raises = 1;                    /* how many times that may still happen */
byte unsent;                        /* unsent_notifications, minus the value known to the board */

/* The connection of the listener. */
bool connected;                     /* its backend exists, and listens */
byte pending;                       /* committed notifications that have not arrived */
byte faults = FAULTS;               /* how many faults may still happen */

/* The board. */
bool listening;                     /* it has not noticed that the connection is lost */
mtype:phase phase = POLLED;
byte boundary;                      /* of the watch: a read must have its xmin above it */
byte registration;                  /* the boundary of the registration, 0: not registered */
byte kept;                          /* for BOUNDARY_KEPT */
bool watching;                      /* the snapshot with the baseline has been taken */
bool reading, due;                  /* a read is running; another is due */
bool saw;                           /* the snapshot of the read shows a change */
bool notified;                      /* a notification arrived after the last read began */
bool again;                         /* the row is being registered again */

/* A heartbeat will find that the registration was deleted. */
#define gone (registration != 0 && !registered)
#define lost (phase == ARMED && changed && !due && !reading && pending == 0 && connected \
              && unsent == 0 && !gone && !again)
#define settled (phase == ARMED && !changed)
#define armed (phase == ARMED)
#define woken (phase == ARMED && saw)
#define armed_after_reconnect (phase == ARMED && stale && registered)
#define BEFORE(w) (id[w] != 0 && id[w] < registration)
#define armed_beside_old_transaction (phase == ARMED && (BEFORE(0) || BEFORE(1)))

/* --- Transactions that change the row --- */

/* models: sql:notify.sql
 * A muted transaction, and one that finds the queue full, increments the counter instead. The
 * counter is a sequence: it changes at once, and a rollback does not undo it. */
inline notify(channel) {
    if
    :: queued[me] = channel; printf("writer %d queues a notification\n", me)
    :: unsent = (connected && !is(MUTED_UNCOUNTED) -> unsent + 1 : unsent);
       printf("writer %d is muted\n", me)
    fi
}

/* models: sql:trigger_guard.sql, sql:trigger_statement.sql, sql:trigger_row.sql */
proctype Writer(byte me) {
#if MUTATION == OLD_SNAPSHOT
    bool sees;
    sees = registered || stale;
#endif
    /* The transaction gets its id, perhaps long before it changes the row.
     * All writers are the same, so one order of their ids is enough. */
    d_step {
        started == me -> started++; id[me] = next_id; next_id++;
        printf("writer %d gets id %d\n", me, id[me])
    }
    /* It locks the table, changes the row, and the trigger reads the flag. In PostgreSQL the lock
     * comes first. Here this is one step: an earlier lock could only prevent the shortcut. */
    if
    :: d_step { !flag -> writes[me] = true; printf("writer %d reads the flag as 0\n", me) }
    :: d_step { flag -> writes[me] = true; printf("writer %d reads the flag as 1\n", me) }
        if
        /* READ COMMITTED: the probe reads the registrations with a new snapshot. */
        :: atomic { registered -> notify(LISTENER) }
        :: atomic { !registered && stale -> notify(NOBODY) }
        :: d_step { !registered && !stale -> printf("writer %d finds no registration\n", me) }
        /* READ COMMITTED: the probe fails, for example because of its lock timeout. */
        :: atomic { !is(SILENT_FALLBACK) -> notify(EVERYBODY) }
        :: d_step { is(SILENT_FALLBACK) -> printf("the probe of writer %d fails\n", me) }
        /* REPEATABLE READ: the snapshot is old, so the registrations are not read. */
#if MUTATION == OLD_SNAPSHOT
        :: atomic { sees -> notify(LISTENER) }
        :: d_step { !sees -> printf("writer %d sees no registration\n", me) }
#else
        :: atomic { true -> notify(EVERYBODY) }
#endif
        fi
    fi;
    /* It ends. It may be prepared before: for others that looks like a running transaction. At
     * the end its id is no longer running, its change is visible, and its locks are released. */
    if
    :: d_step {                                         /* COMMIT or COMMIT PREPARED */
        true -> changed = watching;
        if
        :: connected && queued[me] != NOBODY -> pending++
        :: else
        fi;
        id[me] = 0; writes[me] = false; queued[me] = NOBODY; printf("writer %d commits\n", me)
       }
    :: d_step {                                         /* ROLLBACK or ROLLBACK PREPARED */
        true -> id[me] = 0; writes[me] = false; queued[me] = NOBODY;
        printf("writer %d rolls back\n", me)
       }
    fi
}

/* --- Other events on the server --- */

/* models: sql:lower_flags.sql
 * Any process may call it at any time. It does nothing if it does not get the lock. It releases
 * the lock at once, not at the end of the transaction. */
proctype LowerFlags() {
end:
    do
    :: d_step {
        flag && ((!row_exclusive && !raising) || is(LOWER_UNLOCKED)) && !registered && !stale ->
        share = !is(LOWER_UNLOCKED); printf("lower_flags finds no registration\n")
       }
       d_step { flag = false; share = false; printf("lower_flags lowers the flag\n") }
    od
}

/* models: sql:raise_flags.sql
 * Another session registers rows of another table. It reads all flags, and writes them with one
 * more. It holds ROW EXCLUSIVE, and only one session at a time can do so. */
proctype RaiseAnother() {
    bool was;
end:
    do
    :: d_step {
        raises > 0 && !share && !raising -> raises--; raising = true; was = flag;
        printf("another session reads the flags\n")
       }
       d_step { flag = was; was = false; raising = false; printf("it writes the flags\n") }
    od
}

/* The backend of the listener ends. Notifications that have not arrived are lost. */
inline end_backend() {
    connected = false; row_exclusive = false; pending = 0; unsent = 0;
    stale = stale || registered; registered = false;
    for (i : 0 .. 2) {              /* no backend receives what was queued for this listener */
        if :: queued[i] == LISTENER -> queued[i] = NOBODY :: else fi
    }
    i = 0; printf("the connection is lost\n")
}

proctype Others() {
    byte i;
end:
    do
    /* The connection is lost. */
    :: d_step { connected && faults > 0 -> faults--; end_backend() }
    /* A third party deletes the registrations. */
    :: d_step {
        (registered || stale) && faults > 0 && !row_exclusive ->
        faults--; registered = false; stale = false; printf("the registrations are deleted\n")
       }
    /* models: sql:delete_stale.sql
     * A heartbeat of any process deletes the registrations of ended listeners. */
    :: d_step { stale -> stale = false }
    od
}

/* --- The process that waits --- */

/* A read is wanted. If a read is running, another one follows. A watch that is not armed is read
 * anyway. */
inline want_read() {
    due = due || (reading -> phase != POLLED && !is(NO_SECOND_READ) : phase == ARMED)
}

inline prove_again() {
    phase = PROVING; boundary = registration; want_read();
    printf("the watch waits for an xmin above %d\n", boundary)
}

/* models: rowbell._watch.board.board:Board.notified
 * The throttle may delay a read. In this model every read may begin late. */
proctype Notifications() {
end:
    do
    :: d_step {
        pending > 0 -> pending--; notified = phase != POLLED; want_read();
        printf("a notification arrives\n")
       }
#if MUTATION == THROTTLE_DROPS
    :: d_step { pending > 0 -> pending--; printf("a notification is dropped\n") }
#endif
    od
}

#define PROVED (is(NO_BOUNDARY) -> captured != NONE \
                : (is(LATE_BOUNDARY) -> boundary >= CLEAR || boundary < xmin \
                   : captured == boundary && above))

/* models: rowbell._watch.reading.reader:Reader.run */
proctype Reader() {
    byte captured, xmin, i;
    bool above;
end:
    do
    /* A read begins. */
    :: d_step {
        phase != ARMED || due -> due = false; notified = false; reading = true;
        captured = (phase == PROVING -> boundary
                    : (is(JOINS_LATE) && registration != 0 -> registration : NONE))
       }
       /* The server takes the snapshot. Its xmin is the lowest running id, or the next one. */
       d_step {
        xmin = next_id;
        for (i : 0 .. 2) {
            if :: id[i] != 0 && id[i] < xmin -> xmin = id[i] :: else fi
        }
        i = 0; above = captured < xmin || (captured >= CLEAR && captured != NONE);
        printf("a read takes its snapshot, xmin %d\n", xmin);
        xmin = (is(LATE_BOUNDARY) -> xmin : 0);
        if
        :: watching -> saw = changed
        :: else -> watching = true; changed = false     /* this is the baseline */
        fi
       }
       /* The result arrives. */
       atomic {
        if
        :: phase == ARMED && faults > 0 -> faults--; due = true; printf("the read has failed\n")
        /* models: rowbell._watch.board.watch:Watch.observe
         * The wait ends, and the next one begins. The row stays registered for a while. */
        :: saw ->
            watching = false; changed = false; due = false; phase = POLLED; boundary = 0;
            printf("the wait ends, the next one begins\n");
            /* models: rowbell._watch.board.arming:Arming.enter
             * It joins that registration before its first read, which is then a proof. */
            if
            :: listening && registration != 0 && !is(JOINS_LATE) ->
                phase = PROVING; boundary = registration;
                printf("it waits for an xmin above %d\n", boundary)
            :: true                 /* the board does not know the row ids of this key */
            fi
        /* models: rowbell._watch.board.arming:Arming.take_evidence, rowbell._watch.board.phases:following */
        :: !saw ->
            if
            :: listening && phase == PROVING && PROVED ->
                /* models: rowbell._watch.board.board:Board.answered
                 * A read that was wanted only for the proof is not needed any more. */
                phase = ARMED; boundary = 0; due = notified; printf("the watch is armed\n")
#if MUTATION == JOINS_LATE
            :: listening && phase == POLLED && captured == registration && above ->
                phase = ARMED; due = notified; printf("the watch joins, and is armed\n")
#endif
            :: listening && phase == POLLED && registration != 0 -> prove_again()
            :: listening && phase == POLLED && registration == 0 -> phase = REGISTERING
            :: else
            fi
        fi;
        reading = false; captured = 0; xmin = 0; above = false; saw = false
       }
    od
}

#define wants_registration (registration == 0 && (phase == REGISTERING || phase == ARMED))
#define may_raise (flag || !raising || is(RAISE_UNSERIALIZED))
#define RAISES (!is(RAISE_UNLOCKED) && !is(RAISE_LATE) && !is(RAISE_AFTER_COMMIT))

/* models: sql:register.sql
 * The commit releases the lock. */
inline register() {
#if MUTATION == RAISE_UNLOCKED
    d_step { wants_registration -> flag = true; printf("register raises the flag\n") };
#endif
    /* models: sql:raise_flags.sql
     * In PostgreSQL the lock comes first. Here this is one step: an earlier lock could only prevent
     * that the flag is lowered. */
    d_step {
        wants_registration && !share && (may_raise || !RAISES) ->
        row_exclusive = true; flag = flag || RAISES;
        printf("register locks, flag %d\n", flag)
    };
#if MUTATION == RAISE_LATE
    d_step { !raising -> flag = true };
#endif
    d_step { registered = true; row_exclusive = false; printf("register commits\n") };
#if MUTATION == RAISE_AFTER_COMMIT
    d_step { !raising -> flag = true };
#endif
}

/* A separate transaction gets the next id. All ids that were assigned before are lower. */
inline take_boundary() { given = next_id; next_id++; printf("boundary %d\n", given) }

#define COUNTER_MOVED (unsent > 0 && !is(COUNTER_UNREAD))
#define WRITES_BEFORE(w) (writes[w] && id[w] < boundary)
#define NO_WRITERS (!WRITES_BEFORE(0) && !WRITES_BEFORE(1) && !WRITES_BEFORE(2))

/* models: rowbell._watch.subscription:Subscription.run */
proctype Listener() {
    byte given, counted, i;
end:
    do
    /* It connects, listens, and reads unsent_notifications. */
    :: d_step { connected = true; listening = true; unsent = 0; printf("connected\n") };
       {
end_connected:
        do
#if MUTATION == EARLY_BOUNDARY
        :: d_step { wants_registration -> take_boundary() };
            register();
#else
        :: register();
            d_step { take_boundary() };
#endif
            /* models: rowbell._watch.board.arming:Arming.registered */
            d_step {
                registration = (is(BOUNDARY_KEPT) && kept != 0 -> kept : given); given = 0;
                kept = (is(BOUNDARY_KEPT) -> registration : 0);
                if :: phase == REGISTERING -> prove_again() :: else fi
            }
        /* models: sql:tables_without_writers.sql
         * The shortcut: no transaction from before the boundary holds a lock on the table. */
        :: d_step {
            phase == PROVING && boundary < CLEAR && NO_WRITERS -> given = boundary;
            printf("no writer is older than the boundary\n")
           };
            /* models: rowbell._watch.board.arming:Arming.writers_gone */
            d_step {
                if
                :: phase == PROVING && boundary <= given ->
                    boundary = CLEAR + (is(SHORTCUT_UNMARKED) -> 0 : boundary); want_read()
                :: else
                fi;
                given = 0
            }
        /* models: sql:heartbeat.sql
         * A heartbeat finds that notifications were not sent. */
        :: d_step { COUNTER_MOVED && registration == 0 -> unsent = 0 }
        :: d_step { COUNTER_MOVED && registration != 0 -> counted = unsent };
            d_step { take_boundary() };
            /* models: rowbell._watch.board.arming:Arming.gap */
            d_step {
                unsent = unsent - counted; counted = 0;
                registration = (is(DISTRUST_KEEPS_BOUNDARY) -> registration : given); given = 0;
                if :: phase == PROVING || phase == ARMED -> prove_again() :: else fi
            }
        /* Another wait needs more columns of the row, so it is registered again. That changes
         * something only if the registration was deleted. */
        :: d_step {
            gone && !share && may_raise && !is(DELETION_UNSEEN) ->
            again = true; row_exclusive = true; flag = true
           };
            d_step { registered = true; row_exclusive = false; printf("registered again\n") };
            d_step { take_boundary() };
            d_step {
                again = false; registration = given; given = 0;
                if
                :: phase == POLLED || (phase == ARMED && is(AGAIN_ARMED))
                :: else -> prove_again()
                fi
            }
        /* A heartbeat finds that the registration was deleted. The connection is closed. */
        :: d_step { gone && !is(DELETION_UNSEEN) -> end_backend() }
        /* models: rowbell._watch.board.registrations:Registrations.take_unused
         * No watch needs the row. The board forgets the registration, then it is deleted. */
        :: d_step {
            phase == POLLED && registration != 0 ->
            registration = (is(FORGET_LATE) -> registration : 0);
            registered = registered && !is(FORGET_LATE)
           };
            d_step { registration = 0; registered = false; printf("the row is released\n") }
        od
       } unless { !connected };
       /* models: rowbell._watch.board.board:Board.disconnected
        * The process notices that the connection is lost. */
       d_step {
        given = 0; counted = 0; listening = false; registration = 0; boundary = 0; again = false;
        notified = false; printf("the loss is noticed\n");
        phase = (is(ARMED_KEPT) && phase == ARMED -> ARMED : POLLED); due = (phase == ARMED)
       }
    od
}

#ifdef LIVENESS
/* With weak fairness, Spin does not check executions that end. The clock makes all endless. */
active proctype Clock() { do :: next_id > 0 od }
ltl settles { <>[] settled }
#else
active proctype Monitor() {
end:
    GOAL -> assert(false)
}
#endif

init {
    byte i;
    atomic {
        if :: flag = true :: flag = false fi;       /* another listener may have been registered */
        run Reader(); run Notifications(); run Listener(); run LowerFlags(); run RaiseAnother();
        run Others();
        for (i : 0 .. WRITERS - 1) { run Writer(i) }
        i = 0
    }
}
