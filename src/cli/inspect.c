/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tendon inspect: what is in a plan or a model. The libraries describe both as JSON, which --json
 * passes on; the summary for people is made from the same text, so the two agree. A key that is not
 * there shows as nothing: plans of other versions can be looked at.
 */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cmd.h"
#include "cli/describe.h"
#include "cli/session.h"

typedef struct inspect_args {
    tdn_compile_args compile; /* its shapes and operators */
    bool json, all;
} inspect_args;

#define AT(field) offsetof(inspect_args, field)
static const tdn_opt inspect_opts[] = {
    {"json", 0, TDN_OPT_FLAG, AT(json), NULL, "all of it, for tools", 0, 0},
    {"all", 0, TDN_OPT_FLAG, AT(all), NULL, "every step, buffer and node", 0, 0},
    {"shapes", 0, TDN_OPT_LIST, AT(compile.shapes), "NAME:1x3x8,...",
     "of a model: count operations for these", 0, 0},
    {"operators", 0, TDN_OPT_TEXT, AT(compile.operators), "LIB.so",
     "operators of your own (operator.h)", 0, 0},
};

static const tdn_usage usage = {
    .synopsis = "inspect PLAN|MODEL.onnx [options]",
    .about = "A plan: programs, steps, buffers, targets, where it came from. A model:\n"
             "operators, shapes, parameters, operations, and all nodes that are not supported,\n"
             "with the reasons; exit code 1 if there are any.",
    .example = "tendon inspect emg.onnx --shapes=emg:8x200x8",
    .n_operands_min = 1,
    .n_operands_max = 1,
};

/* ---- Plans ----------------------------------------------------------------------------------- */

static void print_steps(const json_t *program)
{
    size_t i;
    const json_t *step;
    char flops[32], bytes[32];
    printf("    %5s  %-26s %12s %12s %6s  %s\n", "step", "kernel", "operations", "bytes", "tiles",
           "nodes");
    json_array_foreach(json_object_get(program, "steps"), i, step)
    {
        printf("    %5zu  %-26s %12s %12s %6.0f  %s\n", i,
               *tdn_described_text(step, "kernel") ? tdn_described_text(step, "kernel")
                                                   : tdn_described_text(step, "kind"),
               tdn_scaled(tdn_described_number(step, "flops"), "FLOP", flops, sizeof flops),
               tdn_scaled(tdn_described_number(step, "bytes"), "B", bytes, sizeof bytes),
               tdn_described_number(step, "tiles"), tdn_described_text(step, "name"));
        if (*tdn_described_text(step, "refused"))
            printf("           refused: %s\n", tdn_described_text(step, "refused"));
    }
}

static void print_buffers(const json_t *program)
{
    size_t i;
    const json_t *buffer;
    char size[32];
    printf("    %6s  %-8s %10s %12s  %11s  %s\n", "buffer", "class", "size", "place", "steps",
           "name");
    json_array_foreach(json_object_get(program, "buffers"), i, buffer)
    {
        const json_t *offset = json_object_get(buffer, "offset"),
                     *blob = json_object_get(buffer, "blob");
        const json_t *first = json_object_get(buffer, "first_step");
        char life[32] = "";
        if (first)
            snprintf(life, sizeof life, "%lld..%lld", (long long)json_integer_value(first),
                     (long long)tdn_described_number(buffer, "last_step"));
        printf("    %6zu  %-8s %10s %7s %4lld  %11s  %s\n", i, tdn_described_text(buffer, "class"),
               tdn_scaled(tdn_described_number(buffer, "size"), "B", size, sizeof size),
               offset ? "at"
               : blob ? "blob"
                      : "number",
               (long long)(offset ? json_integer_value(offset)
                           : blob ? json_integer_value(blob)
                                  : (json_int_t)tdn_described_number(buffer, "index")),
               life, tdn_described_text(buffer, "name"));
    }
}

/* "21 buffers: 12 weight 2.9 MB, 7 arena 400 kB, 1 input 6.4 kB, 1 output 32 B" */
static void print_buffer_classes(const json_t *program)
{
    static const char *const classes[] = {"weight", "arena", "input", "output", "state"};
    const json_t *buffers = json_object_get(program, "buffers"), *buffer;
    char size[32];
    const char *separator = ":";
    printf("    %zu buffers", json_array_size(buffers));
    for (size_t c = 0; c < sizeof classes / sizeof classes[0]; c++) {
        size_t i;
        int n = 0;
        double bytes = 0;
        json_array_foreach(buffers, i, buffer)
        {
            bool is = strcmp(tdn_described_text(buffer, "class"), classes[c]) == 0;
            n += is;
            bytes += is ? tdn_described_number(buffer, "size") : 0;
        }
        if (n > 0)
            printf("%s %d %s %s", separator, n, classes[c],
                   tdn_scaled(bytes, "B", size, sizeof size));
        separator = n > 0 ? "," : separator;
    }
    printf("\n");
}

