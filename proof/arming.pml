/*
 * The arming protocol of rowbell: one row, one wait after another on it, WRITERS transactions.
 *
 * The question: can a watch be armed and deaf? That is: it waits for a notification, the row has
 * changed, and no notification, read or heartbeat is left that would find the change.
 *
 * check.py builds and runs this file. -D flags select a mutation: a protocol with one rule
 * broken. README.md says what is modelled and what is not.
 */

#ifndef WRITERS
#define WRITERS 2
#endif
#ifndef LOSSES
#define LOSSES 1        /* how often the connection of the listener may die */
#endif
#ifndef DELETIONS
#define DELETIONS 1     /* how often somebody else may delete the registrations */
#endif
#ifndef GOAL
#define GOAL lost       /* the state that the Monitor looks for */
#endif

#define NONE 255
#define BROADCAST 1                     /* bit 0 of a set of listeners: the broadcast channel */
#define SELF (1 << listener)            /* the bit of the present listener */

mtype:phase = { POLLED, REGISTERING, PROVING, ARMED };

/* --- The server --- */

byte next_id = 1;                       /* the next transaction id */
byte id[3];                             /* the id of each running writer, 0: it has none */
bool writes[3];                         /* it holds ROW EXCLUSIVE on the watched table */
byte queued[3];                         /* the channels that it will notify at commit */
byte started;                           /* how many writers were given an id */
bool changed;                           /* the committed row differs from the baseline */
bool flag;                              /* the sequence has_registrations */
byte registered;                        /* committed registrations: a set of listeners */
bool row_exclusive;                     /* a registering transaction holds ROW EXCLUSIVE ... */
bool share;                             /* ... lower_flag holds SHARE on table registration */
byte unsent;                            /* unsent_notifications minus the last known value */

/* --- The connection of the listener --- */

bool connected;                         /* the backend exists, and listens */
byte listener;                          /* its number; each connection has a new one */
byte addressed;                         /* committed notifications on their way: for this row ... */
byte broadcasts;                        /* ... and for the whole table */

/* --- The board --- */

bool listening;                         /* the board believes that notifications arrive */
mtype:phase phase = POLLED;
byte boundary;                          /* PROVING: a read proves if its xmin is above this */
byte registration;                      /* the boundary of the registration, 0: not registered */
bool watching;                          /* the snapshot of the baseline was taken */
bool reading;                           /* a read is under way */
bool due;                               /* one more read is due */
bool throttled;                         /* the timer of the throttle runs ... */
bool coalesced;                         /* ... and a notification waits for its end */

#define gone (registration != 0 && !(registered & SELF))
#define settled (phase == ARMED && !changed)
#define armed (phase == ARMED)
#define lost (phase == ARMED && changed && !due && !reading && !addressed && !broadcasts \
              && !coalesced && connected && !unsent && !gone)

#define OLD(w) (writes[w] && id[w] < boundary)

/* The lowest running id, or the next one: the xmin of a snapshot taken now. */
inline take_xmin(xmin) {
    xmin = next_id;
    for (i : 0 .. WRITERS - 1) {
        if
        :: id[i] != 0 && id[i] < xmin -> xmin = id[i]
        :: else
        fi
    }
    i = 0
}

/* models: rowbell.watch.board:Board.ring
 * A read is wanted. During a read it is made afterwards. Watches that are not armed are
 * polled: they are read anyway. */
inline want_read() {
    due = due || phase == ARMED || (phase == PROVING && reading)
}

/* --- A transaction that changes the row --- */

/* models: sql:notify.sql
 * Muted transactions and a full queue count instead. A sequence moves at once. */
inline notify(channels) {
    if
    :: queued[me] = channels
    :: unsent++
    fi
}

/* models: sql:trigger_statement.sql, sql:notify.sql */
proctype Writer(byte me) {
    /* The id comes first, and may come long before the change of the row (from another table).
     * Writers are alike, so we let them get their ids in order. */
    d_step { started == me -> started++; id[me] = next_id; next_id++ }
    /* The lock on the table, then the change, then the trigger, which reads the flag. */
    writes[me] = true;
    if
    :: !flag
    :: flag ->
        /* The probe. It uses a snapshot of its own. */
        if
        :: atomic { registered != 0 -> notify(registered) }      /* READ COMMITTED */
        :: atomic { registered == 0 -> skip }
        :: atomic { true -> notify(BROADCAST) }        /* REPEATABLE READ, or the probe failed */
        fi
    fi;
    /* The end. A prepared transaction is one that ends late. */
    if
    :: d_step {
        true ->
        changed = watching;
        if
        :: connected && (queued[me] & BROADCAST) -> broadcasts++
        :: connected && (queued[me] & SELF) -> addressed++
        :: else
        fi;
        id[me] = 0; writes[me] = false; queued[me] = 0
       }
    :: d_step { true -> id[me] = 0; writes[me] = false; queued[me] = 0 }
    fi
}

