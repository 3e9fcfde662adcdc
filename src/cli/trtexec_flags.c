/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The flags of trtexec in its generations 8, 10 and 11: first the rows that do something here, by
 * group, then one row for each other flag. What such a flag asks for either cannot change a result
 * on a CPU, and is accepted and said so, or could, and is refused in words: no flag is dropped
 * without a line. docs/trtexec.md lists them all.
 */
#include <stdlib.h>
#include <string.h>

#include "cli/trtexec.h"

#define AT(field) offsetof(tdn_trtexec_args, field)
#define TEXT(name, field, value, help)                                                             \
    {                                                                                              \
        name, 0, TDN_OPT_TEXT, AT(field), value, help, 0, 0                                        \
    }
#define FLAG(name, field, help)                                                                    \
    {                                                                                              \
        name, 0, TDN_OPT_FLAG, AT(field), NULL, help, 0, 0                                         \
    }
#define INT(name, field, min, max, help)                                                           \
    {                                                                                              \
        name, 0, TDN_OPT_INT, AT(field), "N", help, min, max                                       \
    }
#define REAL(name, field, value, min, max, help)                                                   \
    {                                                                                              \
        name, 0, TDN_OPT_REAL, AT(field), value, help, min, max                                    \
    }

static const tdn_opt build_opts[] = {
    TEXT("onnx", onnx, "FILE", "the model to compile"),
    TEXT("saveEngine", save_engine, "PLAN", "write the plan"),
    TEXT("minShapes", min_shapes, "NAME:1x3x8,...", "range of the batch axis: programs for powers"),
    TEXT("optShapes", opt_shapes, "NAME:4x3x8,...", "of two up to the largest, and for opt"),
    TEXT("maxShapes", max_shapes, "NAME:8x3x8,...", NULL),
    TEXT("memPoolSize", memory_pools, "workspace:N[KMG]",
         "limit of the memory for activations (MiB)"),
    REAL("workspace", workspace_mib, NULL, 0, 1 << 30, NULL),
    INT("builderOptimizationLevel", level, 0, 5, "effort of the compiler, 0 to 5 (3)"),
    TEXT("timingCacheFile", timing_cache, "FILE", "keep the times of kernels for the next build"),
    FLAG("fp16", fp16, "precision, as tendon build has it"),
    FLAG("int8", int8, NULL),
    TEXT("calib", calib, "FILE", "ranges of 8-bit values (else by random data)"),
    TEXT("layerPrecisions", layer_precisions, "NAME:fp32,...", "fp32, int8, ..., by layer"),
    TEXT("profilingVerbosity", verbosity, "layer_names_only|detailed|none",
         "of the layer information"),
};

static const tdn_opt run_opts[] = {
    TEXT("loadEngine", load_engine, "PLAN", "a plan to run"),
    TEXT("shapes", shapes, "NAME:1x3x8,...", "shapes to run; of a model: and to compile for"),
    TEXT("loadInputs", load_inputs, "NAME:FILE,...", "raw little-endian values (else seeded ones)"),
    INT("iterations", iterations, 0, 1e9, "run at least N times (10)"),
    REAL("warmUp", warm_up_ms, "MS", 0, 1e9, "run so long before measuring (200)"),
    REAL("duration", duration_s, "S", -1, 1e6, "measure at least so long (3); -1: until Ctrl-C"),
    REAL("sleepTime", sleep_ms, "MS", 0, 1e6, "sleep before the first run (0)"),
    REAL("idleTime", idle_ms, "MS", 0, 1e6, "sleep between two runs (0)"),
    FLAG("useSpinWait", spin_wait, "idle threads spin for up to 100 ms (else 0.1 ms), then sleep"),
    FLAG("noSpinWait", no_spin_wait, "idle threads sleep at once"),
    FLAG("skipInference", skip_inference, "build only; load only"),
    FLAG("buildOnly", skip_inference, NULL),
    FLAG("timeDeserialize", skip_inference, NULL),
    FLAG("getPlanVersionOnly", version_only, "say what wrote the plan, and end"),
    INT("cpuThreads", n_threads, 0, 1024, "threads of a run (all cores); Tendon's own flag"),
    TEXT("cores", cores, "0,1", "keep them on these cores; Tendon's own flag"),
};

