/* How fast the row bare-metal can be: the CPUs of a host unmap in a closed loop, on one physical command queue.
 *
 * An operation is one list: so many TLBIs and a CMD_SYNC. It is issued as arm_smmu_cmdq_issue_cmdlist of Linux 7.2
 * does: whoever allocates first since the last PROD write owns the next one, those who come before it ride along, and
 * the owner waits for the previous owner and for its riders' entries. The engine of the SMMU runs the entries one
 * after another; CONS is polled with the driver's steps. At one instant the order is: what is done, then the CPU's
 * number.
 *
 * Two forms give the same answer, row by row:
 *   run_events  plain: a heap event for every decision and every command executed, and each read of CONS by itself
 *   run_batch   economical: a heap event per list, everything else is arithmetic
 *
 * Both return the number of events. No CPU ever waits for room: where one would have to, they return FULL.
 */
#include <stdint.h>
#include <stdlib.h>

enum { FULL = -1, NO_MEMORY = -2 };
enum { NONE = -1 };

typedef int64_t ns;

typedef struct {
    int64_t cpus, operations;            /* operations of each CPU */
    int64_t tlbis;                       /* of each operation, before its CMD_SYNC */
    int64_t size;                        /* entries of the queue */
    ns fix, entry;                       /* to call the driver, to write an entry */
    ns write, read, relax;               /* PROD; CONS, whose value is taken half-way; one cpu_relax */
    ns tlbi, occupied, latency;          /* engine per TLBI and per CMD_SYNC; then until the CMD_SYNC is complete */
    int64_t spin;                        /* every so many steps of a poll ... */
    ns delay;                            /* ... one is a udelay, of this and then twice as long each time */
} machine;

typedef struct { int64_t cpu; ns start, latency, published, done; } row;

/* -- time ------------------------------------------------------------------------------------------------------- */

/* In the order in which one instant does them; what comes before PUBLISH has no order that could be seen. */
enum { ARRIVE, EXECUTE, COMPLETE, CLOSE, PUBLISH, ALLOCATE };

typedef struct { ns t; int32_t what, cpu; } event;

static ns later(ns a, ns b) { return a > b ? a : b; }

static int before(event a, event b)
{
    if (a.t != b.t) return a.t < b.t;
    return a.what != b.what ? a.what < b.what : a.cpu < b.cpu;
}

typedef struct {
    ns start, written, polls;            /* of the operation at hand; it polls CONS from `polls` on */
    ns published;
    int64_t next_operation;
    int32_t next;                        /* the list behind this one, in its group or in the engine's line */
} cpu_state;

typedef struct {
    const machine *m;
    const ns *think;                     /* operations of CPU 0, then those of CPU 1, ... */
    row *out;
    event *heap;
    int64_t ahead;                       /* events in it */
    cpu_state *cpu;
    int64_t room;                        /* entries that are free, as far as the driver knows */
    int64_t unseen;                      /* CPUs of which it is not known yet when they will see their CMD_SYNC */
    ns last_seen;                        /* when the last of the others does */
    int32_t owner, last;                 /* the group that gathers */
    ns written;                          /* when its entries are in the queue */
} simulation;

static void push(simulation *s, ns t, int32_t what, int32_t cpu)
{
    event new = { t, what, cpu };
    int64_t hole = s->ahead++;
    while (hole) {
        int64_t above = (hole - 1) / 2;
        if (!before(new, s->heap[above])) break;
        s->heap[hole] = s->heap[above];
        hole = above;
    }
    s->heap[hole] = new;
}

static event pop(simulation *s)
{
    event first = s->heap[0], moved = s->heap[--s->ahead];
    int64_t hole = 0, n = s->ahead;
    for (int64_t below; (below = 2 * hole + 1) < n; hole = below) {
        if (below + 1 < n && before(s->heap[below + 1], s->heap[below])) below++;
        if (!before(s->heap[below], moved)) break;
        s->heap[hole] = s->heap[below];
    }
    s->heap[hole] = moved;
    return first;
}

/* -- what both forms share -------------------------------------------------------------------------------------- */

static void begin(simulation *s, int32_t cpu, ns t)
{
    cpu_state *c = &s->cpu[cpu];
    if (c->next_operation == s->m->operations) return;
    c->start = t + s->think[cpu * s->m->operations + c->next_operation++];
    push(s, c->start + s->m->fix, ALLOCATE, cpu);
}

static int set_up(simulation *s, const machine *m, const ns *think, row *out)
{
    *s = (simulation) { .m = m, .think = think, .out = out, .room = m->size, .owner = NONE };
    s->heap = malloc((m->cpus + 8) * sizeof *s->heap);
    s->cpu = calloc(m->cpus + 1, sizeof *s->cpu);
    if (!s->heap || !s->cpu) return 0;
    for (int32_t cpu = 0; cpu < m->cpus; cpu++) begin(s, cpu, 0);
    return 1;
}

static int64_t clean_up(simulation *s, int64_t result)
{
    free(s->heap);
    free(s->cpu);
    return result;
}

/* Take the slots, as the owner of a group or behind one. The shadow of CONS moves when nobody waits for a CMD_SYNC any
 * more: then the whole queue is free. */
