/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a backend is: families of kernels. A family (conv, gemm, map, ...) implements one core
 * operator in a canonical form; its list of kernels has one row per instruction set, best last. The
 * compiler asks a family to `make` a step from a group (what to compute, on which views); the plan
 * stores the kernel's name, its arguments and the packed weights; the run time finds the kernel by
 * name and has the family `check` all of it before the first run.
 *
 * Whatever `check` passed, `run` may trust: it reads and writes nothing outside the operands' views
 * and its scratch.
 */
#ifndef TDN_BACKEND_BACKEND_H
#define TDN_BACKEND_BACKEND_H

#include "base/expr.h"
#include "base/view.h"

/* One step as a kernel sees it. Scratch is the calling thread's own, aligned to 64. */
typedef struct tdn_call {
    const void *args;
    const tdn_view *in;
    const tdn_view *out;
    int32_t n_in, n_out;
    void *scratch;
} tdn_call;

/* What a step costs, from its arguments and operands. */
typedef struct tdn_work {
    size_t n_tiles;      /* independent; their borders do not depend on the number of threads */
    size_t scratch_size; /* a thread */
    int64_t flops;
} tdn_work;

typedef struct tdn_kernel {
    const char
        *name;    /* "conv_f32_avx512": the function, the plan entry, the profile line, the test */
    uint64_t isa; /* TDN_ISA_ bits that it needs */
    int32_t mr, nr; /* tile: rows and columns of the micro-kernel, or 0 and the vector's lanes */
    void (*run)(const tdn_call *call,
                size_t tile); /* NULL: not compiled for this machine's architecture */
} tdn_kernel;

/* What to compute. Views are in the family's canonical form; data is set where the value is a
 * constant. */
typedef struct tdn_group {
    const void *desc; /* the family's own description, e.g. tdn_conv_desc; NULL where it has none */
    const tdn_view *in;
    const tdn_view *out;
    int32_t n_in, n_out;
    const tdn_expr *expr;  /* map: the expression over `in`. Others: the epilogue, input 0 is the
                              result, input i is  extra[i - 1]; NULL: none */
    const tdn_view *extra; /* broadcast to out[0]'s dims (the same rank, stride 0) */
    int32_t n_extra;
    int32_t variant; /* which of the family's ways to do it; 0: the plain one, which takes all that
                        the family takes */
    bool is_sparse;  /* in[0] is the result of comparisons, 0 or 1, and may be mostly zeros */
    bool takes_halves; /* packed weights may be kept in half precision: otherwise the variants that
                          do so are refused */
    tdn_dtype halves;  /* F16 or BF16: products of floats may be made of these instead, in variants
                          that do so; NONE: not */
    bool dry;          /* sizes and cost only: nothing is packed */
} tdn_group;

/* A candidate step. Its inputs are the group's `in` then `extra`; where packed_input >= 0, that
 * input is replaced by the packed blob: a dense 1-D view of U8. Memory is the arena's. */
typedef struct tdn_made {
    const tdn_kernel *kernel;
    void *args;
    size_t args_size;
    void *packed; /* NULL after a dry run */
    size_t packed_size;
    int32_t packed_input;
    int64_t cost; /* a guess of the time, in floating-point operations of a well fed multiply-add
                     loop: to be compared between variants */
} tdn_made;

typedef struct tdn_family {
    const char *name;          /* "conv" */
    const tdn_kernel *kernels; /* ended by a row without a name; best last */
    int32_t n_variants;        /* ways to make a step, numbered from 0; which of them suits is the
                                  compiler's choice. 0 here means 1 */
    /* Makes the step with the best kernel within `isa`. TDN_E_UNSUPPORTED says what it does not
     * take (a dtype, a stride): the compiler then copies, or falls back to the reference; of a
     * variant other than 0, that it does not suit. Packs with portable code, so that plans for
     * other CPUs can be built anywhere. */
    tdn_status (*make)(tdn_made *made, const tdn_group *group, uint64_t isa, tdn_arena *arena,
                       tdn_error *error);
    /* Checks all: sizes and contents of args, dims, dtypes, strides, sizes of packed blobs.
     * Everything may come from a hostile file, except that every view lies inside its buffer. */
    tdn_status (*check)(const tdn_kernel *kernel, const void *args, size_t args_size,
                        const tdn_view *in, int n_in, const tdn_view *out, int n_out,
                        tdn_work *work, tdn_error *error);
} tdn_family;