static const tdn_opt report_opts[] = {
    INT("avgRuns", average_runs, 0, 1e9, "runs that a line of the trace averages (10)"),
    TEXT("percentile", percentiles, "P,...", "percentiles of the summary (90,95,99)"),
    FLAG("dumpOutput", dump_output, "print the last run's outputs"),
    FLAG("dumpProfile", dump_profile, "print the time by layer, from a run of its own"),
    FLAG("dumpLayerInfo", dump_layers, "print what the engine is made of"),
    TEXT("exportTimes", export_times, "FILE.json", "write the times of all runs"),
    TEXT("exportOutput", export_output, "FILE.json", "write the last run's outputs"),
    TEXT("exportProfile", export_profile, "FILE.json", "write the time by layer"),
    TEXT("exportLayerInfo", export_layers, "FILE.json", "write what the engine is made of"),
    FLAG("verbose", verbose, "print what the compiler does"),
};

#define COUNT(rows) (int)(sizeof(rows) / sizeof(rows)[0])
static const struct group {
    const char *title;
    const tdn_opt *opts;
    int n;
} groups[] = {
    {"build", build_opts, COUNT(build_opts)},
    {"run", run_opts, COUNT(run_opts)},
    {"report", report_opts, COUNT(report_opts)},
};

/* ---- The others ------------------------------------------------------------------------------ */

typedef struct other {
    const char *name;
    bool takes_value;
    const char *fine; /* NULL: always accepted; else only items of this list, separated by commas */
    const char *words; /* why it is accepted, or what to do instead */
} other;

static const char no_gpu[] = "a CPU has none of it";
static const char no_search[] = "the compiler searches in its own way: --builderOptimizationLevel";
static const char no_transfer[] = "there are no transfers: engine and data share the memory";
static const char no_runtime[] = "there is one run time, libtendon";
static const char no_streaming[] = "weights are read where the plan holds them";
static const char fp32_only[] = "not there yet: engines are float32";
static const char no_calibration[] =
    "calibrate apart: tendon calibrate MODEL.onnx --calib-data=FILE.npz -o CACHE";
static const char no_refit[] = "plans hold their weights for good: build from the changed model";
static const char no_dla[] = "there is no DLA: drop it to run on the CPU";
static const char no_plugins[] = "TensorRT's plugins do not run here: ONNX operators do";
static const char no_routes[] = "build routes are TensorRT's own";
static const char no_accuracy[] = "it goes with --loadRefOutputs, which is not given";
static const char no_reference[] =
    "tendon validate MODEL.onnx PLAN --data=FILE.npz compares outputs";
static const char no_debug[] = "tendon validate MODEL.onnx PLAN --layers looks inside";
static const char no_profiles[] = "there is one profile: of several, build a plan each";
static const char no_safety[] = "there is no safety-certified run time";
static const char no_old_parsers[] = "models are ONNX: --onnx=FILE";
static const char no_types[] = "all types are the model's";

