/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The JSON files that trtexec writes: times of runs, outputs, times of layers. Keys and nesting are
 * trtexec's; names are escaped, and numbers that JSON lacks (NaN, infinities) are null.
 */
#include <string.h>

#include "base/file.h"
#include "base/text.h"
#include "base/view.h"
#include "cli/trtexec.h"

static tdn_status write_text(tdn_text *t, const char *path, tdn_error *error)
{
    size_t size = t->n;
    char *text = tdn_text_take(t);
    if (!text)
        return tdn_fail_nomem(error, "the JSON text");
    tdn_status status = tdn_file_write(path, text, size, error);
    tdn_text_free(text);
    return status;
}

/* Milliseconds from the start of the first measured run. All that a run does is its computation. */
tdn_status tdn_trtexec_write_times(const tdn_measurement *m, const char *path, tdn_error *error)
{
    tdn_text t = {0};
    tdn_json_begin(&t, NULL, '[');
    for (size_t i = 0; i < m->n; i++) {
        double begin = (double)(m->calls[i].begin - m->calls[0].begin) * 1e-6;
        double end = (double)(m->calls[i].end - m->calls[0].begin) * 1e-6;
        const struct {
            const char *key;
            double ms;
        } rows[] = {
            {"startEnqMs", begin},
            {"endEnqMs", end},
            {"startH2dMs", begin},
            {"endH2dMs", begin},
            {"startComputeMs", begin},
            {"endComputeMs", end},
            {"startD2hMs", end},
            {"endD2hMs", end},
            {"h2dMs", 0},
            {"computeMs", end - begin},
            {"d2hMs", 0},
            {"latencyMs", end - begin},
        };
        tdn_json_begin(&t, NULL, '{');
        for (size_t k = 0; k < sizeof rows / sizeof rows[0]; k++)
            tdn_json_double(&t, rows[k].key, rows[k].ms);
        tdn_json_end(&t, '}');
    }
    tdn_json_end(&t, ']');
    return write_text(&t, path, error);
}

static void put_value(tdn_text *t, const tdn_view *view, int64_t i)
{
    switch (view->dtype) {
    case TDN_F32:
    case TDN_F16:
    case TDN_BF16:
    case TDN_F64: tdn_json_double(t, NULL, tdn_view_get(view, i)); break;
    case TDN_U64: tdn_json_uint(t, NULL, (uint64_t)tdn_view_get_int(view, i)); break;
    default: tdn_json_int(t, NULL, tdn_view_get_int(view, i)); break;
    }
}

static void put_output(tdn_text *t, const tdn_session_output *out)
{
    const tdn_tensor *tensor = &out->tensor;
    char dims[128] = "";
    int64_t n = 0;
    tdn_dims_count(tensor->dims, tensor->rank, &n);
    tdn_view view = tdn_view_make(tensor->data, tensor->dtype, 1, &n);
    if (tensor->rank > 0)
        tdn_tensor_text(tensor, dims, sizeof dims);
    tdn_json_begin(t, NULL, '{');
    tdn_json_string(t, "name", out->name);
    tdn_json_string(t, "dimensions", dims);
    tdn_json_begin(t, "values", '[');
    for (int64_t i = 0; i < n; i++)
        put_value(t, &view, i);
    tdn_json_end(t, ']');
    tdn_json_end(t, '}');
}

tdn_status tdn_trtexec_write_outputs(const tdn_session *session, const char *path, tdn_error *error)
{
    tdn_text t = {0};
    tdn_json_begin(&t, NULL, '[');
    for (int i = 0; i < session->n_outputs; i++)
        put_output(&t, &session->outputs[i]);
    tdn_json_end(&t, ']');
    return write_text(&t, path, error);
}

tdn_status tdn_trtexec_write_profile(const tdn_profile *p, const char *path, tdn_error *error)
{
    tdn_text t = {0};
    char name[4096];
    double total = 0;
    for (int i = 0; i < p->n; i++)
        total += (double)p->steps[i].total_ns * 1e-6;
    tdn_json_begin(&t, NULL, '[');
    tdn_json_begin(&t, NULL, '{');
    tdn_json_int(&t, "count", p->n_calls);
    tdn_json_end(&t, '}');
    for (int i = 0; i < p->n; i++) {
        double ms = (double)p->steps[i].total_ns * 1e-6;
        tdn_json_begin(&t, NULL, '{');
        tdn_json_string(&t, "name", tdn_trtexec_profile_name(p, i, name, sizeof name));
        tdn_json_double(&t, "timeMs", ms);
        tdn_json_double(&t, "averageMs", p->n_calls > 0 ? ms / (double)p->n_calls : 0);
        tdn_json_double(&t, "medianMs", p->median_ms[i]);
        tdn_json_double(&t, "percentage", total > 0 ? 100 * ms / total : 0);
        tdn_json_end(&t, '}');
    }
    tdn_json_end(&t, ']');
    return write_text(&t, path, error);
}
