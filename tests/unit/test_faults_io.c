/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each system call that a file is read and written with fails, one after the other, in each way
 * that it can: what was there stays whole, nothing else is left in the folder, the words name the
 * file. This program's own open, write, ... take the place of the C library's.
 *
 * And files that change under a reader, a model or a running engine.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "plan/plan.h"
#include "protobuf.h"
#include "tendon/build.h"
#include "tendon/calibrate.h"

/* ---- The calls ------------------------------------------------------------------------------- */

/* A case of a call's misbehaviour: code 0 stands for half of the bytes. */
typedef struct fault {
    const char *call;
    int code;
    bool harmless; /* must be survived */
} fault;

static struct {
    fault fault; /* call NULL: none */
    int at, n;   /* the call that fails, and how many there were */
    void (*when)(void);
} injected;

static bool hits(const char *call)
{
    if (!injected.fault.call || strcmp(call, injected.fault.call) != 0 ||
        injected.n++ != injected.at)
        return false;
    errno = injected.fault.code;
    return true;
}

static size_t part(size_t size) { return size > 1 ? size / 2 : size; }

int open(const char *path, int flags, ...)
{
    va_list mode;
    va_start(mode, flags);
    const int bits = flags & O_CREAT ? va_arg(mode, int) : 0;
    va_end(mode);
    return hits("open") ? -1 : (int)syscall(SYS_openat, AT_FDCWD, path, flags, bits);
}

ssize_t write(int fd, const void *data, size_t size)
{
    if (!hits("write"))
        return syscall(SYS_write, fd, data, size);
    return injected.fault.code ? -1 : syscall(SYS_write, fd, data, part(size));
}

ssize_t pread(int fd, void *data, size_t size, off_t offset)
{
    if (injected.when && offset == 0)
        injected.when();
    if (!hits("pread"))
        return syscall(SYS_pread64, fd, data, size, offset);
    return injected.fault.code ? -1 : syscall(SYS_pread64, fd, data, part(size), offset);
}

int fsync(int fd) { return hits("fsync") ? -1 : (int)syscall(SYS_fsync, fd); }

int close(int fd) /* closes in any case, as Linux does */
{
    const bool fails = hits("close");
    const int code = (int)syscall(SYS_close, fd);
    if (fails)
        errno = injected.fault.code;
    return fails ? -1 : code;
}

