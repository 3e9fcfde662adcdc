/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log's form. Scripts read stdout by line and by prefix, so every line of it is written at once
 * and flushed at the end of a stage by its caller; warnings and errors go to stderr.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cli/trtexec.h"

FILE *tdn_trtexec_prefix(char severity)
{
    char text[32] = "";
    struct tm local;
    time_t now = time(NULL);
    if (localtime_r(&now, &local))
        strftime(text, sizeof text, "%m/%d/%Y-%H:%M:%S", &local);
    bool is_trouble = severity == 'W' || severity == 'E';
    if (is_trouble)
        fflush(stdout); /* where both go to one file, in order */
    FILE *out = is_trouble ? stderr : stdout;
    fprintf(out, "[%s] [%c] ", text, severity);
    return out;
}

void tdn_trtexec_say(char severity, const char *format, ...)
{
    char text[4096];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (const char *at = text;;) {
        size_t length = strcspn(at, "\n");
        fprintf(tdn_trtexec_prefix(severity), "%.*s\n", (int)length, at);
        if (!at[length])
            return;
        at += length + 1;
    }
}

/* "TensorRT.trtexec" is the name of the contract, which scripts look for; who keeps it is said
 * behind it. */
void tdn_trtexec_mark(const char *what, int argc, char **argv)
{
    printf("&&&& %s TensorRT.trtexec [Tendon v%s] #", what, tdn_version());
    for (int i = 0; i < argc; i++)
        printf(" %s", argv[i]);
    printf("\n");
    fflush(stdout);
}

void tdn_trtexec_library_line(void *user, tdn_log_level level, const char *line)
{
    static const char severities[] = {[TDN_LOG_ERROR] = 'E',
                                      [TDN_LOG_WARNING] = 'W',
                                      [TDN_LOG_INFO] = 'I',
                                      [TDN_LOG_VERBOSE] = 'V'};
    (void)user;
    tdn_trtexec_say(severities[level], "[Tendon] %s", line);
}
