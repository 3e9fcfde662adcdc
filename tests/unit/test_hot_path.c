/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Proves what tendon.h says of tdn_context_run (and _warm): it allocates nothing, takes no lock, and
 * the one thing it asks of the system is a futex. Twice, since each proof has a gap that the other closes:
 *
 *   - the C library's functions for memory, locks and system calls are defined here, and count
 * calls while a run is on, in every thread (but a system call that is not made through the library
 * passes);
 *   - in a child process, a seccomp filter on the calling thread stops any system call but futex
 * (but a lock without contention makes none).
 *
 * Without a pool not even a futex is let through. With a pool the caller may wake, and may wait: it
 * does so when another thread takes very long over the last tile.
 *
 * Under the address and thread sanitizers, which do all of this themselves, only the runs remain.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <dlfcn.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "../plans.h"
#include "tendon/build.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

/* ---- Counting -------------------------------------------------------------------------------- */

static atomic_bool counting;
static atomic_int n_calls;
static _Atomic(const char *) first_call;

static void count_call(const char *name)
{
    if (!atomic_load(&counting))
        return;
    if (atomic_fetch_add(&n_calls, 1) == 0)
        atomic_store(&first_call, name);
}

#if !SANITIZED && defined(__GLIBC__)

/* The C library's own names for what is counted. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *__libc_memalign(size_t align, size_t size);
void __libc_free(void *memory);

void *malloc(size_t size)
{
    count_call("malloc");
    return __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    count_call("calloc");
    return __libc_calloc(n, size);
}

void *realloc(void *memory, size_t size)
{
    count_call("realloc");
    return __libc_realloc(memory, size);
}

void free(void *memory)
{
    count_call("free");
    __libc_free(memory);
}

void *aligned_alloc(size_t align, size_t size)
{
    count_call("aligned_alloc");
    return __libc_memalign(align, size);
}

void *memalign(size_t align, size_t size);
void *memalign(size_t align, size_t size)
{
    count_call("memalign");
    return __libc_memalign(align, size);
}

int posix_memalign(void **memory, size_t align, size_t size)
{
    count_call("posix_memalign");
    *memory = __libc_memalign(align, size);
    return *memory ? 0 : ENOMEM;
}

/* Counts, and goes on to the function that would have been called. */
#define COUNTED(result, name, parameters, arguments)                                               \
    result name parameters;                                                                        \
    result name parameters                                                                         \
    {                                                                                              \
        static result(*real) parameters;                                                           \
        if (!real)                                                                                 \
            *(void **)&real = dlsym(RTLD_NEXT, #name);                                             \
        count_call(#name);                                                                         \
        return real arguments;                                                                     \
    }
COUNTED(void *, mmap, (void *at, size_t size, int prot, int flags, int fd, off_t offset),
        (at, size, prot, flags, fd, offset))
COUNTED(int, munmap, (void *at, size_t size), (at, size))
COUNTED(int, madvise, (void *at, size_t size, int advice), (at, size, advice))
COUNTED(void *, sbrk, (intptr_t more), (more))
COUNTED(int, pthread_mutex_lock, (pthread_mutex_t * m), (m))
COUNTED(int, pthread_mutex_trylock, (pthread_mutex_t * m), (m))
COUNTED(int, pthread_rwlock_rdlock, (pthread_rwlock_t * l), (l))
COUNTED(int, pthread_rwlock_wrlock, (pthread_rwlock_t * l), (l))
COUNTED(int, pthread_spin_lock, (pthread_spinlock_t * l), (l))
COUNTED(int, pthread_cond_wait, (pthread_cond_t * c, pthread_mutex_t *m), (c, m))
COUNTED(int, pthread_cond_signal, (pthread_cond_t * c), (c))
COUNTED(int, pthread_cond_broadcast, (pthread_cond_t * c), (c))
COUNTED(int, pthread_once, (pthread_once_t * once, void (*f)(void)), (once, f))
COUNTED(int, pthread_create,
        (pthread_t * t, const pthread_attr_t *a, void *(*f)(void *), void *user), (t, a, f, user))
COUNTED(ssize_t, read, (int fd, void *to, size_t size), (fd, to, size))
COUNTED(ssize_t, write, (int fd, const void *from, size_t size), (fd, from, size))
COUNTED(int, open, (const char *path, int flags, ...), (path, flags, 0600))
COUNTED(int, nanosleep, (const struct timespec *t, struct timespec *left), (t, left))
COUNTED(int, usleep, (useconds_t t), (t))
COUNTED(int, sched_yield, (void), ())

long syscall(long number, ...)
{
    static long (*real)(long number, ...);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "syscall");
    va_list args;
    long a[6];
    va_start(args, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(args, long);
    va_end(args);
    if (number != SYS_futex)
        count_call("syscall");
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
#define COUNTS 1
#else
#define COUNTS 0
#endif

/* ---- What is run ----------------------------------------------------------------------------- */

enum { MAX_IO = 8 };

/* A plan on its way: from a model through the compiler, or made by hand. */
typedef struct subject {
    void *bytes;
    tdn_engine *engine;
    tdn_context *context;
    tdn_tensor tensors[MAX_IO];
    const char *names[MAX_IO];
    void *data[MAX_IO];
    int n;
} subject;

typedef struct source {
    const char *name;
    plan_maker *(*make)(void); /* NULL: the model tests/data/exports/<name>.onnx */
    int64_t batch;             /* extent of the batch axes, 0: the program's */
} source;

static plan_maker *make_buckets(void) { return plan_affine((int64_t[]){1, 64, 4096}, 3, 0); }
static plan_maker *make_buckets_inside(void) { return plan_affine((int64_t[]){1, 64, 4096}, 3, 1); }

static const source sources[] = {
    {"everything", plan_everything, 0},
    {"in place", make_buckets, 4096},
    {"staged", make_buckets, 4000},
    {"staged, axis 1", make_buckets_inside, 50},
    {"tcn_classic", NULL, 0},
    {"unet_classic", NULL, 0},
    {"dw_classic", NULL, 0},
    {"stg_classic", NULL, 0},
    {"tr_classic", NULL, 0},
    {"rnn_classic", NULL, 0},
    {"lif_classic", NULL, 0},
};
enum { N_SOURCES = sizeof sources / sizeof sources[0] };

static void *plan_of_model(const char *name, size_t *size)
{
    char path[256];
    snprintf(path, sizeof path, "tests/data/exports/%s.onnx", name);
    tdn_model *model;
    tdn_error error = {""};
    void *built = NULL;
    tdn_build_options options = TDN_BUILD_OPTIONS_INIT;
    if (tdn_model_load(&model, path, NULL, &error) != TDN_OK ||
        tdn_build(model, &options, &built, size, &error) != TDN_OK)
        fail_msg("%s", error.text);
    void *bytes = tdn_alloc(NULL, *size, TDN_ALIGN);
    memcpy(bytes, built, *size);
    tdn_plan_free(built);
    tdn_model_free(model);
    return bytes;
}

static void bind_all(subject *s)
{
    for (int i = 0; i < s->n; i++)
        assert_int_equal(tdn_context_bind(s->context, s->names[i], &s->tensors[i]), TDN_OK);
}

static void add_tensor(subject *s, const tdn_io_info *io, int64_t batch)
{
    tdn_tensor *t = &s->tensors[s->n];
    *t = tdn_tensor_make(NULL, io->dtype, io->rank, io->dims);
    if (io->batch_axis >= 0 && batch > 0)
        t->dims[io->batch_axis] = batch;
    int64_t count = 1;
    for (int i = 0; i < t->rank; i++)
        count *= t->dims[i];
    const size_t size = tdn_dtype_size(t->dtype, (size_t)count);
    t->data = s->data[s->n] = tdn_alloc_zero(NULL, size, TDN_ALIGN);
    if (t->dtype == TDN_F32)
        for (int64_t i = 0; i < count; i++)
            ((float *)t->data)[i] = (float)(i * 7919 % 1000) / 500 - 1;
    s->names[s->n++] = io->name;
}

static subject subject_new(const source *from, tdn_pool *pool)
{
    subject s = {0};
    size_t size;
    tdn_error error = {""};
    s.bytes = from->make ? plan_bytes(from->make(), &size) : plan_of_model(from->name, &size);
    tdn_context_options options = TDN_CONTEXT_OPTIONS_INIT;
    options.pool = pool;
    options.profile = 1;
    if (tdn_engine_load_memory(&s.engine, s.bytes, size, NULL, &error) != TDN_OK ||
        tdn_context_create(&s.context, s.engine, &options, &error) != TDN_OK)
        fail_msg("%s: %s", from->name, error.text);
    tdn_io_info io = {.struct_size = sizeof io};
    for (int i = 0; i < tdn_engine_n_inputs(s.engine); i++) {
        assert_int_equal(tdn_engine_input(s.engine, 0, i, &io), TDN_OK);
        add_tensor(&s, &io, from->batch);
    }
    for (int i = 0; i < tdn_engine_n_outputs(s.engine); i++) {
        assert_int_equal(tdn_engine_output(s.engine, 0, i, &io), TDN_OK);
        add_tensor(&s, &io, from->batch);
    }
    for (int i = 0; i < s.n; i++)
        if (strcmp(s.names[i], "trips") == 0)
            *(int64_t *)s.data[i] = 3;
    bind_all(&s);
    return s;
}

static void subject_free(subject *s)
{
    tdn_context_free(s->context);
    tdn_engine_free(s->engine);
    for (int i = 0; i < s->n; i++)
        tdn_free(NULL, s->data[i]);
    tdn_free(NULL, s->bytes);
}

/* What a user's loop does: bind, warm and run. False where a run fails. */
static bool loop(subject *s, int n)
{
    bool good = true;
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < s->n; k++)
            good = good && tdn_context_bind(s->context, s->names[k], &s->tensors[k]) == TDN_OK;
        tdn_context_warm(s->context);
        good = good && tdn_context_run(s->context) == TDN_OK;
    }
    return good;
}

static tdn_pool *pool_of(int n_threads)
{
    tdn_pool *pool = NULL;
    tdn_pool_options options = TDN_POOL_OPTIONS_INIT;
    options.n_threads = n_threads;
    options.spin_us = 1; /* so that workers sleep and are woken */
    if (n_threads > 0)
        assert_int_equal(tdn_pool_create(&pool, &options, NULL), TDN_OK);
    return pool;
}

/* ---- By counting ----------------------------------------------------------------------------- */

static int count_during(subject *s)
{
    atomic_store(&n_calls, 0);
    atomic_store(&counting, true);
    const bool good = loop(s, 5);
    atomic_store(&counting, false);
    assert_true(good);
    return atomic_load(&n_calls);
}

static void test_nothing_is_called(void **state)
{
    (void)state;
    for (int threads = 0; threads <= 3; threads += 3) {
        tdn_pool *pool = pool_of(threads);
        for (int i = 0; i < N_SOURCES; i++) {
            subject s = subject_new(&sources[i], pool);
            const int n = count_during(&s);
            if (n != 0)
                fail_msg("%s with %d threads: %d calls, the first of %s", sources[i].name, threads,
                         n, atomic_load(&first_call));
            subject_free(&s);
        }
        tdn_pool_free(pool);
    }
}

/* Counting counts: otherwise the test above would prove nothing. */
static void test_the_count_counts(void **state)
{
    (void)state;
    if (!COUNTS)
        skip();
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    atomic_store(&n_calls, 0);
    atomic_store(&counting, true);
    void *volatile memory = malloc(10);
    free(memory);
    void *volatile data = tdn_alloc(NULL, 64, 64); /* from inside the library */
    pthread_mutex_lock(&mutex);
    pthread_mutex_unlock(&mutex);
    syscall(SYS_getpid, 0, 0, 0, 0, 0, 0);
    atomic_store(&counting, false);
    assert_int_equal(atomic_load(&n_calls), 5);
    assert_string_equal(atomic_load(&first_call), "malloc");
    tdn_free(NULL, data);
}

/* ---- By a filter ----------------------------------------------------------------------------- */

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#endif
enum { NO_FILTER = 77, CALLED = 78, WRONG = 79 };

static int report_fd;

static void on_call(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)context;
    const int number = info->si_syscall;
    (void)!write(report_fd, &number, sizeof number);
    _exit(CALLED);
}

