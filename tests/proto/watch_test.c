/* The thread beside a wait: what it finds, when, how often it looks, and that it keeps nobody. */
#include "tests/testlib.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "proto/base/watch.h"

#define A_WHILE 20000
#define LONG    (60 * (px_time_us)1000000)

typedef struct life {
    atomic_uint asked, found;
    atomic_bool broken, slow, inside;
    px_watched  late;
    px_err      told;
} life;

static bool no_thread;

int __real_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *arg);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *arg);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *arg)
{
    return no_thread ? EAGAIN : __real_pthread_create(t, a, f, arg);
}

static atomic_uint signals;

int __real_pthread_cond_signal(pthread_cond_t *c);
int __wrap_pthread_cond_signal(pthread_cond_t *c);
int __wrap_pthread_cond_signal(pthread_cond_t *c)
{
    signals++;
    return __real_pthread_cond_signal(c);
}

static px_code ask(void *ctx, px_err *e)
{
    life *l = ctx;

    l->asked++;
    l->inside = true;
    while (l->slow) usleep(1000);
    l->inside = false;
    return l->broken ? px_fail(e, PX_EPEER, "peer", "it went") : PX_OK;
}

static px_code late(void *ctx, const px_watched *w, px_err *e)
{
    ((life *)ctx)->late = *w;
    return px_fail(e, PX_ETIMEOUT, "clock", "%s", w->what);
}

static void found(void *ctx, const px_err *e)
{
    life *l = ctx;

    l->told = *e;
    l->found++;
}

static void open_on(px_watch *w, life *l, px_time_us every)
{
    const px_watch_on on = { .every = every, .ask = every == PX_NEVER ? NULL : ask, .late = late, .found = found, .ctx = l };
    px_err e = {0};

    assert_int_equal(px_watch_open(w, &on, "test", &e), PX_OK);
}

static void wait_for(const atomic_uint *n, unsigned least)
{
    const px_time_us until = px_now_us() + LONG;

    while (*n < least && px_now_us() < until) usleep(1000);
    assert_true(*n >= least);
}

static void what_ends_in_time_is_nothing(void **state)
{
    px_watch w;
    life l = {0};

    (void)state;
    open_on(&w, &l, 1000);
    for (uint64_t i = 0; i < 20; i++) {
        px_watch_arm(&w, "short", i, LONG);
        usleep(2000);
        assert_int_equal(px_watch_disarm(&w, NULL), PX_OK);
    }
    px_watch_arm(&w, "short", 0, 0);                       /* over before anybody looks, or found: no third way */
    if (!px_watch_disarm(&w, NULL)) usleep(A_WHILE);
    else wait_for(&l.found, 1);
    px_watch_close(&w);
    assert_true(l.asked > 1 && l.found <= 1);
}

static void a_limit_gone_by_is_found_once(void **state)
{
    px_watch w;

    (void)state;
    for (int clock_only = 0; clock_only < 2; clock_only++) {
        life l = {0};
        px_err e = {0};
        open_on(&w, &l, clock_only ? PX_NEVER : 1000);
        px_watch_arm(&w, "a wait", 7, A_WHILE);
        const px_time_us began = px_now_us();
        wait_for(&l.found, 1);
        assert_true(px_now_us() - began >= A_WHILE - 2000);
        assert_int_equal(px_watch_disarm(&w, &e), PX_ETIMEOUT);
        assert_string_equal(e.text, "a wait");
        assert_true(l.late.number == 7 && l.late.limit == A_WHILE && l.late.began <= began);
        const unsigned asked = l.asked;
        px_watch_arm(&w, "another", 8, 0);                 /* what was found stays, and is all */
        usleep(A_WHILE);
        px_err_clear(&e);
        assert_int_equal(px_watch_disarm(&w, &e), PX_ETIMEOUT);
        assert_string_equal(e.text, "a wait");
        px_watch_close(&w);
        assert_true(l.found == 1 && l.asked == asked);
        assert_string_equal(l.told.field, "clock");
    }
}

static void what_is_asked_is_found_while_armed(void **state)
{
    px_watch w;
    life l = { .broken = true };
    px_err e = {0};

    (void)state;
    open_on(&w, &l, 1000);
    usleep(A_WHILE);
    assert_int_equal(l.asked, 0);
    px_watch_arm(&w, "a wait", 1, LONG);
    wait_for(&l.found, 1);
    assert_int_equal(px_watch_disarm(&w, &e), PX_EPEER);
    assert_string_equal(e.field, "peer");
    px_watch_close(&w);
    assert_int_equal(l.found, 1);
}