int rename(const char *from, const char *to)
{
    return hits("rename") ? -1 : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

/* ---- The folder ------------------------------------------------------------------------------ */

static char folder[PATH_MAX];

static int make_folder(void **state)
{
    (void)state;
    const char *tmp = getenv("TDN_TEST_TMP");
    snprintf(folder, sizeof folder, "%s/faults-XXXXXX", tmp ? tmp : "/tmp");
    return mkdtemp(folder) && chdir(folder) == 0 ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    DIR *dir = opendir(".");
    for (struct dirent *e; (e = readdir(dir)) != NULL;)
        unlink(e->d_name);
    closedir(dir);
    return chdir("/") == 0 && rmdir(folder) == 0 ? 0 : -1;
}

static int n_files(void)
{
    DIR *dir = opendir(".");
    int n = -2; /* . and .. */
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static void put(const char *path, const void *data, size_t size)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    assert_int_equal(write(fd, data, size), size);
    close(fd);
}

/* The lowest number that a new file gets: the same as before, or one was left open. */
static int next_fd(void)
{
    const int fd = open("/dev/null", O_RDONLY);
    close(fd);
    return fd;
}

static void assert_holds(const char *path, const char *text)
{
    char data[64] = "";
    const int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(read(fd, data, sizeof data), strlen(text));
    close(fd);
    assert_string_equal(data, text);
}

/* ---- Writing --------------------------------------------------------------------------------- */

static const fault write_faults[] = {
    {"open", EACCES, false}, {"open", EMFILE, false},  {"open", ENOSPC, false},
    {"open", EROFS, false},  {"open", EINTR, true},    {"write", ENOSPC, false},
    {"write", EIO, false},   {"write", EDQUOT, false}, {"write", EINTR, true},
    {"write", 0, true},      {"fsync", EIO, false},    {"fsync", ENOSPC, false},
    {"fsync", EINTR, true},  {"close", EIO, false},    {"close", EDQUOT, false},
    {"close", EINTR, true},  {"rename", EXDEV, false}, {"rename", ENOSPC, false},
    {"rename", EIO, false},
};

/* Makes call number 0, 1, ... fail until there are fewer. Returns how many writes failed. */
static int write_under(fault f, const char *path, const char *old)
{
    int n_failed = 0;
    bool hit = true;
    for (int at = 0; hit; at++) {
        put("file", old, strlen(old));
        const int before = n_files(), fd = next_fd();
        tdn_error error = {""};
        injected.fault = f;
        injected.at = at;
        injected.n = 0;
        const tdn_status status = tdn_file_write(path, "new bytes", 9, &error);
        injected.fault.call = NULL;
        hit = injected.n > at;
        assert_int_equal(n_files(), before);
        assert_int_equal(next_fd(), fd);
        assert_holds("file", status == TDN_OK ? "new bytes" : old);
        if (status == TDN_OK)
            continue;
        n_failed++;
        assert_int_equal(status, TDN_E_IO);
        assert_non_null(strstr(error.text, path));
        assert_non_null(strstr(error.text, strerror(f.code)));
    }
    return n_failed;
}

/* What fails behind the rename costs nothing: the file is whole by then. */
static void each_call_of_a_write_fails(void **state)
{
    (void)state;
    put("file", "", 0);
    assert_int_equal(symlink("file", "link"), 0);
    for (size_t i = 0; i < sizeof write_faults / sizeof *write_faults; i++) {
        const fault f = write_faults[i];
        const int expected = f.harmless ? 0 : 1;
        assert_int_equal(write_under(f, "file", "old"), expected);
        assert_int_equal(write_under(f, "link", "older"), expected);
    }
    assert_holds("link", "new bytes");
    unlink("link");
    unlink("file");
}

/* A new file is there as a whole, or not at all. */
static void a_new_file_under_failing_calls(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof write_faults / sizeof *write_faults; i++) {
        injected.fault = write_faults[i];
        injected.at = injected.n = 0;
        const tdn_status status = tdn_file_write("fresh", "new bytes", 9, NULL);
        injected.fault.call = NULL;
        assert_int_equal(status, write_faults[i].harmless ? TDN_OK : TDN_E_IO);
        assert_int_equal(n_files(), status == TDN_OK);
        unlink("fresh");
    }
}

static void places_that_cannot_be_written(void **state)
{
    (void)state;
    tdn_error error;
    assert_int_equal(tdn_file_write("/dev/full", "x", 1, &error), TDN_E_IO);
    assert_string_equal(error.text, "cannot write '/dev/full': No space left on device");
    assert_int_equal(mkdir("folder", 0755), 0);
    assert_int_equal(tdn_file_write("folder", "x", 1, &error), TDN_E_IO);
    assert_string_equal(error.text, "cannot write 'folder': Is a directory");
    assert_int_equal(tdn_file_write("folder/", "x", 1, &error), TDN_E_IO);
    assert_int_equal(n_files(), 1);
    if (geteuid() != 0) { /* root writes where it likes */
        assert_int_equal(chmod("folder", 0555), 0);
        assert_int_equal(tdn_file_write("folder/x", "x", 1, &error), TDN_E_IO);
        assert_string_equal(error.text, "cannot write 'folder/x': Permission denied");
    }
    assert_int_equal(rmdir("folder"), 0);
    put("file", "old", 3);
    assert_int_equal(tdn_file_write("file/x", "x", 1, &error), TDN_E_IO);
    assert_int_equal(symlink("loop", "loop"), 0);
    assert_int_equal(tdn_file_write("loop/x", "x", 1, &error), TDN_E_IO);
    assert_int_equal(symlink("nowhere/at/all", "dangling"), 0);
    assert_int_equal(tdn_file_write("dangling", "x", 1, &error), TDN_OK); /* replaces the link */
    assert_holds("dangling", "x");
    char name[PATH_MAX];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = 0;
    assert_int_equal(tdn_file_write(name, "x", 1, &error), TDN_E_IO);
    assert_int_equal(n_files(), 3);
    unlink("dangling");
    unlink("loop");
    unlink("file");
}

