/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes the first inputs of the plan fuzzer: the plans of tests/plans.h, and one small plan for
 * each kernel family and target, so that mutations begin at arguments that their family accepts.
 * Run again when the format or the arguments of a family change:
 *
 *     build/tests/seeds_plan tests/fuzz/corpus/plan
 */
#include <stdio.h>

#include "../plans.h"
#include "base/file.h"

typedef struct seeds {
    const char *folder;
    tdn_arena *arena;
    const tdn_target *target;
    int n_failed;
} seeds;

static void save(seeds *s, plan_maker *m, const char *name)
{
    size_t size;
    char path[1024];
    void *bytes = plan_bytes(m, &size);
    tdn_error error = {""};
    snprintf(path, sizeof path, "%s/%s", s->folder, name);
    if (tdn_file_write(path, bytes, size, &error) != TDN_OK) {
        fprintf(stderr, "%s\n", error.text);
        s->n_failed++;
    }
    tdn_free(NULL, bytes);
}

static float ramp[512];

static tdn_view view(void *data, int rank, const int64_t *dims)
{
    return tdn_view_make(data, TDN_F32, rank, dims);
}
static tdn_view along(int64_t n, int rank, const int64_t *dims) /* a vector along the last axis */
{
    tdn_view v = tdn_view_make(ramp, TDN_F32, rank, dims);
    for (int i = 0; i < rank - 1; i++)
        v.strides[i] = 0;
    v.strides[rank - 1] = n == 1 ? 0 : 1;
    return v;
}

static int64_t count_of(const tdn_view *v)
{
    int64_t last = 0;
    for (int i = 0; i < v->rank; i++)
        last += (v->dims[i] - 1) * v->strides[i];
    return last + 1;
}

static tdn_plan_operand operand(uint32_t buffer, const tdn_view *v)
{
    tdn_plan_operand o = {.buffer = buffer, .dtype = v->dtype, .rank = v->rank};
    memcpy(o.dims, v->dims, (size_t)v->rank * sizeof o.dims[0]);
    memcpy(o.strides, v->strides, (size_t)v->rank * sizeof o.strides[0]);
    return o;
}

/* One step of the family: inputs without data are the plan's inputs, those with
 * data its weights. */
static void save_family(seeds *s, const char *name, const char *family, const tdn_group *group)
{
    tdn_made made;
    tdn_error error = {""};
    const tdn_family *f = tdn_family_find(family);
    if (!f || f->make(&made, group, s->target->isa, s->arena, &error) != TDN_OK) {
        fprintf(stderr, "%s for %s: %s\n", name, s->target->name, error.text);
        s->n_failed++;
        return;
    }
    plan_maker *m = mk_new();
    mk_section(m, s->target->name, s->target->isa);
    mk_program(m);
    static const char *const names[4] = {"a", "b", "c", "d"};
    tdn_plan_operand operands[8];
    int n = 0;
    for (int i = 0; i < group->n_in + group->n_extra; i++) {
        const tdn_view *v = i < group->n_in ? &group->in[i] : &group->extra[i - group->n_in];
        const size_t size = (size_t)count_of(v) * sizeof(float);
        if (i == made.packed_input) {
            const tdn_view packed =
                tdn_view_make(NULL, TDN_U8, 1, (int64_t[]){(int64_t)made.packed_size});
            const uint32_t blob = mk_blob(m, made.packed, made.packed_size);
            operands[n++] =
                operand(mk_buffer(m, TDN_BUFFER_WEIGHT, blob, made.packed_size, "packed"), &packed);
        } else if (v->data) {
            const uint32_t blob = mk_blob(m, v->data, size);
            operands[n++] = operand(mk_buffer(m, TDN_BUFFER_WEIGHT, blob, size, "w"), v);
        } else
            operands[n++] = mk_io(m, true, names[m->n_inputs], v->dtype, v->rank, v->dims, -1);
    }
    operands[n++] =
        mk_io(m, false, "out", group->out->dtype, group->out->rank, group->out->dims, -1);
    tdn_plan_step *step =
        mk_step(m, TDN_STEP_KERNEL, made.kernel->name, name, (uint32_t)n - 1, 1, operands);
    step->args = made.args;
    step->args_size = made.args_size;
    char file[128];
    snprintf(file, sizeof file, "%s-%s", name, s->target->name);
    save(s, m, file);
}

