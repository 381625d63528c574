/*
 * A row that a process watches through a relay. WRITERS transactions change the row.
 *
 * The question: can the process be armed for ever although it has missed a change (see "lost")?
 *
 * The server is the one of changes.pml, with transactions whose notifications are counted instead of
 * sent. The watch has the phases of arming.pml. What is new lies between them: the relay registers
 * the row for the process, and for another one that needs it too; it answers, passes notifications
 * on, and tells gaps, all in one sequence ("line"), of which a message may be lost; it forgets a
 * process that is silent; it may be stopped, and another relay may lead in its place. What the
 * process does not hear from a relay that is gone, it finds out by its pings.
 *
 * check.py sets these macros:
 * WRITERS      how many transactions change the row: 1 to 3
 * FAULTS       how many of the faults below happen
 * GOAL         the state that Monitor looks for
 * LIVENESS     if defined: the property "armed in the end" is checked instead
 * MUTATION     0, or one rule to break. Each of these breaks it:
 */
#define ANSWER_FROM_MEMORY 1        /* a row that another process has asked for is not registered again */
#define SESSION_READOPTED 2         /* a ping of a process that was forgotten is answered */
#define LOCK_KEPT 3                 /* the server does not end the session of a relay that is stopped */
#define GAP_OVERTAKES 4             /* a gap may arrive before the answer that was given earlier */
#define HOLE_FILLED 5               /* a message that was lost is not noticed */
#define HOLE_BESIDE_ANSWER 6        /* with a hole, the process goes on waiting for its answer */
#define is(mutation) (MUTATION == mutation)

mtype:step = { POLLED, ASKED, PROVING, ARMED };
mtype:said = { ANSWER, CHANGED, GAP };

/* The server. */
byte next_id = 1;                   /* the next transaction id */
byte id[3];                         /* the id of each running writer; 0: none */
bool queued[3];                     /* the writer will notify at commit */
byte started;                       /* how many writers have got an id */
bool registered;                    /* the registration of the row is committed */
byte pending;                       /* committed notifications that have not reached the relay */
byte unsent;                        /* how many notifications were counted instead of sent */

/* The relay that leads, and the session of the process at it. */
bool session;                       /* the relay knows the session */
bool need;                          /* the process needs the row */
bool asked;                         /* the process has asked, and is not answered yet */
bool other;                         /* another process has asked for the row */
bool other_asked;                   /* and is not answered yet */
bool stopped;                       /* the relay is stopped */
byte term;                          /* which relay leads: a round of a former one is over */
byte told;                          /* how much of "unsent" was told */
chan line = [3] of { mtype:said, byte };

/* The process, and its watch. */
mtype:step step = POLLED;
byte boundary;                      /* a snapshot must have its xmin above it */
bool changed;                       /* a change was committed after the snapshot of the last read */
bool hole;                          /* a message was lost; the next one will show it */

byte faults;
bool was_lost, was_taken_over;

#define lost (step == ARMED && changed && pending == 0 && len(line) == 0 && !hole && session \
              && !stopped && told == unsent)
#define armed (step == ARMED)
#define armed_after_takeover (step == ARMED && was_taken_over)
#define armed_after_hole (step == ARMED && was_lost && !hole)

/* models: sql:trigger_gate.sql, sql:trigger_updated.sql, sql:notify.sql */
proctype Writer(byte me) {
    d_step {
        started == me -> started++; id[me] = next_id; next_id++;
        printf("writer %d gets id %d\n", me, id[me])
    }
    if
    :: d_step { queued[me] = registered; printf("writer %d sees %d\n", me, registered) }
    :: d_step {
        registered -> unsent++; printf("writer %d cannot notify, and counts that\n", me)
       }
    fi
    if
    :: d_step {
        true -> changed = true; pending = pending + queued[me]; id[me] = 0; queued[me] = false;
        printf("writer %d commits\n", me)
       }
    :: d_step { true -> id[me] = 0; queued[me] = false; printf("writer %d rolls back\n", me) }
    fi
}

/* models: rowbell.relay.term:Term.run, rowbell.relay.fan_out:FanOut.notified
 * The steps of the relay. It does nothing while it is stopped. */
proctype Relay() {
    byte b, now;
    bool mine, others;
end:
    do
    /* models: rowbell.relay.role_listener:RoleListener.register
     * A round: it registers what was asked for, and then takes the boundary. */
    :: atomic {
        (asked || other_asked) && !stopped && len(line) < 3 ->
        if
        :: is(ANSWER_FROM_MEMORY) && asked && other_asked ->
           b = next_id; next_id++; line!ANSWER,b; asked = false;
           printf("the process is answered from memory, boundary %d\n", b)
        :: else
        fi;
        b = 0; now = term; mine = asked; others = other_asked; asked = false; other_asked = false;
        printf("a round begins\n")
       }
       d_step {
        registered = registered || (now == term && (mine || others));
        printf("the row is registered\n")
       }
       atomic {
        now != term || len(line) < 3 ->
        if
        :: now == term && mine && session ->
           b = next_id; next_id++; line!ANSWER,b;
           printf("the process is answered, boundary %d\n", b)
        :: else
        fi;
        b = 0; now = 0; mine = false; others = false
       }
    /* A notification of the server arrives. */
    :: atomic {
        pending > 0 && !stopped && len(line) < 3 -> pending--;
        if
        :: need && session -> line!CHANGED,0
        :: else
        fi;
        printf("a notification reaches the relay\n")
       }
    /* models: rowbell._watch.database.relay_calls:RelayCalls.beat
     * The query of each second shows what could not be sent. */
    :: atomic {
        told < unsent && !stopped && len(line) < 3 -> told = unsent; b = next_id; next_id++;
        if
        :: !session
        :: session && !is(GAP_OVERTAKES) -> line!GAP,b
        :: session && is(GAP_OVERTAKES) ->  /* what is not proving yet ignores it */
           if :: step == PROVING || step == ARMED -> step = PROVING; boundary = b :: else fi
        fi;
        b = 0; printf("a gap is told\n")
       }
    /* models: rowbell.relay.role_listener:RoleListener.unregister */
    :: d_step {
        registered && !need && !other && !stopped -> registered = false;
        printf("the row is unregistered\n")
       }
    od
}