/* The signal for it would end the process. */
static void a_limit_of_sizes(void **state)
{
    (void)state;
    static const char large[100000];
    struct rlimit limit, small;
    tdn_error error;
    put("file", "old", 3);
    signal(SIGXFSZ, SIG_DFL);
    getrlimit(RLIMIT_FSIZE, &limit);
    small = limit;
    for (rlim_t at = 0; at < sizeof large; at += 9999) {
        small.rlim_cur = at;
        setrlimit(RLIMIT_FSIZE, &small);
        const tdn_status status = tdn_file_write("file", large, sizeof large, &error);
        setrlimit(RLIMIT_FSIZE, &limit);
        assert_int_equal(status, TDN_E_IO);
        assert_string_equal(error.text, "cannot write 'file': File too large");
        assert_holds("file", "old");
        assert_int_equal(n_files(), 1);
    }
    unlink("file");
}

/* A process that is told to end while it writes, again and again: files whole, nothing else. */
static void a_signal_during_writes(void **state)
{
    (void)state;
    static char bytes[300000];
    for (int round = 0; round < 20; round++) {
        const pid_t child = fork();
        if (child == 0)
            for (;;)
                tdn_file_write("file", bytes, sizeof bytes, NULL);
        usleep((useconds_t)(2000 + 1357 * round));
        kill(child, round % 2 ? SIGTERM : SIGINT);
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
        struct stat info;
        if (stat("file", &info) == 0)
            assert_int_equal(info.st_size, sizeof bytes);
        assert_true(n_files() <= 1);
    }
    unlink("file");
}

/* ---- Reading --------------------------------------------------------------------------------- */

static void each_call_of_a_read_fails(void **state)
{
    (void)state;
    static const fault faults[] = {
        {"open", EACCES, false}, {"open", EMFILE, false},  {"open", EINTR, true},
        {"pread", EIO, false},   {"pread", ESTALE, false}, {"pread", EINTR, true},
        {"pread", 0, true},      {"close", EIO, true},
    };
    put("file", "some bytes", 10);
    const int fd = next_fd();
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        tdn_map map;
        tdn_error error;
        injected.fault = faults[i];
        injected.at = injected.n = 0;
        const tdn_status status = tdn_map_open(&map, "file", &error);
        injected.fault.call = NULL;
        assert_true(injected.n > 0);
        assert_int_equal(status, faults[i].harmless ? TDN_OK : TDN_E_IO);
        if (status == TDN_OK)
            assert_memory_equal(map.data, "some bytes", 10);
        else
            assert_non_null(strstr(error.text, "'file': "));
        tdn_map_close(&map);
        assert_int_equal(next_fd(), fd);
    }
    unlink("file");
}

static void cut(void) { assert_int_equal(truncate("file", 4), 0); }
static void grow(void) { put("file", "some more bytes than there were", 31); }
static void touch(void)
{
    usleep(20000); /* clocks of files are coarse */
    put("file", "same bytes", 10);
}

static void a_file_that_changes_while_it_is_read(void **state)
{
    (void)state;
    static void (*const changes[])(void) = {cut, grow, touch};
    static const char *const words[] = {"'file' was cut short while it was read",
                                        "'file' was changed while it was read",
                                        "'file' was changed while it was read"};
    for (int i = 0; i < 3; i++) {
        tdn_map map;
        tdn_error error;
        put("file", "some bytes", 10);
        injected.when = changes[i];
        const tdn_status status = tdn_map_open(&map, "file", &error);
        injected.when = NULL;
        assert_int_equal(status, TDN_E_IO);
        assert_string_equal(error.text, words[i]);
        assert_int_equal(map.size, 0);
    }
    unlink("file");
}

/* ---- Engines and models over files that change ----------------------------------------------- */

enum { N = 2000 };

/* y = relu(x + w), with w[i] = i beside the model, or in it where `external` is NULL. */
static pb model_of(const char *external)
{
    static float w[N];
    static const int64_t dims[] = {N};
    for (int i = 0; i < N; i++)
        w[i] = (float)i;
    pb g = {0}, tensor = onnx_tensor("w", FLOAT, 1, dims);
    if (external) {
        pb entry = {0};
        pb_text(&entry, 1, "location");
        pb_text(&entry, 2, external);
        pb_message(&tensor, 13, entry);
        pb_int(&tensor, 14, 1);
        put(external, w, sizeof w);
    } else {
        pb_bytes(&tensor, 9, w, sizeof w);
    }
    pb_message(&g, 1, onnx_node("Add", "add", "x w", "sum"));
    pb_message(&g, 1, onnx_node("Relu", "relu", "sum", "y"));
    pb_message(&g, 5, tensor);
    pb_message(&g, 11, onnx_io("x", FLOAT, 1, dims));
    pb_message(&g, 12, onnx_io("y", FLOAT, 1, dims));
    return onnx_model(g);
}

