/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CPU backend: its families, the targets a plan can be built for, and what this machine has. A
 * target is what people call a class of CPUs; its bits are what kernels of that section may use. A
 * bit is set only where the operating system saves the registers too: the compiler's run time asks
 * CPUID and XGETBV for that.
 */
#include "backend/cpu/cpu.h"
#include "backend/cpu/peak.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

enum {
    ISA_V3 = TDN_ISA_X86 | TDN_ISA_AVX2,
    ISA_V3_VNNI = ISA_V3 | TDN_ISA_AVXVNNI,
    ISA_V4 = ISA_V3 | TDN_ISA_AVX512,
    ISA_V4_VNNI = ISA_V4 | TDN_ISA_VNNI,
    ISA_V4_BF16 = ISA_V4_VNNI | TDN_ISA_AVX512BF16,
    ISA_V4_FP16 = ISA_V4_BF16 | TDN_ISA_AVX512FP16,
    ISA_ARM_DOTPROD = TDN_ISA_ARM | TDN_ISA_DOTPROD,
    ISA_ARM_FP16 = ISA_ARM_DOTPROD | TDN_ISA_ARMFP16
};

static const tdn_target targets[] = {
    {"x86-64", "x86-64", TDN_ISA_X86},
    {"x86-64-v3", "x86-64", ISA_V3},
    {"avx2-vnni", "x86-64", ISA_V3_VNNI},
    {"x86-64-v4", "x86-64", ISA_V4},
    {"avx512-vnni", "x86-64", ISA_V4_VNNI},
    {"avx512-bf16", "x86-64", ISA_V4_BF16},
    {"avx512-fp16", "x86-64", ISA_V4_FP16},
    {"armv8-a", "aarch64", TDN_ISA_ARM},
    {"armv8.2-dotprod", "aarch64", ISA_ARM_DOTPROD},
    {"armv8.2-fp16", "aarch64", ISA_ARM_FP16},
    {NULL, NULL, 0},
};

#if defined(__x86_64__)

/* Features that have no name in the compilers' __builtin_cpu_supports that this code must build
 * with. They need the same saved registers as AVX2 and AVX-512F, which the caller has checked. */
typedef struct features {
    unsigned eax, ebx, ecx, edx;
} features;

static features features_of(unsigned page)
{
    features f = {.eax = 7, .ecx = page};
    __asm__ volatile("cpuid" : "+a"(f.eax), "=b"(f.ebx), "+c"(f.ecx), "=d"(f.edx));
    return f;
}

static bool has_avx512_fp16(void) { return (features_of(0).edx >> 23 & 1) != 0; }

static bool has_avx_vnni(void)
{
    const unsigned last_page = features_of(0).eax;
    return last_page >= 1 && (features_of(1).eax >> 4 & 1) != 0;
}

static uint64_t detect(void)
{
    __builtin_cpu_init();
    uint64_t isa = TDN_ISA_X86;
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return isa;
    isa |= TDN_ISA_AVX2; /* every CPU with AVX2 and FMA has F16C */
    if (has_avx_vnni())
        isa |= TDN_ISA_AVXVNNI;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
        return isa;
    isa |= TDN_ISA_AVX512;
    if (__builtin_cpu_supports("avx512vnni"))
        isa |= TDN_ISA_VNNI;
    if (__builtin_cpu_supports("avx512bf16"))
        isa |= TDN_ISA_AVX512BF16;
    if (has_avx512_fp16())
        isa |= TDN_ISA_AVX512FP16;
    return isa;
}

#elif defined(__aarch64__) && defined(__linux__)

/* The kernel's words for features (its uapi header asm/hwcap.h): ASIMDHP, ASIMDDP. */
static uint64_t detect(void)
{
    const unsigned long caps = getauxval(AT_HWCAP);
    uint64_t isa = TDN_ISA_ARM;
    if (caps >> 20 & 1)
        isa |= TDN_ISA_DOTPROD;
    if (caps >> 10 & 1)
        isa |= TDN_ISA_ARMFP16;
    return isa;
}

#elif defined(__aarch64__)

static uint64_t detect(void) { return TDN_ISA_ARM; }

#else

static uint64_t detect(void) { return 0; }

#endif

static const tdn_family *const families[] = {
    &tdn_family_conv,      &tdn_family_gemm,
    &tdn_family_map,       &tdn_family_pool,
    &tdn_family_reduce,    &tdn_family_softmax,
    &tdn_family_norm,      &tdn_family_copy,
    &tdn_family_pad,       &tdn_family_mix,
    &tdn_family_graphconv, &tdn_family_iconv,
    &tdn_family_hconv,     &tdn_family_attend,
    NULL,
};

const tdn_backend tdn_backend_cpu = {
    .name = "cpu",
    .families = families,
    .targets = targets,
    .detect = detect,
    .peaks = tdn_cpu_peaks,
};
