/* SPDX-License-Identifier: Apache-2.0 */
/* Failing with words. Text is collected where it is known, cause first: tdn_fail writes the cause,
 * each caller that knows more appends with tdn_fail_while: "axis 5 outside rank 2; while importing
 * node 4 'head/probs' of m.onnx". */
#ifndef TDN_BASE_STATUS_H
#define TDN_BASE_STATUS_H

#include "tendon/tendon.h"

/* Writes the text (error may be NULL) and returns status. */
__attribute__((format(printf, 3, 4))) tdn_status tdn_fail(tdn_error *error, tdn_status status,
                                                          const char *format, ...);
/* Appends "; while <text>" and returns status. */
__attribute__((format(printf, 3, 4))) tdn_status tdn_fail_while(tdn_error *error, tdn_status status,
                                                                const char *format, ...);
/* "out of memory for <what>"; returns TDN_E_NOMEM. */
tdn_status tdn_fail_nomem(tdn_error *error, const char *what);

#define TDN_TRY(expression)                                                                        \
    do {                                                                                           \
        tdn_status try_status_ = (expression);                                                     \
        if (try_status_ != TDN_OK)                                                                 \
            return try_status_;                                                                    \
    } while (0)

#endif