static void put_model(const char *path, const char *external)
{
    const pb bytes = model_of(external);
    put(path, bytes.data, bytes.n);
    free(bytes.data);
}

/* Runs on zeros: y is w. */
static void assert_runs(tdn_engine *engine)
{
    static float x[N], y[N];
    static const int64_t dims[] = {N};
    const tdn_tensor in = tdn_tensor_make(x, TDN_F32, 1, dims);
    const tdn_tensor out = tdn_tensor_make(y, TDN_F32, 1, dims);
    tdn_context *c;
    memset(y, 0xff, sizeof y);
    assert_int_equal(tdn_context_create(&c, engine, NULL, NULL), TDN_OK);
    assert_int_equal(tdn_context_bind(c, "x", &in), TDN_OK);
    assert_int_equal(tdn_context_bind(c, "y", &out), TDN_OK);
    assert_int_equal(tdn_context_run(c), TDN_OK);
    for (int i = 0; i < N; i++)
        assert_true(y[i] == (float)i);
    tdn_context_free(c);
}

static void build(const char *onnx, const char *plan)
{
    const tdn_build_options options = TDN_BUILD_OPTIONS_INIT;
    tdn_model *model;
    assert_int_equal(tdn_model_load(&model, onnx, NULL, NULL), TDN_OK);
    assert_int_equal(tdn_build_file(model, &options, plan, NULL), TDN_OK);
    tdn_model_free(model);
}

static void a_plan_that_changes_under_its_engine(void **state)
{
    (void)state;
    static const char noise[4096] = "what a plan never holds";
    tdn_engine *engine;
    put_model("m.onnx", NULL);
    build("m.onnx", "m.plan");
    assert_int_equal(tdn_engine_load(&engine, "m.plan", NULL, NULL), TDN_OK);
    assert_runs(engine);
    const int fd = open("m.plan", O_WRONLY);
    for (int i = 0; i < 8; i++)
        assert_int_equal(write(fd, noise, sizeof noise), sizeof noise);
    close(fd);
    assert_runs(engine);
    assert_int_equal(truncate("m.plan", 0), 0);
    assert_runs(engine);
    assert_int_equal(unlink("m.plan"), 0);
    assert_runs(engine);
    tdn_engine_free(engine);
    unlink("m.onnx");
}

/* Every length of a plan that was cut, up to a step: an error, no signal. */
static void a_plan_that_was_cut(void **state)
{
    (void)state;
    put_model("m.onnx", NULL);
    build("m.onnx", "m.plan");
    struct stat info;
    assert_int_equal(stat("m.plan", &info), 0);
    for (off_t size = info.st_size - 1; size >= 0; size -= size > 1000 ? 61 : 1) {
        tdn_engine *engine;
        tdn_error error;
        assert_int_equal(truncate("m.plan", size), 0);
        assert_int_equal(tdn_engine_load(&engine, "m.plan", NULL, &error), TDN_E_FORMAT);
        assert_null(engine);
        assert_non_null(strstr(error.text, "m.plan"));
    }
    unlink("m.plan");
    unlink("m.onnx");
}

static void a_model_that_changes_while_it_is_built(void **state)
{
    (void)state;
    const tdn_build_options options = TDN_BUILD_OPTIONS_INIT;
    tdn_model *model;
    tdn_engine *engine;
    put_model("m.onnx", "w.bin");
    assert_int_equal(tdn_model_load(&model, "m.onnx", NULL, NULL), TDN_OK);
    assert_int_equal(truncate("m.onnx", 0), 0);
    assert_int_equal(truncate("w.bin", 0), 0);
    assert_int_equal(tdn_build_file(model, &options, "m.plan", NULL), TDN_OK);
    tdn_model_free(model);
    assert_int_equal(tdn_engine_load(&engine, "m.plan", NULL, NULL), TDN_OK);
    assert_runs(engine);
    tdn_engine_free(engine);
    put_model("m.onnx", "w.bin");
    assert_int_equal(truncate("w.bin", 100), 0);
    assert_int_equal(tdn_model_load(&model, "m.onnx", NULL, NULL), TDN_OK);
    assert_int_equal(tdn_build_file(model, &options, "m.plan", NULL), TDN_E_MODEL);
    tdn_model_free(model);
    unlink("m.onnx");
    unlink("w.bin");
    unlink("m.plan");
}