static void print_program(const json_t *program, size_t number, bool detailed)
{
    char flops[32], arena[32], states[32], dims[256];
    size_t i;
    const json_t *io;
    printf("  program %zu", number);
    json_array_foreach(json_object_get(program, "inputs"), i, io)
    {
        const json_t *axis = json_object_get(io, "batch_axis");
        printf("%s %s %s", i ? "," : ":", tdn_described_text(io, "name"),
               tdn_described_dims(json_object_get(io, "dims"), axis ? json_integer_value(axis) : -1,
                                  dims, sizeof dims));
    }
    size_t n_steps = json_array_size(json_object_get(program, "steps"));
    printf("\n    %zu step%s, %s, %s of activations, %s of states\n", n_steps,
           n_steps == 1 ? "" : "s",
           tdn_scaled(tdn_described_number(program, "flops"), "FLOP", flops, sizeof flops),
           tdn_scaled(tdn_described_number(program, "arena_size"), "B", arena, sizeof arena),
           tdn_scaled(tdn_described_number(program, "state_size"), "B", states, sizeof states));
    print_buffer_classes(program);
    if (!detailed)
        return;
    print_steps(program);
}

static void print_plan(const char *path, const json_t *plan, const inspect_args *args)
{
    char size[32], weights[32];
    size_t s, p;
    const char *key;
    const json_t *section, *program;
    json_t *note;
    printf("%s: %s\n", path, tdn_described_text(plan, "plan"));
    printf("%-12s %s, %s of them packed weights, %.0f program%s\n", "size",
           tdn_scaled(tdn_described_number(plan, "size"), "B", size, sizeof size),
           tdn_scaled(tdn_described_number(plan, "weights_size"), "B", weights, sizeof weights),
           tdn_described_number(plan, "n_programs"),
           tdn_described_number(plan, "n_programs") == 1 ? "" : "s");
    json_object_foreach(json_object_get(plan, "notes"), key, note)
        printf("%-12s %s\n", key, json_string_value(note) ? json_string_value(note) : "");
    tdn_described_ios("inputs", 12, json_object_get(plan, "inputs"));
    tdn_described_ios("outputs", 12, json_object_get(plan, "outputs"));
    json_array_foreach(json_object_get(plan, "sections"), s, section)
    {
        printf("target %s (%s), %s of weights\n", tdn_described_text(section, "target"),
               tdn_described_text(section, "arch"),
               tdn_scaled(tdn_described_number(section, "weights_size"), "B", weights,
                          sizeof weights));
        json_array_foreach(json_object_get(section, "programs"), p, program)
        {
            print_program(program, p, args->all || (s == 0 && p == 0));
            if (args->all)
                print_buffers(program);
        }
    }
}

/* ---- Models ---------------------------------------------------------------------------------- */

static void print_nodes(const json_t *model)
{
    size_t i, k;
    const json_t *node, *value;
    char flops[32], dims[256];
    printf("nodes\n");
    json_array_foreach(json_object_get(model, "nodes"), i, node)
    {
        printf("  %-18s %12s  %s ->", tdn_described_text(node, "op"),
               tdn_scaled(tdn_described_number(node, "flops"), "FLOP", flops, sizeof flops),
               tdn_described_text(node, "name"));
        json_array_foreach(json_object_get(node, "outputs"), k, value) printf(
            " %s %s %s", tdn_described_text(value, "name"), tdn_described_text(value, "dtype"),
            tdn_described_dims(json_object_get(value, "shape"), -1, dims, sizeof dims));
        printf("\n");
    }
}

static void print_operators(const json_t *model)
{
    size_t i;
    const json_t *op;
    char flops[32];
    printf("%-12s %-18s %7s %14s\n", "operators", "", "nodes", "operations");
    json_array_foreach(json_object_get(model, "operators"), i, op)
    {
        const char *domain = tdn_described_text(op, "domain");
        printf("%-12s %s%s%-18s %7.0f %14s\n", "", domain, *domain ? "." : "",
               tdn_described_text(op, "op"), tdn_described_number(op, "nodes"),
               tdn_scaled(tdn_described_number(op, "flops"), "FLOP", flops, sizeof flops));
    }
}

static void print_unsupported(const json_t *list)
{
    size_t i;
    const json_t *node;
    tdn_term out = tdn_term_of(stdout);
    printf("%s%zu unsupported node%s%s\n", tdn_term_on(&out, TDN_BAD), json_array_size(list),
           json_array_size(list) == 1 ? "" : "s", tdn_term_off(&out));
    json_array_foreach(list, i, node)
    {
        const char *domain = tdn_described_text(node, "domain");
        printf("  %s%s%s '%s': %s\n", domain, *domain ? "." : "", tdn_described_text(node, "op"),
               tdn_described_text(node, "node"), tdn_described_text(node, "reason"));
    }
}

