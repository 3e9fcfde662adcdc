/* SPDX-License-Identifier: Apache-2.0 */
/* Names of precisions: of the public header, and of command lines. */
#include "tendon/build.h"

const char *tdn_precision_name(tdn_precision precision)
{
    static const char *const names[] = {[TDN_PRECISION_FP32] = "fp32",
                                        [TDN_PRECISION_FP16] = "fp16",
                                        [TDN_PRECISION_INT8] = "int8",
                                        [TDN_PRECISION_BF16] = "bf16"};
    return (size_t)precision < sizeof names / sizeof *names ? names[precision] : NULL;
}