/* A build whose file cannot be written leaves the old plan, and says which file. */
static void each_call_of_a_build_fails(void **state)
{
    (void)state;
    const tdn_build_options options = TDN_BUILD_OPTIONS_INIT;
    tdn_model *model;
    put_model("m.onnx", NULL);
    assert_int_equal(tdn_model_load(&model, "m.onnx", NULL, NULL), TDN_OK);
    for (size_t i = 0; i < sizeof write_faults / sizeof *write_faults; i++) {
        tdn_error error = {""};
        put("file", "old", 3);
        const int before = n_files();
        injected.fault = write_faults[i];
        injected.at = injected.n = 0;
        const tdn_status status = tdn_build_file(model, &options, "file", &error);
        injected.fault.call = NULL;
        assert_int_equal(n_files(), before);
        if (write_faults[i].harmless) {
            assert_int_equal(status, TDN_OK);
            continue;
        }
        assert_int_equal(status, TDN_E_IO);
        assert_non_null(strstr(error.text, "'file'"));
        assert_holds("file", "old");
    }
    tdn_model_free(model);
    unlink("m.onnx");
    unlink("file");
}

static tdn_calibration *calibration_of(const char *text)
{
    tdn_calibration *c;
    assert_int_equal(tdn_calibration_load_memory(&c, text, strlen(text), NULL, 0, "memory", NULL),
                     TDN_OK);
    return c;
}

/* Either of two calibrations, whole, or words that their files do not belong together. */
static void assert_whole(const char *path, bool is_saved)
{
    tdn_calibration *c;
    tdn_error error;
    tdn_calibration_range r = {.struct_size = sizeof r};
    const tdn_status status = tdn_calibration_load(&c, path, &error);
    if (status == TDN_OK) {
        assert_int_equal(tdn_calibration_find(c, "x", &r), TDN_OK);
        assert_true(r.amax == (is_saved ? 254 : 127));
    } else {
        assert_false(is_saved);
        assert_int_equal(status, TDN_E_FORMAT);
        assert_non_null(strstr(error.text, "is not the cache that"));
    }
    tdn_calibration_free(c);
}

/* Of the two files of a calibration, neither may speak for another one's. */
static void each_call_of_a_calibration_fails(void **state)
{
    (void)state;
    tdn_calibration *old = calibration_of("TRT-1-EntropyCalibration2\nx: 3f800000\n");
    tdn_calibration *new = calibration_of("TRT-1-EntropyCalibration2\nx: 40000000\n");
    int n_failed = 0;
    for (size_t i = 0; i < sizeof write_faults / sizeof *write_faults; i++)
        for (int at = 0; at < 4; at++) {
            tdn_error error = {""};
            assert_int_equal(tdn_calibration_save(old, "file", NULL), TDN_OK);
            const int fd = next_fd();
            injected.fault = write_faults[i];
            injected.at = at;
            injected.n = 0;
            const tdn_status status = tdn_calibration_save(new, "file", &error);
            injected.fault.call = NULL;
            assert_int_equal(n_files(), 2);
            assert_int_equal(next_fd(), fd);
            n_failed += status != TDN_OK;
            assert_true(status == TDN_OK || strstr(error.text, "'file"));
            assert_whole("file", status == TDN_OK);
            unlink("file");
            unlink("file.json");
            injected.fault = write_faults[i];
            injected.n = 0;
            const tdn_status fresh = tdn_calibration_save(new, "file", NULL);
            injected.fault.call = NULL;
            assert_int_equal(n_files(), fresh == TDN_OK ? 2 : 0);
            unlink("file");
            unlink("file.json");
        }
    assert_true(n_failed > 20);
    tdn_calibration_free(old);
    tdn_calibration_free(new);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_call_of_a_write_fails),
        cmocka_unit_test(a_new_file_under_failing_calls),
        cmocka_unit_test(places_that_cannot_be_written),
        cmocka_unit_test(a_limit_of_sizes),
        cmocka_unit_test(a_signal_during_writes),
        cmocka_unit_test(each_call_of_a_read_fails),
        cmocka_unit_test(a_file_that_changes_while_it_is_read),
        cmocka_unit_test(a_plan_that_changes_under_its_engine),
        cmocka_unit_test(a_plan_that_was_cut),
        cmocka_unit_test(a_model_that_changes_while_it_is_built),
        cmocka_unit_test(each_call_of_a_build_fails),
        cmocka_unit_test(each_call_of_a_calibration_fails),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
