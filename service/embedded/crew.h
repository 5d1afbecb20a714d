/* Threads that do one work together.
 *
 * A work is cut into phases, each of which needs all of the one before, and a phase into pieces, which need nothing of each
 * other. Whoever is free takes the next piece: a member that sleeps, or whose core the system has given to somebody else,
 * holds up nobody, unless that happens to it in the middle of a piece. Every other member takes the pieces from behind: where
 * neighbouring pieces of all phases are about the same numbers, these mostly are in its core's cache already.
 */

#pragma once

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

#define LOOKS 2000  /* for a work, before a member sleeps: it is awake still when the next step begins */
#define PATIENCE 100 /* looks at a phase whose last pieces others have, before the core is offered to whoever wants it */

typedef struct Work Work;
struct Work {
    int64_t phases;
    int64_t (*pieces)(const Work *, int64_t phase); /* how many; may be none */
    void (*compute)(const Work *, int64_t phase, int64_t piece, int64_t member);
};

typedef struct {
    /* What can be taken: the phase and the first of its pieces and the one after the last, in one number, which is changed
     * as one. Whoever changes it from what they read has a piece of the work that is being done at that moment. */
    _Alignas(64) _Atomic uint64_t ticket;
    _Alignas(64) _Atomic int64_t left; /* pieces of the phase that are not done */
    _Alignas(64) _Atomic int64_t asleep;
    _Atomic int ends;
    const Work *work;
    pthread_mutex_t lock;
    pthread_cond_t called;
    int64_t members; /* whoever asks for the work among them */
    pthread_t threads[];
} Crew;

#define NOTHING ((uint64_t)0)
#define BITS 20
#define TICKET(phase, first, end) ((uint64_t)((phase) + 1) << 2 * BITS | (uint64_t)(first) << BITS | (uint64_t)(end))

static inline void pause_core(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Let the first phase from `phase` on that has any pieces be taken, or nothing where that was all. */
static void open_phase(Crew *crew, int64_t phase) {
    const Work *work = crew->work;
    int64_t pieces = 0;
    while (phase < work->phases && !(pieces = work->pieces(work, phase))) phase++;
    atomic_store(&crew->left, pieces);
    atomic_store(&crew->ticket, pieces ? TICKET(phase, 0, pieces) : NOTHING);
}

/* Compute the next piece; whether there was one. */
static int take(Crew *crew, int64_t member) {
    uint64_t ticket = atomic_load(&crew->ticket);
    const int64_t mask = ((int64_t)1 << BITS) - 1, from_behind = member % 2;
    const int64_t phase = (int64_t)(ticket >> 2 * BITS) - 1, first = ticket >> BITS & mask, end = ticket & mask;
    if (first == end) return 0;
    const uint64_t after = TICKET(phase, first + !from_behind, end - from_behind);
    if (!atomic_compare_exchange_strong(&crew->ticket, &ticket, after)) return 1; /* others were faster: look again */
    crew->work->compute(crew->work, phase, from_behind ? end - 1 : first, member);
    if (atomic_fetch_add(&crew->left, -1) == 1) open_phase(crew, phase + 1);
    return 1;
}

static void wait_a_little(int64_t looks) {
    if (looks < PATIENCE)
        pause_core();
    else
        sched_yield();
}

/* Do a work, with whoever of the crew is there; alone without one. */
static void do_work(Crew *crew, const Work *work) {
    if (!crew) {
        for (int64_t phase = 0; phase < work->phases; phase++)
            for (int64_t piece = 0; piece < work->pieces(work, phase); piece++) work->compute(work, phase, piece, 0);
        return;
    }
    crew->work = work;
    open_phase(crew, 0);
    if (atomic_load(&crew->asleep)) {
        pthread_mutex_lock(&crew->lock);
        pthread_cond_broadcast(&crew->called);
        pthread_mutex_unlock(&crew->lock);
    }
    for (int64_t looks = 0; atomic_load(&crew->ticket) != NOTHING; looks++)
        if (take(crew, 0))
            looks = 0;
        else
            wait_a_little(looks);
}

static void sleep_until_called(Crew *crew) {
    pthread_mutex_lock(&crew->lock);
    atomic_fetch_add(&crew->asleep, 1);
    while (atomic_load(&crew->ticket) == NOTHING && !atomic_load(&crew->ends)) pthread_cond_wait(&crew->called, &crew->lock);
    atomic_fetch_add(&crew->asleep, -1);
    pthread_mutex_unlock(&crew->lock);
}

typedef struct {
    Crew *crew;
    int64_t number;
} Member;

static void *serve(void *given) {
    const Member me = *(Member *)given;
    free(given);
    for (int64_t looks = 0; !atomic_load(&me.crew->ends); looks++)
        if (take(me.crew, me.number))
            looks = 0;
        else if (atomic_load(&me.crew->ticket) != NOTHING)
            wait_a_little(looks);
        else if (looks < LOOKS)
            pause_core();
        else
            sleep_until_called(me.crew), looks = 0;
    return NULL;
}

static int64_t members_of(const Crew *crew) { return crew ? crew->members : 1; }

/* A crew of so many members, fewer where the system gives no more threads; NULL for one of a single member. */
Crew *crew_start(int64_t members) {
    Crew *crew = NULL;
    if (members < 2 || posix_memalign((void **)&crew, 64, sizeof *crew + (members - 1) * sizeof *crew->threads)) return NULL;
    atomic_init(&crew->ticket, NOTHING);
    atomic_init(&crew->left, 0);
    atomic_init(&crew->asleep, 0);
    atomic_init(&crew->ends, 0);
    pthread_mutex_init(&crew->lock, NULL);
    pthread_cond_init(&crew->called, NULL);
    for (crew->members = 1; crew->members < members; crew->members++) {
        Member *member = malloc(sizeof *member);
        if (!member) break;
        *member = (Member){crew, crew->members};
        if (pthread_create(&crew->threads[crew->members - 1], NULL, serve, member)) {
            free(member);
            break;
        }
    }
    return crew;
}

/* End its threads, between two works. */
void crew_end(Crew *crew) {
    pthread_mutex_lock(&crew->lock);
    atomic_store(&crew->ends, 1);
    pthread_cond_broadcast(&crew->called);
    pthread_mutex_unlock(&crew->lock);
    for (int64_t i = 0; i < crew->members - 1; i++) pthread_join(crew->threads[i], NULL);
    pthread_cond_destroy(&crew->called);
    pthread_mutex_destroy(&crew->lock);
    free(crew);
}