static void print_model(const char *path, const json_t *model, const inspect_args *args)
{
    size_t i;
    const json_t *opset;
    char size[32], parameters[32], flops[32];
    printf("%s: ONNX model '%s' by %s %s\n", path, tdn_described_text(model, "graph"),
           tdn_described_text(model, "producer"), tdn_described_text(model, "producer_version"));
    printf("%-12s %s\n", "size",
           tdn_scaled(tdn_described_number(model, "size"), "B", size, sizeof size));
    printf("%-12s %s\n", "sha256", tdn_described_text(model, "sha256"));
    printf("%-12s", "opsets");
    json_array_foreach(json_object_get(model, "opsets"), i, opset) printf(
        "%s %s %.0f", i ? "," : "",
        *tdn_described_text(opset, "domain") ? tdn_described_text(opset, "domain") : "ai.onnx",
        tdn_described_number(opset, "version"));
    printf("\n");
    tdn_described_ios("inputs", 12, json_object_get(model, "inputs"));
    tdn_described_ios("outputs", 12, json_object_get(model, "outputs"));
    printf("%-12s %s in %.0f initializers\n", "parameters",
           tdn_scaled(tdn_described_number(model, "parameters"), "", parameters, sizeof parameters),
           tdn_described_number(model, "initializers"));
    printf("%-12s %s a run\n", "operations",
           tdn_scaled(tdn_described_number(model, "flops"), "FLOP", flops, sizeof flops));
    print_operators(model);
    if (args->all)
        print_nodes(model);
    if (json_array_size(json_object_get(model, "unsupported")) > 0)
        print_unsupported(json_object_get(model, "unsupported"));
}

/* ---- The command ----------------------------------------------------------------------------- */

static tdn_status describe_model(char **json, const char *path, const inspect_args *args,
                                 tdn_error *error)
{
    tdn_term term = tdn_term_of(stderr);
    tdn_log_sink sink = {&term, false};
    tdn_shape_set shapes, *given = NULL;
    tdn_model *model;
    tdn_arena *arena = tdn_arena_create(NULL);
    if (!arena)
        return tdn_fail_nomem(error, "the description");
    tdn_status status = tdn_session_load_model(&model, path, args->compile.operators, &sink, error);
    if (status == TDN_OK && args->compile.shapes.n > 0) {
        given = &shapes;
        status = tdn_shapes_parse(args->compile.shapes.items[0], arena, given, error);
    }
    if (status == TDN_OK)
        status = tdn_session_name_file(tdn_model_describe(json, model, given, error), path, error);
    tdn_model_free(model);
    tdn_arena_free(arena);
    return status;
}

/* What remains to be said by the exit code. */
static tdn_status check_supported(const json_t *description, const char *path, tdn_error *error)
{
    size_t n = json_array_size(json_object_get(description, "unsupported"));
    if (n == 0)
        return TDN_OK;
    return tdn_fail(error, TDN_E_CHECK, "%s cannot be compiled: %zu of its nodes %s not supported",
                    path, n, n == 1 ? "is" : "are");
}

static tdn_status print_description(const char *text, const char *path, bool is_plan,
                                    const inspect_args *args, tdn_error *error)
{
    json_error_t why;
    json_t *o = json_loads(text, 0, &why);
    if (!o)
        return tdn_fail(error, TDN_E_INTERNAL, "the description of %s is no JSON: %s", path,
                        why.text);
    if (args->json)
        fputs(text, stdout);
    else if (is_plan)
        print_plan(path, o, args);
    else
        print_model(path, o, args);
    if (args->json && *text && text[strlen(text) - 1] != '\n')
        putchar('\n');
    tdn_status status = check_supported(o, path, error);
    json_decref(o);
    return status;
}

static tdn_status inspect(const char *path, const inspect_args *args, tdn_error *error)
{
    bool is_plan;
    char *text = NULL;
    TDN_TRY(tdn_file_is_plan(path, &is_plan, error));
    if (is_plan && args->compile.shapes.n > 0)
        return tdn_fail(error, TDN_E_ARG, "%s is a plan, with its own shapes: drop --shapes", path);
    TDN_TRY(is_plan ? tdn_plan_describe(&text, path, error)
                    : describe_model(&text, path, args, error));
    tdn_status status = print_description(text, path, is_plan, args, error);
    tdn_text_free(text);
    return status;
}

int tdn_cmd_inspect(int argc, char **argv)
{
    inspect_args args = {.json = false};
    tdn_opt_set sets[] = {{inspect_opts, sizeof inspect_opts / sizeof inspect_opts[0], &args}};
    tdn_operands operands;
    tdn_error error = {""};
    int code;
    if (tdn_cmd_begin(&usage, sets, 1, argc, argv, &operands, &code))
        code = tdn_cmd_end(inspect(operands.items[0], &args, &error), &error);
    tdn_opts_free(sets, 1, &operands);
    return code;
}