static void save_matrix_families(seeds *s)
{
    /* relu(result + bias), which is compiled in, and tanh of it, which is not */
    tdn_expr clamp = {0}, program = {0};
    const int sum =
        tdn_expr_add(&clamp, TDN_X_ADD, tdn_expr_input(&clamp, 0), tdn_expr_input(&clamp, 1), 0);
    tdn_expr_store(&clamp, tdn_expr_add(&clamp, TDN_X_MAX, sum, tdn_expr_const(&clamp, 0), 0), 0);
    const int again = tdn_expr_add(&program, TDN_X_ADD, tdn_expr_input(&program, 0),
                                   tdn_expr_input(&program, 1), 0);
    tdn_expr_store(&program, tdn_expr_add(&program, TDN_X_TANH, again, 0, 0), 0);

    const tdn_conv_desc conv = {{1, 2, 1}, {1, 1, 2}, {0, 1, 2}, 1},
                        depthwise = {{1, 1, 1}, {1, 1, 1}, {0, 1, 1}, 6};
    const tdn_view x = view(NULL, 5, (int64_t[]){1, 1, 6, 5, 4});
    const tdn_view out = view(NULL, 5, (int64_t[]){1, 1, 3, 5, 6}), bias = along(6, 5, out.dims);
    const tdn_view w[2] = {x, view(ramp, 5, (int64_t[]){6, 4, 1, 3, 3})};
    save_family(s, "conv", "conv",
                &(tdn_group){.desc = &conv,
                             .in = w,
                             .n_in = 2,
                             .out = &out,
                             .n_out = 1,
                             .expr = &clamp,
                             .extra = &bias,
                             .n_extra = 1});
    save_family(s, "conv-tanh", "conv",
                &(tdn_group){.desc = &conv,
                             .in = w,
                             .n_in = 2,
                             .out = &out,
                             .n_out = 1,
                             .expr = &program,
                             .extra = &bias,
                             .n_extra = 1});
    const tdn_view each = view(NULL, 5, (int64_t[]){1, 1, 4, 5, 6});
    const tdn_view dw[2] = {each, view(ramp, 5, (int64_t[]){6, 1, 1, 3, 3})};
    save_family(s, "depthwise", "conv",
                &(tdn_group){.desc = &depthwise, .in = dw, .n_in = 2, .out = &each, .n_out = 1});

    const tdn_view a = view(NULL, 4, (int64_t[]){1, 2, 5, 7}),
                   product = view(NULL, 4, (int64_t[]){1, 2, 5, 6});
    const tdn_view row = along(6, 4, product.dims);
    const tdn_view dense[2] = {a, view(NULL, 4, (int64_t[]){1, 2, 7, 6})};
    const tdn_view constant[2] = {a, view(ramp, 4, (int64_t[]){1, 2, 7, 6})};
    save_family(s, "gemm", "gemm",
                &(tdn_group){.in = dense, .n_in = 2, .out = &product, .n_out = 1});
    save_family(s, "gemm-packed", "gemm",
                &(tdn_group){.in = constant,
                             .n_in = 2,
                             .out = &product,
                             .n_out = 1,
                             .expr = &clamp,
                             .extra = &row,
                             .n_extra = 1});
}

static void save_integer_families(seeds *s)
{
    /* bytes again, which is compiled in, and the sigmoid of the sum, which is not */
    tdn_expr bytes = {0}, program = {0};
    int y = tdn_expr_add(&bytes, TDN_X_MUL, tdn_expr_input(&bytes, 0),
                         tdn_expr_const(&bytes, 1e-3f), 0);
    y = tdn_expr_add(&bytes, TDN_X_ADD, y, tdn_expr_input(&bytes, 1), 0);
    y = tdn_expr_add(&bytes, TDN_X_ROUND, y, 0, 0);
    tdn_expr_store(&bytes, tdn_expr_add(&bytes, TDN_X_ADD, y, tdn_expr_const(&bytes, 3), 0), 0);
    y = tdn_expr_add(&program, TDN_X_SIGMOID, tdn_expr_input(&program, 0), 0, 0);
    tdn_expr_store(&program, y, 0);

    const tdn_iconv_desc conv = {{{1, 2, 1}, {1, 1, 2}, {0, 1, 2}, 1}, 128},
                         depthwise = {{{1, 1, 1}, {1, 1, 1}, {0, 1, 1}, 6}, 7};
    const tdn_view out = view(NULL, 5, (int64_t[]){1, 1, 3, 5, 6}), bias = along(6, 5, out.dims);
    tdn_view w[2] = {view(NULL, 5, (int64_t[]){1, 1, 6, 5, 4}),
                     view(ramp, 5, (int64_t[]){6, 3, 1, 3, 3})};
    tdn_view dw[2] = {view(NULL, 5, (int64_t[]){1, 1, 4, 5, 6}),
                      view(ramp, 5, (int64_t[]){6, 1, 1, 3, 3})};
    tdn_view of_bytes = out, each = dw[0];
    of_bytes.dtype = w[0].dtype = dw[0].dtype = TDN_U8;
    w[1].dtype = dw[1].dtype = TDN_S8;
    save_family(s, "iconv", "iconv",
                &(tdn_group){.desc = &conv,
                             .in = w,
                             .n_in = 2,
                             .out = &of_bytes,
                             .n_out = 1,
                             .expr = &bytes,
                             .extra = &bias,
                             .n_extra = 1});
    save_family(
        s, "iconv-sigmoid", "iconv",
        &(tdn_group){.desc = &conv, .in = w, .n_in = 2, .out = &out, .n_out = 1, .expr = &program});
    each.dtype = TDN_S32;
    save_family(s, "idwconv", "iconv",
                &(tdn_group){.desc = &depthwise, .in = dw, .n_in = 2, .out = &each, .n_out = 1});
}