/* From now on this thread may end, report, and (with `futex`) wake or wait; any other call is
 * caught. */
static bool forbid_calls(bool futex)
{
#ifdef ARCH
    struct sigaction action = {.sa_sigaction = on_call, .sa_flags = SA_SIGINFO};
    sigaction(SIGSYS, &action, NULL);
#define FIELD(name) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, name))
#define ALLOW_IF(value)                                                                            \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (value), 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
    struct sock_filter filter[] = {
        FIELD(arch),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        FIELD(nr),
        ALLOW_IF(SYS_exit_group),
        ALLOW_IF(SYS_exit),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_write, 0, 3), /* the report alone */
        FIELD(args[0]),
        ALLOW_IF((uint32_t)report_fd),
        FIELD(nr),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, futex ? SYS_futex : 0xffffffff, 0, 5),
        FIELD(args[1]),
        ALLOW_IF(FUTEX_WAKE_PRIVATE),
        ALLOW_IF(FUTEX_WAIT_PRIVATE),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
    };
    const struct sock_fprog program = {sizeof filter / sizeof filter[0], filter};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
#else
    (void)futex;
    (void)on_call;
    errno = ENOSYS;
    return false;
#endif
}

static void child(const source *from, int n_threads, bool disobey)
{
    subject s = subject_new(from, pool_of(n_threads));
    if (!forbid_calls(n_threads > 0))
        _exit(NO_FILTER);
    if (disobey)
        getppid();
    _exit(loop(&s, 10) ? 0 : WRONG);
}

