/* SPDX-License-Identifier: Apache-2.0 */
/* The name of the processor. x86 has it in /proc/cpuinfo; ARM's kernels do not, but export the
 * register that tells implementer, part and revision. */
#include "base/machine.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

enum { MAX_LINES = 64 }; /* of the first processor */

static bool read_model_name(char *text, size_t size)
{
    static const char key[] = "model name";
    char line[512];
    bool found = false;
    FILE *file = fopen("/proc/cpuinfo", "re");
    for (int i = 0; file && !found && i < MAX_LINES && fgets(line, sizeof line, file); i++) {
        const char *colon = strchr(line, ':');
        found = colon && strncmp(line, key, sizeof key - 1) == 0;
        if (found)
            snprintf(text, size, "%s", colon + 1 + strspn(colon + 1, " \t"));
    }
    if (file)
        fclose(file);
    return found;
}

static bool read_midr(char *text, size_t size)
{
    char line[64];
    FILE *file = fopen("/sys/devices/system/cpu/cpu0/regs/identification/midr_el1", "re");
    const bool found = file && fgets(line, sizeof line, file);
    if (found)
        snprintf(text, size, "midr %s", line);
    if (file)
        fclose(file);
    return found;
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