static void save_other_families(seeds *s)
{
    tdn_expr expr = {0};
    const int product =
        tdn_expr_add(&expr, TDN_X_MUL, tdn_expr_input(&expr, 0), tdn_expr_input(&expr, 1), 0);
    tdn_expr_store(&expr, tdn_expr_add(&expr, TDN_X_SIGMOID, product, 0, 0), 0);
    const tdn_view x = view(NULL, 3, (int64_t[]){3, 5, 7}), row = along(7, 3, x.dims);
    const tdn_view both[3] = {x, row, row};
    save_family(s, "map", "map",
                &(tdn_group){.in = both, .n_in = 2, .out = &x, .n_out = 1, .expr = &expr});
    save_family(
        s, "softmax", "softmax",
        &(tdn_group){
            .desc = &(tdn_softmax_desc){.axis = 1}, .in = &x, .n_in = 1, .out = &x, .n_out = 1});
    const tdn_view attention[4] = {
        view(NULL, 4, (int64_t[]){1, 2, 5, 6}), view(NULL, 4, (int64_t[]){1, 2, 6, 7}),
        view(NULL, 4, (int64_t[]){1, 2, 7, 4}), view(NULL, 4, (int64_t[]){1, 2, 5, 7})};
    const tdn_view attended = view(NULL, 4, (int64_t[]){1, 2, 5, 4}),
                   weights = view(NULL, 4, (int64_t[]){1, 2, 1, 7});
    save_family(s, "attend", "attend",
                &(tdn_group){.desc = &(tdn_attend_desc){0.5f, 0},
                             .in = attention,
                             .n_in = 4,
                             .out = &attended,
                             .n_out = 1});
    save_family(s, "attend-mean", "attend",
                &(tdn_group){.desc = &(tdn_attend_desc){0.5f, 1},
                             .in = attention,
                             .n_in = 2,
                             .out = &weights,
                             .n_out = 1});
    save_family(
        s, "norm", "norm",
        &(tdn_group){
            .desc = &(tdn_norm_desc){2, 1e-5f}, .in = both, .n_in = 3, .out = &x, .n_out = 1});
    save_family(s, "copy", "copy", &(tdn_group){.in = &x, .n_in = 1, .out = &x, .n_out = 1});
    const tdn_view reduced = view(NULL, 3, (int64_t[]){3, 1, 7}),
                   padded = view(NULL, 3, (int64_t[]){5, 6, 9});
    save_family(s, "reduce", "reduce",
                &(tdn_group){.desc = &(tdn_reduce_desc){TDN_REDUCE_MEAN},
                             .in = &x,
                             .n_in = 1,
                             .out = &reduced,
                             .n_out = 1});
    save_family(s, "pad", "pad",
                &(tdn_group){.desc = &(tdn_pad_desc){{1, 0, 2}, -1},
                             .in = &x,
                             .n_in = 1,
                             .out = &padded,
                             .n_out = 1});
    const tdn_view image = view(NULL, 5, (int64_t[]){1, 1, 6, 5, 4}),
                   half = view(NULL, 5, (int64_t[]){1, 1, 3, 3, 4});
    for (int kind = 0; kind < 2; kind++) {
        const tdn_pool_desc pool = {.kind = kind,
                                    .kernel = {1, 2, 3},
                                    .stride = {1, 2, 2},
                                    .dilation = {1, 1, 1},
                                    .pad = {0, 0, 1},
                                    .pad_end = {0, 0, 1}};
        save_family(s, kind ? "pool-average" : "pool-max", "pool",
                    &(tdn_group){.desc = &pool, .in = &image, .n_in = 1, .out = &half, .n_out = 1});
    }
}

