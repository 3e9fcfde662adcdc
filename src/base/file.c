/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files: read-only maps, and writes that are whole or not at all.
 *
 * A write goes to a new file beside the wanted one, is flushed to the disk, and takes its place by
 * rename, so a reader (or an engine that maps the old file) sees the old bytes or the new ones,
 * never a mixture. A path that names something else than a regular file (/dev/null, a pipe) is
 * written to directly: renaming over it would destroy it.
 */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static tdn_status fail_io(tdn_error *error, const char *what, const char *path)
{
    char words[128];
    return tdn_fail(error, TDN_E_IO, "%s '%s': %s", what, path,
                    strerror_r(errno, words, sizeof words));
}

static tdn_status map_fd(tdn_map *map, int fd, const char *path, tdn_error *error)
{
    struct stat info;
    if (fstat(fd, &info) != 0)
        return fail_io(error, "cannot read", path);
    if (!S_ISREG(info.st_mode))
        return tdn_fail(error, TDN_E_IO, "cannot read '%s': it is not a regular file", path);
    if (info.st_size == 0)
        return TDN_OK;
    void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED)
        return fail_io(error, "cannot map", path);
    *map = (tdn_map){data, (size_t)info.st_size};
    return TDN_OK;
}

tdn_status tdn_map_open(tdn_map *map, const char *path, tdn_error *error)
{
    *map = (tdn_map){NULL, 0};
    const int fd =
        open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe without a writer must not block */
    if (fd < 0)
        return fail_io(error, "cannot open", path);
    const tdn_status status = map_fd(map, fd, path, error);
    close(fd);
    return status;
}

void tdn_map_close(tdn_map *map)
{
    if (map->size > 0)
        munmap((void *)(uintptr_t)map->data, map->size);
    *map = (tdn_map){NULL, 0};
}

/* Sets errno on failure. */
static bool write_all(int fd, const char *data, size_t size)
{
    while (size > 0) {
        const ssize_t n = write(fd, data, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        data += n;
        size -= (size_t)n;
    }
    return true;
}

/* Closing may be where a network file system tells of a failed write. */
static bool fill_and_close(int fd, const void *data, size_t size, bool flush)
{
    bool good = write_all(fd, data, size) && (!flush || fsync(fd) == 0);
    const int why = errno;
    if (close(fd) != 0 && good)
        return false;
    errno = why;
    return good;
}

static tdn_status write_direct(const char *path, const void *data, size_t size, tdn_error *error)
{
    const int fd = open(path, O_WRONLY | O_CLOEXEC);
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
        const int fd = open(aside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
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
    const int fd = open(slash ? path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
}

/* `path` is for the words, `real` is where the file lies. */
static tdn_status write_aside(const char *path, const char *real, const void *data, size_t size,
                              tdn_error *error)
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
    char *real = realpath(path, NULL); /* a symbolic link stays, its file is replaced */
    if (!real)
        return fail_io(error, "cannot write", path);
    const tdn_status status = write_aside(path, real, data, size, error);
    free(real);
    return status;
}