proctype Reader() {
    byte captured, xmin, i;
    bool saw;
end:
    do
    :: atomic {
        phase != ARMED || due ->
        due = false; reading = true;
        captured = (phase == PROVING -> boundary : NONE)
       }
       d_step {
        take_xmin(xmin);
        if
        :: watching -> saw = changed
        :: else -> watching = true; changed = false
        fi
       }
       atomic {
        reading = false;
        if
        :: saw -> watching = false; changed = false; due = false; phase = POLLED; boundary = 0
        :: else ->
            if
            :: listening && phase == PROVING && captured == boundary && captured < xmin ->
                phase = ARMED; boundary = 0
            :: listening && phase == POLLED && registration != 0 ->
                phase = PROVING; boundary = registration
            :: listening && phase == POLLED && registration == 0 -> phase = REGISTERING
            :: else
            fi
        fi;
        captured = 0; xmin = 0; saw = false
       }
    od
}

proctype Notifications() {
end:
    do
    :: atomic { addressed > 0 -> addressed--; want_read() }
    :: atomic {
        broadcasts > 0 -> broadcasts--;
        if
        :: throttled -> coalesced = true
        :: else -> throttled = true; want_read()
        fi
       }
    :: atomic {
        throttled ->
        if
        :: coalesced -> coalesced = false; want_read()
        :: else -> throttled = false
        fi
       }
    od
}

proctype Listener() {
    byte given, moved, i;
    bool clear;
end:
    do
    :: {
        atomic { connected = true; listener++; unsent = 0; listening = true };
end_serve:
        do
        :: phase == REGISTERING && registration == 0 ->
            atomic { !share -> row_exclusive = true };
            flag = true;
            d_step { registered = registered | SELF; row_exclusive = false };
            d_step { given = next_id; next_id++ };
            atomic {
                registration = given; given = 0;
                if
                :: phase == REGISTERING -> phase = PROVING; boundary = registration
                :: else
                fi
            }
        :: atomic { gone -> connected = false; addressed = 0; broadcasts = 0 }
        :: unsent > 0 ->
            moved = unsent;
            d_step { given = next_id; next_id++ };
            atomic {
                unsent = unsent - moved; moved = 0;
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
        :: atomic {
            phase == PROVING && boundary != 0 && !OLD(0) && !OLD(1) && !OLD(2) ->
            given = boundary }
            atomic {
                if
                :: phase == PROVING && boundary <= given -> boundary = 0; want_read()
                :: else
                fi;
                given = 0
            }
        :: atomic { phase == POLLED && registration != 0 -> registration = 0 }
            registered = registered & ~SELF
        od
    } unless { !connected && listener > 0 }
    atomic {
        given = 0; moved = 0; clear = false; i = 0;
        listening = false; registration = 0; boundary = 0; phase = POLLED; due = false;
        throttled = false; coalesced = false
    }
    od
}

proctype LowerFlag() {
end:
    do
    :: atomic { flag && !row_exclusive && registered == 0 -> share = true }
       d_step { flag = false; share = false }
    od
}

proctype Others() {
    byte losses = LOSSES, deletions = DELETIONS;
end:
    do
    :: d_step {
        connected && losses > 0 -> losses--;
        connected = false; row_exclusive = false; addressed = 0; broadcasts = 0
       }
    :: d_step { registered != 0 && deletions > 0 && !row_exclusive -> deletions--; registered = 0 }
    :: d_step {
        registered & ~(connected -> SELF : 0) -> registered = registered & (connected -> SELF : 0)
       }
    od
}

proctype Monitor() { GOAL -> assert(false) }

init {
    byte i;
    atomic {
        if
        :: flag = true
        :: flag = false
        fi;
        for (i : 0 .. WRITERS - 1) { run Writer(i) }
        i = 0;
        run Reader(); run Notifications(); run Listener(); run LowerFlag(); run Others();
        run Monitor()
    }
}