/* A target: a name for a set of instructions. Ordered, best last within an architecture. */
typedef struct tdn_target {
    const char *name; /* "x86-64-v3" */
    const char *arch; /* "x86-64", "aarch64" */
    uint64_t isa;
} tdn_target;

/* What a core can do at most at one level of instructions: loops that do nothing else. */
#define TDN_PEAK_BLOCK 4096
typedef struct tdn_peak {
    const char *level; /* "avx512": what the names of its kernels end in */
    uint64_t isa;
    /* fp32 operations, a multiply-add being two; reads, of whole TDN_PEAK_BLOCKs so aligned. Each
     * returns how many operations, or bytes, it did. */
    size_t (*flops)(const void *data, size_t size);
    size_t (*read)(const void *data, size_t size);
} tdn_peak;

typedef struct tdn_backend {
    const char *name;                  /* "cpu" */
    const tdn_family *const *families; /* ended by NULL */
    const tdn_target *targets;         /* ended by a row without a name */
    uint64_t (*detect)(void);          /* TDN_ISA_ bits of this machine */
    const tdn_peak *peaks;             /* ended by a row without a level; best last */
} tdn_backend;

extern const tdn_backend *const tdn_backends[]; /* registry.c; ended by NULL */

const tdn_family *tdn_family_find(const char *name);
/* Searches all families; *family tells whose it is. */
const tdn_kernel *tdn_kernel_find(const char *name, const tdn_family **family);
/* The last row within isa, or NULL. */
const tdn_kernel *tdn_kernel_best(const tdn_kernel *kernels, uint64_t isa);
const tdn_target *tdn_target_find(const char *name);
/* The best target whose bits this machine has. */
const tdn_target *tdn_target_detect(void);

/* Bits of the part of an ISA mask that names the architecture are included, so masks of two never
 * fit each other. */
enum {
    TDN_ISA_X86 = 1 << 0,
    TDN_ISA_AVX2 = 1 << 1,   /* with FMA and F16C */
    TDN_ISA_AVX512 = 1 << 2, /* F, BW, DQ, VL */
    TDN_ISA_AVXVNNI = 1 << 3,
    TDN_ISA_VNNI = 1 << 4,
    TDN_ISA_AVX512FP16 = 1 << 5,
    TDN_ISA_AVX512BF16 = 1 << 6,
    TDN_ISA_AMX = 1 << 7,
    TDN_ISA_ARM = 1 << 16, /* with NEON */
    TDN_ISA_DOTPROD = 1 << 17,
    TDN_ISA_ARMFP16 = 1 << 18
};

/* ---- Descriptions and canonical forms, one a family ------------------------------------------ */

/*
 * conv   in[0] (n, d, h, w, c), stride of c 1; in[1] the constant weights, dense (m, c / group, kd,
 * kh, kw); out (n, d, h, w, m), stride of m 1. Fewer spatial axes: extents 1. Epilogue operands
 * over out's dims: bias is one of them, with stride 1 along m and 0 elsewhere.
 */
typedef struct tdn_conv_desc {
    int32_t stride[3], dilation[3], pad[3]; /* pad at the begin; the end follows from out's dims */
    int32_t group;
} tdn_conv_desc;

/*
 * iconv  Products of integers. in[0] (n, d, h, w, c) U8, stride of c 1; in[1] the constant weights,
 * dense (m, c' / group, kd, kh, kw) S8; out (n, d, h, w, m) F32, U8 or S32, stride of m 1. The sum
 * is of (x - x_zero) * w, exact in int32; padding counts as x_zero. Without groups c is a multiple
 * of 4 and c' <= c: channels beyond c' have no weights and may hold anything. The epilogue's input
 * 0 is the sum as a float; its operands are F32, BOOL or U8; without one out is S32 or F32. A U8
 * result is the nearest integer, ties to even, within its range.
 */