/* How the child ended; *number is the call that it was caught at. */
static int run_child(const source *from, int n_threads, bool disobey, int *number)
{
    int ends[2], status = 0;
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        report_fd = ends[1];
        child(from, n_threads, disobey);
    }
    close(ends[1]);
    *number = -1;
    (void)!read(ends[0], number, sizeof *number);
    close(ends[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void skip_where_there_is_no_filter(void)
{
    int number;
    if (!SANITIZED && run_child(&sources[0], 0, false, &number) != NO_FILTER)
        return;
    print_message("skipped: %s\n", SANITIZED ? "a sanitizer makes system calls of its own"
                                             : "no seccomp filter here");
    skip();
}

static void test_no_system_call(void **state)
{
    (void)state;
    skip_where_there_is_no_filter();
    for (int i = 0; i < N_SOURCES; i++)
        for (int threads = 0; threads <= 3; threads += 3) {
            int number;
            const int end = run_child(&sources[i], threads, false, &number);
            if (end != 0)
                fail_msg("%s with %d threads: the child ended with %d, system call %d",
                         sources[i].name, threads, end, number);
        }
}

/* The filter filters. */
static void test_the_filter_filters(void **state)
{
    (void)state;
    skip_where_there_is_no_filter();
    int number;
    assert_int_equal(run_child(&sources[0], 0, true, &number), CALLED);
    assert_int_equal(number, SYS_getppid);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_count_counts),
        cmocka_unit_test(test_nothing_is_called),
        cmocka_unit_test(test_the_filter_filters),
        cmocka_unit_test(test_no_system_call),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
