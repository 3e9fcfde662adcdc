/* SPDX-License-Identifier: Apache-2.0 */
/* The name of the processor. x86 has it in /proc/cpuinfo; ARM's kernels do not, but export the
 * register that tells implementer, part and revision. Nothing is allocated. */
#include "base/machine.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

enum { MAX_TEXT = 4096 }; /* the first processor is within */

/* The begin of a file, as text; "" where there is none. */
static void read_begin(const char *path, char text[MAX_TEXT])
{
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t n = file < 0 ? 0 : read(file, text, MAX_TEXT - 1);
    text[n < 0 ? 0 : n] = 0;
    if (file >= 0)
        close(file);
}

static bool read_model_name(char *name, size_t size)
{
    char text[MAX_TEXT];
    read_begin("/proc/cpuinfo", text);
    const char *key = strstr(text, "\nmodel name");
    const char *colon = key ? strchr(key, ':') : NULL;
    if (colon)
        snprintf(name, size, "%s", colon + 1 + strspn(colon + 1, " \t"));
    return colon != NULL;
}

static bool read_midr(char *name, size_t size)
{
    char text[MAX_TEXT];
    read_begin("/sys/devices/system/cpu/cpu0/regs/identification/midr_el1", text);
    snprintf(name, size, "midr %s", text);
    return text[0];
}

/* No line breaks, nothing that is not ASCII, no spaces at the end. */
static void tidy(char *text)
{
    text[strcspn(text, "\n")] = 0;
    for (char *c = text; *c; c++)
        if (*c < ' ' || *c > '~')
            *c = '?';
    for (size_t n = strlen(text); n > 0 && text[n - 1] == ' '; n--)
        text[n - 1] = 0;
}

void tdn_machine_name(char *text, size_t size)
{
    struct utsname system;
    *text = 0;
    if (read_model_name(text, size) || read_midr(text, size))
        tidy(text);
    if (!*text)
        snprintf(text, size, "%s", uname(&system) == 0 ? system.machine : "unknown");
}