/* Steps of a reference, with operands of many dtypes and the attributes that many references look
 * at. The long name leaves room for others, which the fuzzer's mutations put in its place. */
static void save_references(seeds *s)
{
    static const char kernel[] = "MeanVarianceNormalization";
    static const int64_t ones[4] = {1, 1, 1, 1}, axes[1] = {1}, perm[4] = {0, 2, 1, 3};
    static const char *const names[] = {"kernel_shape", "strides", "dilations", "pads"};
    static const char *const scalars[] = {"axis",      "keepdims", "group",       "mode",
                                          "ceil_mode", "largest",  "hidden_size", "to"};
    static tdn_attr attrs[16];
    int n = 0;
    for (int i = 0; i < 4; i++)
        attrs[n++] =
            (tdn_attr){.name = names[i], .kind = TDN_ATTR_INTS, .n = i == 3 ? 4 : 2, .ints = ones};
    attrs[n++] = (tdn_attr){.name = "axes", .kind = TDN_ATTR_INTS, .n = 1, .ints = axes};
    attrs[n++] = (tdn_attr){.name = "perm", .kind = TDN_ATTR_INTS, .n = 4, .ints = perm};
    for (int i = 0; i < 8; i++)
        attrs[n++] = (tdn_attr){.name = scalars[i], .kind = TDN_ATTR_INT, .i = 1};
    attrs[n++] =
        (tdn_attr){.name = "equation", .kind = TDN_ATTR_STRING, .n = 12, .s = "abcd,ab->cda"};
    attrs[n++] = (tdn_attr){.name = "epsilon", .kind = TDN_ATTR_FLOAT, .f = 0.5f};
    for (int wide = 0; wide < 3; wide++) {
        plan_maker *m = mk_new();
        mk_section(m, PLAN_TARGET, PLAN_ISA);
        mk_program(m);
        const int64_t dims[4] = {2, wide == 2 ? 1 : 3, 4, 5}, vector[1] = {4}, square[2] = {3, 3};
        const tdn_plan_operand x = mk_io(m, true, "x", TDN_F32, 4, dims, -1);
        const tdn_plan_operand index = mk_io(m, true, "index", TDN_S64, 1, vector, -1);
        const tdn_plan_operand matrix =
            mk_io(m, true, "matrix", wide ? TDN_U8 : TDN_F32, 2, square, -1);
        const tdn_plan_operand y = mk_io(m, false, "y", TDN_F32, 4, dims, -1);
        const tdn_plan_operand z = mk_io(m, false, "z", TDN_S64, 2, square, -1);
        tdn_plan_step *step =
            wide == 0   ? MK_STEP(m, TDN_STEP_REFERENCE, kernel, "a", 1, 1, x, y)
            : wide == 1 ? MK_STEP(m, TDN_STEP_REFERENCE, kernel, "b", 3, 1, x, x, matrix, y)
                        : MK_STEP(m, TDN_STEP_REFERENCE, kernel, "c", 3, 2, y, index, matrix, y, z);
        step->attrs = (tdn_attrs){attrs, n};
        char file[32];
        snprintf(file, sizeof file, "references-%d", wide);
        save(s, m, file);
    }
}

int main(int argc, char **argv)
{
    static const char *const targets[] = {"x86-64", "x86-64-v3", "x86-64-v4", "armv8-a"};
    if (argc != 2) {
        fprintf(stderr, "usage: seeds_plan FOLDER\n");
        return 2;
    }
    for (int i = 0; i < 512; i++)
        ramp[i] = (float)(i % 13) / 8 - 0.75f;
    seeds s = {.folder = argv[1], .arena = tdn_arena_create(NULL)};
    save(&s, plan_everything(), "everything");
    save(&s, plan_affine((int64_t[]){1, 2, 5}, 3, 1), "buckets");
    save_references(&s);
    for (size_t i = 0; i < sizeof targets / sizeof targets[0]; i++) {
        s.target = tdn_target_find(targets[i]);
        save_matrix_families(&s);
        save_integer_families(&s);
        save_other_families(&s);
    }
    s.target = tdn_target_find("avx512-vnni");
    save_integer_families(&s);
    tdn_arena_free(s.arena);
    return s.n_failed == 0 ? 0 : 1;
}
