/* SPDX-License-Identifier: Apache-2.0 */
/* The most that a core does at this level: chains of multiply-adds, as many as hide their latency,
 * that never leave their registers; and reads that nothing waits for. */
#include "backend/cpu/peak.h"
#include "backend/cpu/vec.h"

enum { CHAINS = 12, LINKS = 20000, READERS = 4 };

/* Integers: whatever bits the memory holds, none of them slows an addition down. */
typedef uint32_t words __attribute__((vector_size(TDN_LANES * 4), may_alias));

_Static_assert(TDN_PEAK_BLOCK % (READERS * sizeof(words)) == 0, "no rest");

/* x is in its register here, not earlier and not later. */
#if defined(__x86_64__)
#define HOLD(x) __asm__ volatile("" : "+v"(x))
#elif defined(__aarch64__)
#define HOLD(x) __asm__ volatile("" : "+w"(x))
#else
#define HOLD(x) __asm__ volatile("" : "+m"(x))
#endif

/* A link of a chain. ARM's instruction replaces its sum, so a chain through a factor would cost a
 * copy a link; the baseline of x86-64 has none, and there a chain through the sum would. */
#if defined(__aarch64__)
#define LINK(x, a, b)                                                                              \
    do {                                                                                           \
        HOLD(a); /* else the product is taken once */                                              \
        x += a * b;                                                                                \
    } while (0)
#else
#define LINK(x, a, b) x = x * a + b
#endif

size_t TDN_KERNEL(tdn_peak_flops)(const void *data, size_t size)
{
    (void)data;
    (void)size;
    vf acc[CHAINS];
    vf a = vf_set(0.999f), b = vf_set(1e-3f);
    HOLD(a);
    HOLD(b);
    TDN_UNROLLED (int i = 0; i < CHAINS; i++) {
        acc[i] = vf_set((float)i);
        HOLD(acc[i]);
    }
    for (int n = 0; n < LINKS; n++)
        TDN_UNROLLED (int i = 0; i < CHAINS; i++)
            LINK(acc[i], a, b);
    TDN_UNROLLED (int i = 0; i < CHAINS; i++)
        HOLD(acc[i]);
    return (size_t)2 * CHAINS * LINKS * TDN_LANES;
}

size_t TDN_KERNEL(tdn_peak_read)(const void *data, size_t size)
{
    const char *from = data;
    words sum[READERS] = {0};
    for (size_t at = 0; at < size; at += sizeof sum)
        TDN_UNROLLED (int i = 0; i < READERS; i++)
            sum[i] += *(const words *)(from + at + (size_t)i * sizeof sum[i]);
    TDN_UNROLLED (int i = 0; i < READERS; i++)
        HOLD(sum[i]);
    return size;
}
