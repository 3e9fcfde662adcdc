/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The graph as text, a line a node, for people and for the before/after tests of passes:
 *
 *     %y:f32[1x64x200] = Conv(%x, @w) {group=1, pads=[1, 1]} epilogue t0 = ...   ; conv1
 *
 * % is a value that a run makes, @ a constant, _ an absent operand. Long lines are cut, never
 * refused.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "graph/graph.h"

typedef struct line {
    char text[1024];
    size_t n;
} line;

__attribute__((format(printf, 2, 3))) static void put(line *l, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(l->text + l->n, sizeof l->text - l->n, format, args);
    va_end(args);
    const size_t room = sizeof l->text - 1 - l->n;
    l->n += n < 0 ? 0 : (size_t)n < room ? (size_t)n : room;
}

const char *tdn_shape_print(const tdn_shape *shape, char *text, size_t size)
{
    line l = {.n = 0};
    if (shape->rank <= 0)
        put(&l, "%s", shape->rank < 0 ? "?" : "scalar");
    for (int i = 0; i < shape->rank; i++) {
        put(&l, i ? "x" : "");
        if (shape->dims[i] < 0)
            put(&l, "?");
        else
            put(&l, "%s%lld", shape->bounded >> i & 1 ? "<=" : "", (long long)shape->dims[i]);
    }
    if (size)
        snprintf(text, size, "%s", l.text);
    return text;
}

static void put_value(line *l, const tdn_value *v)
{
    if (v)
        put(l, "%c%s", v->kind == TDN_VALUE_CONST ? '@' : '%', v->name);
    else
        put(l, "_");
}

static void put_typed(line *l, const tdn_value *v)
{
    put_value(l, v);
    if (v) {
        char shape[192];
        put(l, ":%s[%s]", tdn_dtype_name(v->dtype),
            tdn_shape_print(&v->shape, shape, sizeof shape));
    }
}

static void put_attr(line *l, const tdn_attr *a)
{
    put(l, "%s=", a->name);
    switch (a->kind) {
    case TDN_ATTR_INT: put(l, "%lld", (long long)a->i); break;
    case TDN_ATTR_FLOAT: put(l, "%.9g", (double)a->f); break;
    case TDN_ATTR_STRING: put(l, "\"%s\"", a->s); break;
    case TDN_ATTR_TENSOR: put(l, "<%s>", tdn_dtype_name(a->tensor->dtype)); break;
    case TDN_ATTR_GRAPH: put(l, "<graph of %d nodes>", a->graph->n_nodes); break;
    case TDN_ATTR_INTS:
    case TDN_ATTR_FLOATS:
    case TDN_ATTR_STRINGS:
        put(l, "[");
        for (int i = 0; i < a->n; i++) {
            put(l, i ? ", " : "");
            if (a->kind == TDN_ATTR_INTS)
                put(l, "%lld", (long long)a->ints[i]);
            else if (a->kind == TDN_ATTR_FLOATS)
                put(l, "%.9g", (double)a->floats[i]);
            else
                put(l, "\"%s\"", a->strings[i]);
        }
        put(l, "]");
    }
}

static void put_node(line *l, const tdn_node *node)
{
    for (int i = 0; i < node->n_out; i++) {
        put(l, i ? ", " : "");
        put_typed(l, node->out[i]);
    }
    put(l, " = %s(", tdn_node_op_name(node));
    for (int i = 0; i < node->n_in; i++) {
        put(l, i == 0 ? "" : i == node->n_own_in ? "; " : ", ");
        put_value(l, node->in[i]);
    }
    put(l, ")");
    for (int i = 0; i < node->attrs.n; i++) {
        put(l, i ? ", " : " {");
        put_attr(l, &node->attrs.items[i]);
    }
    put(l, node->attrs.n ? "}" : "");
    if (node->expr) {
        char expr[512];
        tdn_expr_print(node->expr, expr, sizeof expr);
        put(l, " : %s", expr);
    }
    put(l, "  ; %s", node->origin);
}

static void dump(const tdn_graph *g, const char *indent, void (*out)(void *, const char *),
                 void *user)
{
    for (int i = 0; i < g->n_inputs; i++) {
        line l = {.n = 0};
        put(&l, "%sinput ", indent);
        put_typed(&l, g->inputs[i]);
        out(user, l.text);
    }
    for (const tdn_node *node = g->first; node; node = node->next) {
        line l = {.n = 0};
        put(&l, "%s", indent);
        put_node(&l, node);
        out(user, l.text);
    }
    for (int i = 0; i < g->n_outputs; i++) {
        line l = {.n = 0};
        put(&l, "%soutput ", indent);
        put_typed(&l, g->outputs[i]);
        out(user, l.text);
    }
    for (int i = 0; i < g->n_states; i++) {
        line l = {.n = 0};
        put(&l, "%sstate ", indent);
        put_value(&l, g->states[i].input);
        put(&l, " <- ");
        put_value(&l, g->states[i].output);
        out(user, l.text);
    }
}

void tdn_graph_dump(const tdn_graph *g, void (*out)(void *user, const char *text), void *user)
{
    dump(g, "", out, user);
}