typedef struct tdn_iconv_desc {
    tdn_conv_desc conv;
    int32_t x_zero; /* 0..255 */
} tdn_iconv_desc;

/*
 * hconv  conv with in[0] and in[1] of halves, F16 or BF16, an even number of channels in each
 * group, and out of the same type or F32: sums and epilogue are F32, of operands F32, BOOL or that
 * type.
 */

/*
 * gemm   in[0] (b0, b1, m, k); in[1] (b0, b1, k, n); out (b0, b1, m, n); stride 0 broadcasts a
 * batch axis. No desc. k of in[0] has stride 1 and n of out has stride 1; in[1], when not constant,
 * has stride 1 along k or n.
 */

/*
 * graphconv   in[0] (o0, o1, o2, from, c), in[1] the constant weights, dense (m, kinds * c), in[2]
 * the bias, dense (to, m); out (o0, o1, o2, to, m); strides of c and m 1. Out is F32, or what map
 * takes, where an epilogue makes it.
 */
typedef struct tdn_graphconv_desc {
    const float *adjacency; /* dense (kind, from, to) */
    int32_t n_kinds, n_from, n_to;
} tdn_graphconv_desc;

/*
 * mix    in[0] (o0, o1, o2, k0, k1, m), in[1] the constant matrix, dense (k0 * k1, n), mostly
 * zeros; out (o0, o1, o2, n, m); stride of m 1. No desc.
 */

/* map    in: each broadcast to out's dims; all outputs have the same dims. F32, F16, BF16, BOOL
 * (bytes), U8, S8 or S32, any strides. */

/* pool   in[0] (n, d, h, w, c), out the same form; stride of c 1. */
typedef enum tdn_pool_kind { TDN_POOL_MAX = 0, TDN_POOL_AVERAGE = 1 } tdn_pool_kind;
typedef struct tdn_pool_desc {
    int32_t kind, count_include_pad;
    int32_t kernel[3], stride[3], dilation[3], pad[3];
    int32_t pad_end[3]; /* counted as padding where count_include_pad; what lies beyond is never
                           counted */
} tdn_pool_desc;

/* reduce in[0] and out of the same rank; reduced axes have extent 1 in out. Any strides. */
typedef enum tdn_reduce_kind {
    TDN_REDUCE_SUM = 0,
    TDN_REDUCE_MEAN,
    TDN_REDUCE_MAX,
    TDN_REDUCE_MIN,
    TDN_REDUCE_PROD,
    TDN_REDUCE_L1,
    TDN_REDUCE_L2,
    TDN_REDUCE_SUMSQ,
    TDN_REDUCE_LOGSUM,
    TDN_REDUCE_LOGSUMEXP
} tdn_reduce_kind;
typedef struct tdn_reduce_desc {
    int32_t kind;
} tdn_reduce_desc;

/* softmax in[0] and out of the same dims, any strides, along `axis`. */
typedef struct tdn_softmax_desc {
    int32_t axis, log;
} tdn_softmax_desc;

/*
 * attend in[0] queries (b0, b1, m, d), stride of d 1; in[1] keys (b0, b1, d, n); in[2] values (b0,
 * b1, n, e), these two with stride 1 along one of their last axes; last, or absent, a mask (b0, b1,
 * m, n), stride of n 1 or 0; out (b0, b1, m, e), stride of e 1: softmax(scale * queries keys + mask)
 * values. is_mean: no values, out (b0, b1, 1, n) is the mean of the weights over the queries.
 */
typedef struct tdn_attend_desc {
    float scale; /* positive */
    int32_t is_mean;
} tdn_attend_desc;

/* norm   in[0] x, in[1] scale, in[2] bias (both broadcast to x's dims), out like x: normalised over
 * axes >= axis. */
typedef struct tdn_norm_desc {
    int32_t axis;
    float epsilon;
} tdn_norm_desc;

/* copy   in[0] and out of the same dims and dtype, any strides, any dtype of whole
 * bytes. No desc. */

/* pad    out dims = in dims + pads; what in[0] does not cover is `value`. F32. */
typedef struct tdn_pad_desc {
    int32_t before[TDN_MAX_RANK];
    float value;
} tdn_pad_desc;

#endif