static const other others[] = {
    /* Building. */
    {"inputIOFormats", true, "chw,fp32:chw", "inputs are as the model has them, row-major"},
    {"outputIOFormats", true, "chw,fp32:chw", "outputs are as the model has them, row-major"},
    {"directIO", false, NULL, "inputs and outputs are read and written in place"},
    {"avgTiming", true, NULL, no_search},
    {"maxTactics", true, NULL, no_search},
    {"heuristic", false, NULL, no_search},
    {"tilingOptimizationLevel", true, NULL, no_search},
    {"l2LimitForTiling", true, NULL, no_search},
    {"maxAuxStreams", true, NULL, no_gpu},
    {"tacticSources", true, NULL, no_search},
    {"sparsity", true, "disable,enable", "weights are never rewritten to be sparse"},
    {"noTF32", false, NULL, "float32 is float32 here, always"},
    {"stronglyTyped", false, NULL, no_types},
    {"explicitBatch", false, NULL, "the batch is explicit, always"},
    {"bf16", false, "", "not there yet: tendon build has --precision=bf16"},
    {"fp8", false, "", fp32_only},
    {"int4", false, "", fp32_only},
    {"best", false, "", fp32_only},
    {"calibProfile", true, "0", no_calibration},
    {"minShapesCalib", true, "", no_calibration},
    {"optShapesCalib", true, "", no_calibration},
    {"maxShapesCalib", true, "", no_calibration},
    {"precisionConstraints", true, NULL, no_types},
    {"layerOutputTypes", true, "", fp32_only},
    {"noBuilderCache", false, NULL, "there is no cache but that of --timingCacheFile"},
    {"noCompilationCache", false, NULL, "kernels are compiled already, and none is cached"},
    {"errorOnTimingCacheMiss", false, "", "what a timing cache lacks is timed and added"},
    {"refit", false, "", no_refit},
    {"refitFromOnnx", true, "", no_refit},
    {"stripWeights", false, "", no_refit},
    {"stripAllWeights", false, "", no_refit},
    {"weightless", false, "", no_refit},
    {"dumpRefit", false, "", no_refit},
    {"timeRefit", false, "", no_refit},
    {"allowWeightStreaming", false, NULL, no_streaming},
    {"weightStreamingBudget", true, NULL, no_streaming},
    {"versionCompatible", false, "", "a plan runs on versions that read its format, no others"},
    {"vc", false, "", "a plan runs on versions that read its format, no others"},
    {"excludeLeanRuntime", false, NULL, no_runtime},
    {"useRuntime", true, NULL, no_runtime},
    {"leanDLLPath", true, NULL, no_runtime},
    {"hardwareCompatibilityLevel", true, "none",
     "tendon build --target=NAME builds for other CPUs"},
    {"runtimePlatform", true, "SameAsBuild", "plans run on Linux"},
    {"profile", true, "0", no_profiles},
    {"useProfile", true, "0", no_profiles},
    {"dumpOptimizationProfile", false, NULL, "tendon inspect PLAN shows the shapes it holds"},
    {"preview", true, NULL, "there are no such features"},
    {"restricted", false, "", no_safety},
    {"safe", false, "", no_safety},
    {"consistency", false, "", no_safety},
    {"decomposableAttentions", true, NULL, "attention is the same computation either way"},
    {"distributiveIndependence", false, NULL, "sums have one fixed order, always"},
    {"tempdir", true, NULL, "files are written aside in their own folder"},
    {"tempfileControls", true, NULL, "files are written aside in their own folder"},
    {"monitorMemory", false, NULL, "tendon inspect PLAN has the sizes"},
    {"nvtxMode", true, NULL, no_gpu},
    {"markDebug", true, "", no_debug},
    {"maxBatch", true, "", "the batch is explicit: --shapes"},
    {"batch", true, "", "the batch is explicit: --shapes"},
    {"model", true, "", no_old_parsers},
    {"deploy", true, "", no_old_parsers},
    {"output", true, "", no_old_parsers},
    {"uff", true, "", no_old_parsers},
    {"uffInput", true, "", no_old_parsers},
    {"uffNHWC", false, "", no_old_parsers},
    /* Build routes. */
    {"tuneBuildRoutes", true, "", no_routes},
    {"tuneBuildRouteFile", true, "", no_routes},
    {"setBuildRoute", true, "", no_routes},
    {"helpBuildRoute", false, "", no_routes},
    {"saveAllEngines", false, "", no_routes},
    {"dryRun", false, "", no_routes},
    {"continue", false, "", no_routes},
    {"tuningSearch", true, NULL, no_routes},
    {"tuningCacheFile", true, NULL, no_routes},
    {"tuningTimeOut", true, NULL, no_routes},
    /* DLA. */
    {"useDLACore", true, "", no_dla},
    {"allowGPUFallback", false, NULL, no_gpu},
    {"layerDeviceTypes", true, "", no_dla},
    {"buildDLAStandalone", false, "", no_dla},
    {"adjustForDLA", false, "", no_dla},
    {"reportCapabilityDLA", false, "", no_dla},
    /* Running. */
    {"streams", true, "1", "one run at a time: it has all threads; start more processes"},
    {"infStreams", true, "1", "one run at a time: it has all threads; start more processes"},
    {"threads", false, NULL, "there is one stream, so one thread drives it"},
    {"useCudaGraph", false, NULL, "an engine's steps are a fixed list already"},
    {"noCudaGraph", false, NULL, "an engine's steps are a fixed list already"},
    {"noDataTransfers", false, NULL, no_transfer},
    {"includeDataTransfers", false, NULL, no_transfer},
    {"exposeDMA", false, NULL, no_transfer},
    {"useManagedMemory", false, NULL, no_transfer},
    {"persistentCacheRatio", true, NULL, no_gpu},
    {"allocationStrategy", true, NULL, "memory is planned at build and allocated once"},
    {"saveDebugTensors", true, "", no_debug},
    {"saveAllDebugTensors", true, "", no_debug},
    {"loadRefOutputs", true, "", no_reference},
    {"accuracyAlgorithm", true, NULL, no_accuracy},
    {"atol", true, NULL, no_accuracy},
    {"rtol", true, NULL, no_accuracy},
    {"accuracyThreshold", true, NULL, no_accuracy},
    {"refPair", true, NULL, no_accuracy},
    /* Reporting and system. */
    {"separateProfileRun", false, NULL, "the profile comes from a run of its own, always"},
    {"dumpRawBindingsToFile", false, "", "--exportOutput=FILE.json has the outputs"},
    {"device", true, NULL, "the CPU is the device"},
    {"plugins", true, "", no_plugins},
    {"staticPlugins", true, "", no_plugins},
    {"dynamicPlugins", true, "", no_plugins},
    {"setPluginsToSerialize", true, "", no_plugins},
    {"ignoreParsedPluginLibs", false, NULL, "there are no plugins"},
};
enum { N_OTHERS = sizeof others / sizeof others[0] };

