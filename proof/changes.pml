/*
 * When a list is loaded again: changes() of rowbell, for one table. WRITERS transactions change the
 * table, and one consumer loads a list of its rows each time that it is told to.
 *
 * The question: can the list be stale for ever? It is if a change was committed after the snapshot
 * of the last load, and nothing remains that would make the consumer load again (see "lost" below).
 *
 * The server is the one of arming.pml, with less: a writer's trigger reads the registration once it
 * has an id, and its notification is sent when it commits. What is new is that the consumer's own
 * load takes the place of the read, that the registration is deleted with the first notification,
 * and that it is made again for the next load. A lost connection and counted notifications end what
 * the consumer relies on, as they do for rows. So they are left to arming.pml.
 *
 * check.py sets these macros:
 * WRITERS      how many transactions change the table: 1 to 3
 * GOAL         the state that Monitor looks for
 * LIVENESS     if defined: the property "fresh in the end" is checked instead
 * MUTATION     0, or one rule to break. Each of these breaks it:
 */
#define LOAD_UNPROVEN 1             /* the consumer loads as soon as the table is registered */
#define LOAD_FORGETS 2              /* what is notified during a load is forgotten */
#define DELETES_LATE 3              /* the old registration is deleted after the new one is made */
#define is(mutation) (MUTATION == mutation)

#define NONE 255
mtype:step = { UNREGISTERED, PROVING, TOLD, RELIES };

/* The server. */
byte next_id = 1;                   /* the next transaction id */
byte id[3];                         /* the id of each running writer; 0: none */
bool queued[3];                     /* the writer will notify at commit */
byte started;                       /* how many writers have got an id */
bool registered;                    /* the registration of the table is committed */
byte pending;                       /* committed notifications that have not arrived */

/* The consumer, and the watch of its table. */
mtype:step step = UNREGISTERED;
byte boundary;                      /* a snapshot must have its xmin above it */
bool loaded;                        /* the list was loaded at least once */
bool stale;                         /* a change was committed after the snapshot of the last load */
bool ended;                         /* the watch has ended: the consumer will load again */
bool deleting;                      /* the registration is to be deleted */

#define lost (step == RELIES && stale && !ended && pending == 0)
#define relies (step == RELIES)
#define told_again (step == TOLD && loaded)
#define fresh (loaded && !stale)

/* models: sql:trigger_table.sql, sql:trigger_row_inserts.sql */
proctype Writer(byte me) {
    d_step {
        started == me -> started++; id[me] = next_id; next_id++;
        printf("writer %d gets id %d\n", me, id[me])
    }
    d_step { queued[me] = registered; printf("writer %d sees %d\n", me, registered) }
    if
    :: d_step {
        true -> stale = loaded; pending = pending + queued[me]; id[me] = 0; queued[me] = false;
        printf("writer %d commits\n", me)
       }
    :: d_step { true -> id[me] = 0; queued[me] = false; printf("writer %d rolls back\n", me) }
    fi
}

/* models: rowbell._watch.board.table_watch:TableWatch.notified
 * The watch ends in whatever step it is, and its registration is deleted. */
proctype Notifications() {
end:
    do
    :: d_step {
        pending > 0 -> pending--;
        ended = ended || (step != UNREGISTERED && !(is(LOAD_FORGETS) && step == TOLD));
        deleting = true; printf("a notification arrives\n")
       }
    /* models: rowbell._watch.board.registrations:Registrations.take_spent */
    :: d_step { deleting -> deleting = false; registered = false; printf("it is deleted\n") }
    od
}

/* models: rowbell._watch.changes:Changes.__anext__ */
proctype Consumer() {
    byte xmin, i;
end:
    do
    /* Time has passed, and the next registration is made: by the listener, which has deleted the
     * last one before. */
    :: d_step {
        step == UNREGISTERED && (!deleting || is(DELETES_LATE)) ->
        registered = true; ended = false; step = PROVING; boundary = NONE;
        printf("the table is registered\n")
       }
       d_step { boundary = next_id; next_id++; printf("boundary %d\n", boundary) }
    /* models: rowbell._watch.board.table_watch:TableWatch.moved
     * A read brings the xmin of its snapshot. Above the boundary, the proof is made. */
    :: d_step {
        step == PROVING && !ended -> xmin = next_id;
        for (i : 0 .. 2) {
            if :: id[i] != 0 && id[i] < xmin -> xmin = id[i] :: else fi
        }
        i = 0;
        step = ((boundary < xmin || is(LOAD_UNPROVEN)) -> TOLD : PROVING); xmin = 0;
        printf("a read has seen what was running\n")
       }
    /* It was notified before the proof: the consumer is told, but does not rely on the watch. */
    :: d_step { step == PROVING && ended -> loaded = true; stale = false; step = UNREGISTERED }
    /* The consumer loads, perhaps long after it was told. The load has a snapshot of its own. */
    :: d_step {
        step == TOLD -> loaded = true; stale = false; step = RELIES; printf("the list is loaded\n")
       }
    /* The watch has ended, and the consumer is told again after the interval. */
    :: d_step { step == RELIES && ended -> step = UNREGISTERED; printf("it registers again\n") }
    od
}

#ifdef LIVENESS
/* With weak fairness, Spin does not check executions that end. The clock makes all endless. */
active proctype Clock() { do :: next_id > 0 od }
ltl fresh_in_the_end { <>[] fresh }
#else
active proctype Monitor() {
end:
    GOAL -> assert(false)
}
#endif

init {
    byte i;
    atomic {
        run Consumer(); run Notifications();
        for (i : 0 .. WRITERS - 1) { run Writer(i) }
        i = 0
    }
}