static int allocate(simulation *s, int32_t cpu, ns t)
{
    cpu_state *c = &s->cpu[cpu];
    int64_t entries = s->m->tlbis + 1;
    if (!s->unseen && s->last_seen <= t) s->room = s->m->size;
    if (s->room < entries) return FULL;
    s->room -= entries;
    s->unseen++;
    c->written = c->polls = t + entries * s->m->entry;
    c->next = NONE;
    if (s->owner == NONE) {
        s->owner = cpu;
        s->written = c->written;
    } else {
        s->cpu[s->last].next = cpu;
        s->written = later(s->written, c->written);
    }
    s->last = cpu;
    return 0;
}

static void finish(simulation *s, int32_t cpu, ns done, ns seen)
{
    cpu_state *c = &s->cpu[cpu];
    *s->out++ = (row) { cpu, c->start, seen - c->start, c->published, done };
    s->unseen--;
    s->last_seen = later(s->last_seen, seen);
    begin(s, cpu, seen);
}

/* -- plain ------------------------------------------------------------------------------------------------------ */

static ns poll(const machine *m, ns t, ns done)
{
    ns delay = m->delay;
    for (int64_t step = 1;; step++) {
        if (step % m->spin) t += m->relax;
        else { t += delay; delay *= 2; }
        if (t + m->read / 2 >= done) return t + m->read;
        t += m->read;
    }
}

int64_t run_events(const machine *m, const ns *think, row *out)
{
    simulation state, *s = &state;
    if (!set_up(s, m, think, out)) return clean_up(s, NO_MEMORY);
    int32_t head = NONE, tail = NONE;    /* the engine's line; it runs `command` of the list at its head */
    int64_t command = 0, events = 0;
    int released = 1;                    /* the previous owner has written PROD */
    ns released_at = 0;
    for (; s->ahead; events++) {
        event e = pop(s);
        cpu_state *c = &s->cpu[e.cpu];
        switch (e.what) {
        case ALLOCATE:
            if (allocate(s, e.cpu, e.t) == FULL) return clean_up(s, FULL);
            if (s->owner == e.cpu && released) push(s, later(c->written, released_at), CLOSE, e.cpu);
            break;
        case CLOSE:                      /* from here on nobody joins */
            s->owner = NONE;
            released = 0;
            push(s, later(s->written, e.t), PUBLISH, e.cpu);
            break;
        case PUBLISH:
            for (int32_t each = e.cpu; each != NONE; each = s->cpu[each].next) s->cpu[each].published = e.t;
            push(s, e.t + m->write, ARRIVE, e.cpu);
            break;
        case ARRIVE:                     /* the owner runs on, the next one may publish, the engine has the group */
            c->polls = released_at = e.t;
            released = 1;
            if (s->owner != NONE) push(s, later(s->cpu[s->owner].written, e.t), CLOSE, s->owner);
            if (head == NONE) {
                head = e.cpu;
                push(s, e.t + (m->tlbis ? m->tlbi : m->occupied), EXECUTE, head);
            } else s->cpu[tail].next = e.cpu;
            for (tail = e.cpu; s->cpu[tail].next != NONE;) tail = s->cpu[tail].next;
            break;
        case EXECUTE:
            if (command++ == m->tlbis) { /* that was the CMD_SYNC */
                push(s, e.t + m->latency, COMPLETE, e.cpu);
                command = 0;
                head = c->next;
            }
            if (head != NONE) push(s, e.t + (command < m->tlbis ? m->tlbi : m->occupied), EXECUTE, head);
            break;
        case COMPLETE:
            finish(s, e.cpu, e.t, poll(m, c->polls, e.t));
        }
    }
    return clean_up(s, events);
}

/* -- economical ------------------------------------------------------------------------------------------------- */

/* The same as `poll`: all reads between two udelays at once. */
static ns poll_by_stride(const machine *m, ns t, ns done)
{
    ns stride = m->relax + m->read, half = m->read / 2;
    for (ns delay = m->delay;; delay *= 2) {
        ns early = done - (t + m->relax + half);
        int64_t failed = early <= 0 ? 0 : stride ? (early + stride - 1) / stride : m->spin;
        if (failed < m->spin - 1) return t + (failed + 1) * stride;
        t += (m->spin - 1) * stride + delay;
        if (t + half >= done) return t + m->read;
        t += m->read;
    }
}

int64_t run_batch(const machine *m, const ns *think, row *out)
{
    simulation state, *s = &state;
    if (!set_up(s, m, think, out)) return clean_up(s, NO_MEMORY);
    ns free_at = 0, released_at = 0, closes = 0;
    int64_t events = 0;
    while (s->ahead || s->owner != NONE) {
        if (s->owner == NONE || (s->ahead && s->heap[0].t < closes)) {
            event e = pop(s);
            events++;
            if (allocate(s, e.cpu, e.t) == FULL) return clean_up(s, FULL);
            if (s->owner == e.cpu) closes = later(s->written, released_at);
        } else {                         /* nobody else joins this group: all of its future is known */
            ns published = later(closes, s->written);
            int32_t cpu = s->owner;
            s->owner = NONE;
            s->cpu[cpu].polls = released_at = published + m->write;
            for (; cpu != NONE; cpu = s->cpu[cpu].next) {
                s->cpu[cpu].published = published;
                free_at = later(free_at, released_at) + m->tlbis * m->tlbi + m->occupied;
                ns done = free_at + m->latency;
                finish(s, cpu, done, poll_by_stride(m, s->cpu[cpu].polls, done));
            }
        }
    }
    return clean_up(s, events);
}