/* What was given of the others, by row. */
typedef struct given {
    bool flag;
    const char *value;
} given;

static void make_rows(tdn_opt *rows)
{
    for (size_t i = 0; i < N_OTHERS; i++) {
        bool v = others[i].takes_value;
        rows[i] = (tdn_opt){.name = others[i].name,
                            .kind = v ? TDN_OPT_TEXT : TDN_OPT_FLAG,
                            .offset = i * sizeof(given) +
                                      (v ? offsetof(given, value) : offsetof(given, flag)),
                            .value = v ? "..." : NULL};
    }
}

static bool lists(const char *list, const char *item, size_t length)
{
    for (const char *at = list; *at;) {
        size_t n = strcspn(at, ",");
        if (n == length && memcmp(at, item, n) == 0)
            return true;
        at += n + (at[n] == ',');
    }
    return false;
}

/* Is every item of the value one that the row accepts? A flag without a value is no item. */
static bool is_fine(const other *row, const char *value)
{
    if (!row->fine)
        return true;
    for (const char *at = value ? value : "-"; *at;) {
        size_t n = strcspn(at, ",");
        if (!lists(row->fine, at, n))
            return false;
        at += n + (at[n] == ',');
    }
    return true;
}

static tdn_status judge_others(const given *g, tdn_error *error)
{
    for (int pass = 0; pass < 2; pass++) /* errors first: then nothing else is said */
        for (int i = 0; i < N_OTHERS; i++) {
            const char *value = g[i].value, *sign = value ? "=" : "";
            if (!g[i].flag && !value)
                continue;
            if (!is_fine(&others[i], value))
                return tdn_fail(error, TDN_E_ARG, "--%s%s%s: %s", others[i].name, sign,
                                value ? value : "", others[i].words);
            if (pass == 1)
                tdn_trtexec_say('I', "--%s%s%s: accepted, changes nothing here: %s", others[i].name,
                                sign, value ? value : "", others[i].words);
        }
    return TDN_OK;
}

/* ---- Parsing --------------------------------------------------------------------------------- */

static tdn_status check(const tdn_trtexec_args *a, tdn_error *error)
{
    if (!lists("layer_names_only,detailed,none", a->verbosity, strlen(a->verbosity)))
        return tdn_fail(error, TDN_E_ARG,
                        "--profilingVerbosity=%s: expected layer_names_only, detailed or none",
                        a->verbosity);
    if (a->duration_s < 0 && a->duration_s != -1)
        return tdn_fail(error, TDN_E_ARG, "--duration=%g: expected seconds, or -1: until Ctrl-C",
                        a->duration_s);
    if (a->spin_wait && a->no_spin_wait)
        return tdn_fail(error, TDN_E_ARG, "--useSpinWait and --noSpinWait contradict each other");
    if (!a->onnx && !a->load_engine)
        return tdn_fail(error, TDN_E_ARG, "no model: give --onnx=FILE or --loadEngine=PLAN");
    if (a->load_engine && a->save_engine)
        return tdn_fail(error, TDN_E_ARG,
                        "--saveEngine goes with --onnx: the loaded engine is a file already");
    return TDN_OK;
}

