/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The main of a fuzz target that is built without libFuzzer: runs the target on every file of a
 * folder, so that each test run replays what fuzzing once found. A folder without a file is a
 * failure: it would test nothing.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path, size_t size)
{
    FILE *file = fopen(path, "rb");
    uint8_t *data =
        malloc(size ? size : 1); /* exact, so that a sanitizer sees the first byte beyond */
    const int good = file && data && fread(data, 1, size, file) == size;
    if (good)
        LLVMFuzzerTestOneInput(data, size);
    else
        fprintf(stderr, "cannot read %s\n", path);
    free(data);
    if (file)
        fclose(file);
    return good ? 0 : -1;
}

int main(int argc, char **argv)
{
    DIR *folder = argc == 2 ? opendir(argv[1]) : NULL;
    if (!folder) {
        fprintf(stderr, "usage: replay FOLDER%s\n", argc == 2 ? " (it cannot be opened)" : "");
        return 2;
    }
    int n_files = 0, n_failed = 0;
    for (const struct dirent *entry; (entry = readdir(folder));) {
        char path[4096];
        struct stat info;
        snprintf(path, sizeof path, "%s/%s", argv[1], entry->d_name);
        if (stat(path, &info) != 0 || !S_ISREG(info.st_mode))
            continue;
        n_files++;
        n_failed += replay_file(path, (size_t)info.st_size) != 0;
    }
    closedir(folder);
    printf("%d files replayed, %d unreadable\n", n_files, n_failed);
    return n_files > 0 && n_failed == 0 ? 0 : 1;
}
