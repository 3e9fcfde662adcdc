/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files: private copies to read, and writes that are whole or not at all.
 *
 * A file that is mapped shares its fate: one that is cut short under the map raises SIGBUS at the
 * next look, one that is written to changes what was checked. So bytes are read into memory of
 * their own, which costs a copy at the speed of memory and makes every later change harmless; a
 * change during the reading is an error.
 *
 * A write goes to a new file beside the wanted one, is flushed to the disk, and takes its place by
 * rename, so a reader sees the old bytes or the new ones, never a mixture. Signals wait meanwhile,
 * so that an interrupted program leaves no half file behind. A path that names something else than
 * a regular file (/dev/null, a pipe) is written to directly: renaming over it would destroy it.
 */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/memory.h"

static tdn_status fail_io(tdn_error *error, const char *what, const char *path)
{
    char words[128];
    return tdn_fail(error, TDN_E_IO, "%s '%s': %s", what, path,
                    strerror_r(errno, words, sizeof words));
}

static int open_retrying(const char *path, int flags)
{
    int fd;
    do {
        fd = open(path, flags | O_CLOEXEC, 0666);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

/* ---- Reading --------------------------------------------------------------------------------- */

static tdn_status reserve(tdn_source *s, tdn_error *error)
{
    struct stat info;
    if (fstat(s->fd, &info) != 0)
        return fail_io(error, "cannot read", s->path);
    if (!S_ISREG(info.st_mode))
        return tdn_fail(error, TDN_E_IO, "cannot read '%s': it is not a regular file", s->path);
    s->changed = info.st_mtim;
    if (info.st_size == 0)
        return TDN_OK;
    void *data = mmap(NULL, (size_t)info.st_size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED)
        return tdn_fail(error, TDN_E_NOMEM, "out of memory for the %lld bytes of '%s'",
                        (long long)info.st_size, s->path);
    s->map = (tdn_map){data, (size_t)info.st_size};
    /* Large pages where there are any: they are filled in a third of the time, and weights that no
     * cache holds are read in half of it. */
    if (s->map.size >= TDN_LARGE_PAGE)
        madvise(data, s->map.size, MADV_HUGEPAGE);
    return TDN_OK;
}

tdn_status tdn_source_open(tdn_source *s, const char *path, tdn_error *error)
{
    /* A pipe without a writer must not block. */
    *s = (tdn_source){.path = path, .fd = open_retrying(path, O_RDONLY | O_NONBLOCK)};
    if (s->fd < 0)
        return fail_io(error, "cannot open", path);
    const tdn_status status = reserve(s, error);
    if (status != TDN_OK)
        tdn_source_close(s);
    return status;
}

tdn_status tdn_source_fill(tdn_source *s, size_t offset, size_t size, tdn_error *error)
{
    if (offset > s->map.size || size > s->map.size - offset)
        return tdn_fail(error, TDN_E_FORMAT, "'%s' has %zu bytes, not %zu behind byte %zu", s->path,
                        s->map.size, size, offset);
    uint8_t *const data = (uint8_t *)(uintptr_t)s->map.data;
    for (const size_t end = offset + size; offset < end;) {
        const ssize_t n = pread(s->fd, data + offset, end - offset, (off_t)offset);
        if (n == 0)
            return tdn_fail(error, TDN_E_IO, "'%s' was cut short while it was read", s->path);
        if (n < 0 && errno != EINTR)
            return fail_io(error, "cannot read", s->path);
        offset += n < 0 ? 0 : (size_t)n;
    }
    return TDN_OK;
}

tdn_status tdn_source_take(tdn_source *s, tdn_map *map, tdn_error *error)
{
    struct stat info;
    if (fstat(s->fd, &info) != 0)
        return fail_io(error, "cannot read", s->path);
    if ((uint64_t)info.st_size != s->map.size || info.st_mtim.tv_sec != s->changed.tv_sec ||
        info.st_mtim.tv_nsec != s->changed.tv_nsec)
        return tdn_fail(error, TDN_E_IO, "'%s' was changed while it was read", s->path);
    /* So that a stray write shows; where the system refuses, nothing else is lost. */
    if (s->map.size > 0)
        mprotect((void *)(uintptr_t)s->map.data, s->map.size, PROT_READ);
    *map = s->map;
    s->map = (tdn_map){NULL, 0};
    return TDN_OK;
}

void tdn_source_close(tdn_source *s)
{
    tdn_map_close(&s->map);
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
}

tdn_status tdn_map_open(tdn_map *map, const char *path, tdn_error *error)
{
    tdn_source source;
    *map = (tdn_map){NULL, 0};
    TDN_TRY(tdn_source_open(&source, path, error));
    tdn_status status = tdn_source_fill(&source, 0, source.map.size, error);
    if (status == TDN_OK)
        status = tdn_source_take(&source, map, error);
    tdn_source_close(&source);
    return status;
}

void tdn_map_close(tdn_map *map)
{
    if (map->size > 0)
        munmap((void *)(uintptr_t)map->data, map->size);
    *map = (tdn_map){NULL, 0};
}

/* ---- Writing --------------------------------------------------------------------------------- */

/* Sets errno on failure. */
static bool write_all(int fd, const char *data, size_t size)
{
    while (size > 0) {
        const ssize_t n = write(fd, data, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0)
            errno = ENOSPC; /* nothing said, nothing written */
        if (n <= 0)
            return false;
        data += n;
        size -= (size_t)n;
    }
    return true;
}

static bool flush(int fd)
{
    int code;
    do {
        code = fsync(fd);
    } while (code != 0 && errno == EINTR);
    return code == 0;
}

/* Closing may be where a network file system tells of a failed write. An interrupted close has
 * closed. */
static bool fill_and_close(int fd, const void *data, size_t size, bool to_disk)
{
    bool good = write_all(fd, data, size) && (!to_disk || flush(fd));
    const int why = errno;
    if (close(fd) != 0 && errno != EINTR && good)
        return false;
    errno = why;
    return good;
}

static tdn_status write_direct(const char *path, const void *data, size_t size, tdn_error *error)
{
    const int fd = open_retrying(path, O_WRONLY);
    if (fd < 0 || !fill_and_close(fd, data, size, false))
        return fail_io(error, "cannot write", path);
    return TDN_OK;
}

/* A new file path.tmpPID, or path.tmpPID-1, ... where another thread or a killed process left that
 * one. */
static int open_aside(char *aside, size_t aside_size, const char *path)
{
    for (int i = 0; i < 100; i++) {
        int n = i == 0 ? snprintf(aside, aside_size, "%s.tmp%ld", path, (long)getpid())
                       : snprintf(aside, aside_size, "%s.tmp%ld-%d", path, (long)getpid(), i);
        if (n < 0 || (size_t)n >= aside_size) {
            errno = ENAMETOOLONG;
            return -1;
        }
        const int fd = open_retrying(aside, O_WRONLY | O_CREAT | O_EXCL);
        if (fd >= 0 || errno != EEXIST)
            return fd;
    }
    return -1;
}

/* Makes the rename itself last through a power cut, where the system can; failing that, the data is
 * still whole. */
static void flush_folder(char *path)
{
    char *slash = strrchr(path, '/');
    if (slash)
        slash[slash == path] = 0;
    const int fd = open_retrying(slash ? path : ".", O_RDONLY | O_DIRECTORY);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
}

/* `path` is for the words, `real` is where the file lies. */
static tdn_status write_and_rename(const char *path, const char *real, const void *data,
                                   size_t size, tdn_error *error)
{
    char aside[PATH_MAX];
    const int fd = open_aside(aside, sizeof aside, real);
    if (fd < 0)
        return fail_io(error, "cannot write", path);
    if (!fill_and_close(fd, data, size, true) || rename(aside, real) != 0) {
        const tdn_status status = fail_io(error, "cannot write", path);
        unlink(aside);
        return status;
    }
    flush_folder(aside);
    return TDN_OK;
}

/* The process's signals wait until the file is there or gone, as far as this thread is concerned;
 * the one for a file above the limit of sizes is ours, and the error says it. */
static tdn_status write_aside(const char *path, const char *real, const void *data, size_t size,
                              tdn_error *error)
{
    sigset_t all, before, pending, too_large;
    sigfillset(&all);
    sigemptyset(&pending);
    sigemptyset(&too_large);
    sigaddset(&too_large, SIGXFSZ);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    sigpending(&pending);
    const tdn_status status = write_and_rename(path, real, data, size, error);
    if (!sigismember(&pending, SIGXFSZ))
        sigtimedwait(&too_large, NULL, &(struct timespec){0, 0});
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return status;
}

tdn_status tdn_file_write(const char *path, const void *data, size_t size, tdn_error *error)
{
    struct stat info;
    if (stat(path, &info) != 0)
        return write_aside(path, path, data, size, error);
    if (S_ISDIR(info.st_mode)) {
        errno = EISDIR;
        return fail_io(error, "cannot write", path);
    }
    if (!S_ISREG(info.st_mode))
        return write_direct(path, data, size, error);
    char real[PATH_MAX]; /* a symbolic link stays, its file is replaced */
    if (!realpath(path, real))
        return fail_io(error, "cannot write", path);
    return write_aside(path, real, data, size, error);
}