/* trtexec's spelling, which scripts look for. */
static void respell(tdn_error *error)
{
    static const char ours[] = "unknown option ";
    tdn_error text = *error;
    if (strncmp(text.text, ours, sizeof ours - 1) == 0)
        tdn_fail(error, TDN_E_ARG, "Unknown option: %s", text.text + sizeof ours - 1);
}

tdn_status tdn_trtexec_parse(tdn_trtexec_args *args, int argc, char **argv, tdn_error *error)
{
    tdn_opt rows[N_OTHERS];
    given others_given[N_OTHERS] = {{0}};
    make_rows(rows);
    tdn_opt_set sets[COUNT(groups) + 1];
    for (int i = 0; i < COUNT(groups); i++)
        sets[i] = (tdn_opt_set){groups[i].opts, groups[i].n, args};
    sets[COUNT(groups)] = (tdn_opt_set){rows, N_OTHERS, others_given};
    tdn_operands operands;
    tdn_status status =
        tdn_opts_parse(sets, COUNT(groups) + 1, argc - 1, argv + 1, &operands, error);
    if (status == TDN_OK && operands.n > 0)
        status = tdn_fail(error, TDN_E_ARG, "Unknown option: '%s': a model is given as --onnx=FILE",
                          operands.items[0]);
    tdn_opts_free(sets, COUNT(groups) + 1, &operands);
    if (status != TDN_OK) {
        respell(error);
        return status;
    }
    TDN_TRY(judge_others(others_given, error));
    return check(args, error);
}

/* The names of the rows that are always accepted, or that may be refused. */
static void print_others(FILE *out, const char *title, bool always)
{
    int column = fprintf(out, "\n%s:", title);
    for (int i = 0; i < N_OTHERS; i++) {
        if (!others[i].fine != always)
            continue;
        if (column + (int)strlen(others[i].name) + 3 > 96)
            column = fprintf(out, "\n ") - 1;
        column += fprintf(out, " --%s", others[i].name);
    }
    fputc('\n', out);
}

static const char usage[] =
    "usage: tendon trtexec --onnx=MODEL.onnx|--loadEngine=PLAN [flags]\n\n"
    "The flags, log and JSON files of NVIDIA's trtexec, for scripts that have them.\n"
    "Runs are synchronous, on the CPU. Exit code: 0 passed, 1 failed.\n";
static const char example[] =
    "\nexample:\n  tendon trtexec --onnx=emg.onnx --saveEngine=emg.plan --exportTimes=t.json\n";

static bool is_common(const char *name)
{
    static const char *const names[] = {"onnx",   "saveEngine",  "loadEngine", "shapes",
                                        "warmUp", "dumpProfile", "exportTimes"};
    for (int i = 0; i < COUNT(names); i++)
        if (strcmp(names[i], name) == 0)
            return true;
    return false;
}

void tdn_trtexec_help_short(FILE *out)
{
    tdn_opt common[16];
    tdn_opt_set set = {common, 0, NULL};
    fprintf(out, "%s\n", usage);
    for (int i = 0; i < COUNT(groups); i++)
        for (int k = 0; k < groups[i].n; k++)
            if (is_common(groups[i].opts[k].name) && set.n < COUNT(common))
                common[set.n++] = groups[i].opts[k];
    tdn_opts_print(out, &set, 1);
    int column = fprintf(out, "\nalso:") - 1;
    for (int i = 0; i < COUNT(groups); i++)
        for (int k = 0; k < groups[i].n; k++) {
            const char *name = groups[i].opts[k].name;
            if (is_common(name) || !groups[i].opts[k].help)
                continue;
            if (column + (int)strlen(name) + 3 > 78)
                column = fprintf(out, "\n ") - 1;
            column += fprintf(out, " --%s", name);
        }
    fprintf(out, "\nWhat each does, and those accepted or refused: tendon trtexec --help=all\n%s",
            example);
}

void tdn_trtexec_help(FILE *out)
{
    fputs(usage, out);
    for (int i = 0; i < COUNT(groups); i++) {
        tdn_opt_set set = {groups[i].opts, groups[i].n, NULL};
        fprintf(out, "\n%s:\n", groups[i].title);
        tdn_opts_print(out, &set, 1);
    }
    print_others(out, "accepted, without effect on a CPU", true);
    print_others(out, "refused with the reason (some values are accepted)", false);
    fputs(example, out);
}