inline leave() { step = POLLED; asked = false; hole = false; session = false; need = false }

/* models: rowbell._watch.notifiers.conversation:Conversation.receive,
 * rowbell._watch.notifiers.relayed_session:RelayedSession.register */
proctype Process() {
    byte b, xmin, i;
    mtype:said kind;
end:
    do
    /* A new session, with a sequence of its own, and a request. */
    :: atomic {
        step == POLLED && !stopped ->
        do :: line?kind,b :: len(line) == 0 -> break od;
        session = true; need = true; asked = true; hole = false; step = ASKED;
        printf("the process begins a session, and asks\n")
       }
    /* While it is not armed it polls. */
    :: d_step { step != ARMED && changed -> changed = false; printf("a poll finds the change\n") }
    :: atomic {
        line?kind,b ->
        if
        :: hole && !is(HOLE_FILLED) && step == ASKED && !is(HOLE_BESIDE_ANSWER) ->
           leave(); printf("a hole, perhaps the answer: the session ends\n")
        :: else ->
           if
           :: hole && !is(HOLE_FILLED) && step != ASKED ->  /* TakeBoundary: all is proven anew */
              step = ASKED; asked = true; printf("a hole is a gap\n")
           :: kind == ANSWER && step == ASKED && !hole -> step = PROVING; boundary = b
           :: kind == ANSWER && step == ASKED && hole -> step = PROVING; boundary = b
           :: kind == GAP && (step == PROVING || step == ARMED) && !hole ->
              step = PROVING; boundary = b; printf("the watch is proven anew\n")
           :: kind == CHANGED && !hole -> changed = false; printf("a notified read\n")
           :: else
           fi;
           hole = false
        fi;
        b = 0; kind = 0
       }
    /* The read that proves. */
    :: d_step {
        step == PROVING -> xmin = next_id;
        for (i : 0 .. 2) {
            if :: id[i] != 0 && id[i] < xmin -> xmin = id[i] :: else fi
        }
        i = 0; changed = false;
        step = (boundary < xmin -> ARMED : PROVING); xmin = 0; printf("a read\n")
       }
    /* models: rowbell._watch.wire.rhythm:Freshness.holds
     * No ping is answered, or the answer is that the session is unknown. */
    :: d_step {
        step != POLLED && (stopped || !session && !is(SESSION_READOPTED)) ->
        leave(); printf("no ping is answered: polled\n")
       }
    :: d_step {
        is(SESSION_READOPTED) && step != POLLED && !session && !stopped -> session = true;
        printf("the relay answers a ping of a session that it has forgotten\n")
       }
    /* A ping is answered, and its number shows a hole. */
    :: atomic {
        hole && len(line) == 0 && session && !stopped && !is(HOLE_FILLED) ->
        if
        :: step == ASKED && !is(HOLE_BESIDE_ANSWER) -> leave()
        :: step == PROVING || step == ARMED -> step = ASKED; asked = true
        :: else
        fi;
        hole = false; printf("a ping shows the hole\n")
       }
    od
}

/* Each fault happens at most once for each of FAULTS. */
proctype Faults() {
    byte b;
    mtype:said kind;
end:
    do
    /* Another process needs the row. */
    :: d_step { !other && !stopped -> other = true; other_asked = true; printf("another asks\n") }
    :: atomic {
        faults < FAULTS && len(line) > 0 -> faults++; line?kind,b; hole = true; was_lost = true;
        b = 0; kind = 0; printf("a message is lost\n")
       }
    /* models: rowbell.relay.desk:Desk.forget_silent
     * The process was silent, because it was stopped. It goes on afterwards. */
    :: d_step {
        faults < FAULTS && session && step != POLLED && !stopped -> faults++;
        session = false; need = false; asked = false; printf("the relay forgets the process\n")
       }
    /* The relay is stopped for good. */
    :: d_step { faults < FAULTS && !stopped -> faults++; stopped = true; printf("it is stopped\n") }
    /* models: rowbell.relay.relay:Relay
     * The server ends its session, which frees the lock: another relay leads, with nothing
     * registered. The connection of a relay that runs may be lost as well. */
    :: d_step {
        stopped && !is(LOCK_KEPT) -> stopped = false; term++; session = false; need = false; asked = false;
        other = false; other_asked = false; registered = false; pending = 0; told = unsent;
        was_taken_over = true; printf("another relay leads\n")
       }
    od
}

#ifdef LIVENESS
/* With weak fairness, Spin does not check executions that end. The clock makes all endless. */
active proctype Clock() { do :: next_id > 0 od }
ltl armed_in_the_end { <>[] (step == ARMED && !changed) }
#else
active proctype Monitor() {
end:
    GOAL -> assert(false)
}
#endif

init {
    byte i;
    atomic {
        run Relay(); run Process(); run Faults();
        for (i : 0 .. WRITERS - 1) { run Writer(i) }
        i = 0
    }
}