static void a_shorter_limit_over_a_longer_one_counts(void **state)
{
    px_watch w;
    life l = {0};

    (void)state;
    open_on(&w, &l, PX_NEVER);
    px_watch_arm(&w, "long", 1, PX_NEVER);
    usleep(A_WHILE);
    px_watch_arm(&w, "longer", 2, LONG);
    usleep(A_WHILE);
    px_watch_arm(&w, "short", 3, 1000);
    wait_for(&l.found, 1);
    px_watch_close(&w);
    assert_string_equal(l.told.text, "short");
}

/* Steps follow each other closely: at its looks, and whenever it might be woken, the thread mostly finds one running. */
static void steps_do_not_wake_it(void **state)
{
    enum { STEPS = 200 };
    px_watch w;
    life l = {0};

    (void)state;
    open_on(&w, &l, A_WHILE);
    signals = 0;
    const px_time_us began = px_now_us();
    for (uint64_t i = 0; i < STEPS; i++) {
        px_watch_arm(&w, "a step", i, LONG);
        usleep(500);
        assert_int_equal(px_watch_disarm(&w, NULL), PX_OK);
    }
    assert_true(signals <= STEPS / 4);
    px_watch_close(&w);
    assert_true(l.asked <= (px_now_us() - began) / A_WHILE);
}

static void nobody_waits_for_an_answer(void **state)
{
    px_watch w;
    life l = { .slow = true };

    (void)state;
    open_on(&w, &l, 1000);
    px_watch_arm(&w, "a wait", 1, A_WHILE);
    wait_for(&l.asked, 1);
    assert_int_equal(px_watch_disarm(&w, NULL), PX_OK);
    px_watch_arm(&w, "a wait", 2, A_WHILE);
    assert_int_equal(px_watch_disarm(&w, NULL), PX_OK);
    assert_true(l.inside);
    usleep(2 * A_WHILE);                                   /* over before the answer came: not late */
    l.slow = false;
    px_watch_close(&w);
    assert_int_equal(l.found, 0);
}

/* Whoever disarmed has said, or done, what it had to: an answer to an older question is not found beside that. */
static void an_answer_after_the_wait_is_not_found(void **state)
{
    px_watch w;
    life l = { .slow = true, .broken = true };

    (void)state;
    open_on(&w, &l, 1000);
    px_watch_arm(&w, "a wait", 1, LONG);
    wait_for(&l.asked, 1);
    assert_int_equal(px_watch_disarm(&w, NULL), PX_OK);
    l.slow = false;
    px_watch_close(&w);                                    /* the answer is there */
    assert_int_equal(l.asked, 1);
    assert_int_equal(l.found, 0);
    l = (life){ .slow = true, .broken = true };
    open_on(&w, &l, 1000);
    px_watch_arm(&w, "a wait", 1, LONG);
    wait_for(&l.asked, 1);
    assert_int_equal(px_watch_disarm(&w, NULL), PX_OK);
    px_watch_arm(&w, "the next", 2, LONG);                 /* but of one that waits again, it is */
    l.slow = false;
    wait_for(&l.found, 1);
    assert_int_equal(px_watch_disarm(&w, NULL), PX_EPEER);
    px_watch_close(&w);
}

static void one_that_is_not_open_does_nothing(void **state)
{
    const px_watch_on on = { .every = PX_NEVER, .late = late, .found = found };
    px_watch w = {0};
    px_err e = {0};

    (void)state;
    no_thread = true;
    assert_int_equal(px_watch_open(&w, &on, "the step", &e), PX_ENOMEM);
    no_thread = false;
    assert_string_equal(e.field, "the step");
    assert_non_null(strstr(e.text, strerror(EAGAIN)));
    px_watch_arm(&w, "a wait", 1, 0);
    assert_int_equal(px_watch_disarm(&w, NULL), PX_OK);
    px_watch_close(&w);
    px_watch_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_ends_in_time_is_nothing),
        cmocka_unit_test(a_limit_gone_by_is_found_once),
        cmocka_unit_test(what_is_asked_is_found_while_armed),
        cmocka_unit_test(a_shorter_limit_over_a_longer_one_counts),
        cmocka_unit_test(steps_do_not_wake_it),
        cmocka_unit_test(nobody_waits_for_an_answer),
        cmocka_unit_test(an_answer_after_the_wait_is_not_found),
        cmocka_unit_test(one_that_is_not_open_does_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
