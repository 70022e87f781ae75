/* See hook.h. llama.cpp asks about every node of the graph (some 900 a token), so the ask phase does a few string
 * comparisons at most, and nothing in the callback allocates. */

#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L /* clock_gettime */
#endif

#include "hook.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <time.h>
#endif

enum { NOT_A_BOUNDARY = -1, NONE = -1, LANES = 16 };

typedef struct {
    float *destination;
    int capacity_rows;
    int rows;
} capture;

struct es_hook {
    es_config config;
    int n_boundaries;
    int *first_touching; /* [n_boundaries + 1] into touching: the sites that read or write each boundary */
    int *touching;       /* [2 * n_sites] */
    int *last_pid;       /* [n_sites] the controller's pid site before a pid site, or NONE */
    int *sum_of;         /* [n_sites] which of a row's sums a pid site adds to */
    int n_sums;
    capture *captures;   /* [n_boundaries] */
    float *scratch;      /* [width] */
    float *sums;         /* [max_rows][n_sums][width] of control * gain, over the pid sites that a row came by */
    float *sideways;     /* [n_sites] how far the row at hand moves along each axis */
    char *survey;
    size_t survey_left;

    /* Timing and tracing. */
    bool is_watched; /* either of them is on */
    int64_t work_ns;
    int64_t asked;  /* when the first node since the last event was asked about; 0: none was */
    es_event *ring; /* NULL: no tracing */
    int64_t ring_size;
    int64_t n_events;
    const char *const *traced_labels;

    /* The plan. */
    int n_rows;
    int n_outputs;
    int *output_rows;     /* [max_rows] batch row of each output row */
    es_command *commands; /* [max_rows][n_controllers] */
    uint8_t *strongest;   /* [n_controllers] the strongest action that any row asks for */
    bool *needed;         /* [n_boundaries] */
    bool nothing_needed;

    /* The run. */
    int *visited; /* [n_boundaries] */
    bool blocks_began;
    es_error error;
};

/* The rows of the node at hand. */
typedef struct {
    void *tensor;
    const char *name;
    int boundary;
    int n_rows;
    const int *batch_rows; /* NULL: row i of the tensor is row i of the batch */
    float *host;           /* NULL: the rows are not on the host */
} node;

/* ---- sites ---- */

static int write_boundary(const es_site *site) { return site->gain ? site->write_block + 1 : NOT_A_BOUNDARY; }

static bool reads_before_control(const es_site *site) { return !site->gain || site->read_boundary == write_boundary(site); }

static bool measures(const es_site *site, int action) { return action >= (site->gain ? ES_MEASURE : ES_SENSE); }

static bool works_at(const es_site *site, int boundary, int action)
{
    return (site->read_boundary == boundary && measures(site, action)) ||
           (write_boundary(site) == boundary && action == ES_STEER);
}

/* Several partial sums, so that the compiler may use vectors without reordering what we wrote. */
static float dot(const float *restrict a, const float *restrict b, int n)
{
    float partial[LANES] = {0};
    float rest = 0;
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int lane = 0; lane < LANES; lane++) partial[lane] += a[i + lane] * b[i + lane];
    for (; i < n; i++) rest += a[i] * b[i];
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; lane++) partial[lane] += partial[lane + half];
    return partial[0] + rest;
}

static float measure(const es_site *site, const float *x, int width)
{
    return site->probe ? dot(site->probe, x, width) - site->offset : 0.0f;
}

static float control_of(const es_site *site, const es_command *command, float measurement)
{
    float error = site->rest + command->level * site->span - measurement;
    if (command->mode == ES_FLOOR && error < 0) error = 0;
    if (command->mode == ES_CEILING && error > 0) error = 0;
    return command->effort * error;
}

/* Turns the point (along, across) of a plane towards (1, 0), or towards (-1, 0) where the angle is negative, and no further.
 * Returns how far it moves along, and gives how far across. */
static float turn(float along, float across, float angle, float *moved_across)
{
    const float half_turn = 3.14159265f;
    float height = fabsf(across);
    float to_pole = atan2f(height, along) - (angle < 0 ? half_turn : 0);
    float new_along, new_height;
    if (fabsf(angle) >= fabsf(to_pole)) {
        new_along = copysignf(hypotf(along, across), angle);
        new_height = 0;
    } else {
        new_along = along * cosf(angle) + height * sinf(angle);
        new_height = height * cosf(angle) - along * sinf(angle);
    }
    *moved_across = copysignf(new_height, across) - across;
    return new_along - along;
}

static void add_scaled(float *restrict x, float factor, const float *restrict direction, int width)
{
    for (int i = 0; i < width; i++) x[i] += factor * direction[i];
}

/* ---- one row ---- */

static const es_command *command_of(const es_hook *hook, const es_site *site, int row)
{
    return &hook->commands[(size_t)row * hook->config.n_controllers + site->controller];
}

/* Row by row, so that a short batch leaves the rest of the arrays alone: pages that nobody touches take no memory. */
static size_t telemetry_index(const es_hook *hook, int site, int row) { return (size_t)row * hook->config.n_sites + site; }

static void fail(es_hook *hook, const node *at, int code, int64_t expected, int64_t found)
{
    if (hook->error.code != ES_OK) return;
    hook->error = (es_error){.code = code, .boundary = at->boundary, .expected = expected, .found = found};
    snprintf(hook->error.node, sizeof hook->error.node, "%s", at->name);
}

/* Run before control and again after it. A site that acts on this boundary, and a sensor, first measures before; a site
 * that acts one block later sees its input as all control left it. */
static void measure_row(es_hook *hook, int boundary, int row, const float *x, bool controlled)
{
    const es_config *config = &hook->config;
    for (int t = hook->first_touching[boundary]; t < hook->first_touching[boundary + 1]; t++) {
        const es_site *site = &config->sites[hook->touching[t]];
        bool measures_first_now = reads_before_control(site) != controlled;
        if (site->read_boundary != boundary || !(measures_first_now || controlled)) continue;
        if (!measures(site, command_of(hook, site, row)->action)) continue;
        size_t at = telemetry_index(hook, hook->touching[t], row);
        config->after[at] = measure(site, x, config->width);
        if (measures_first_now) {
            config->before[at] = config->after[at];
            config->control[at] = 0;
        }
    }
}

static float decide_site(es_hook *hook, int number, const es_command *command, float measurement, const float *x)
{
    const es_site *site = &hook->config.sites[number];
    if (!site->axis) return control_of(site, command, measurement);
    float angle = command->effort * (site->rest + command->level * site->span);
    hook->sideways[number] = 0;
    if (angle == 0) return 0;
    return turn(measurement, dot(site->axis, x, hook->config.width), angle, &hook->sideways[number]);
}

/* Whether a site writes at all: a pid site where control is 0 may still have a sum to add. */
static bool writes(const es_hook *hook, int number, const es_command *command, float control)
{
    const es_site *site = &hook->config.sites[number];
    if (site->is_pid) return command->effort != 0;
    return control != 0 || (site->axis && hook->sideways[number] != 0);
}

/* Compute every control at this boundary before any is applied. Returns whether there is anything to apply. */
static bool decide_row(es_hook *hook, const node *at, int row, const float *x)
{
    const es_config *config = &hook->config;
    bool wanted = false;
    for (int t = hook->first_touching[at->boundary]; t < hook->first_touching[at->boundary + 1]; t++) {
        const es_site *site = &config->sites[hook->touching[t]];
        const es_command *command = command_of(hook, site, row);
        if (write_boundary(site) != at->boundary || command->action != ES_STEER) continue;
        size_t index = telemetry_index(hook, hook->touching[t], row);
        config->control[index] = decide_site(hook, hook->touching[t], command, config->before[index], x);
        if (isnan(config->control[index])) {
            fail(hook, at, ES_NOT_A_NUMBER, 0, row);
            return false;
        }
        wanted = wanted || writes(hook, hook->touching[t], command, config->control[index]);
    }
    return wanted;
}

static void add_pid(es_hook *hook, int number, int row, float *x)
{
    const es_config *config = &hook->config;
    const es_site *site = &config->sites[number];
    float control = config->control[telemetry_index(hook, number, row)];
    int last = hook->last_pid[number];
    float *sum = hook->sums + ((size_t)row * hook->n_sums + hook->sum_of[number]) * config->width;
    if (last == NONE) memset(sum, 0, sizeof *sum * (size_t)config->width);
    add_scaled(sum, control, site->gain, config->width);
    add_scaled(x, control * (site->proportional + site->derivative), site->gain, config->width);
    add_scaled(x, site->integral, sum, config->width);
    if (last == NONE) return;
    float before = config->control[telemetry_index(hook, last, row)];
    add_scaled(x, -site->derivative * before, config->sites[last].gain, config->width);
}

static void apply_row(es_hook *hook, int boundary, int row, float *x)
{
    const es_config *config = &hook->config;
    for (int t = hook->first_touching[boundary]; t < hook->first_touching[boundary + 1]; t++) {
        const es_site *site = &config->sites[hook->touching[t]];
        if (write_boundary(site) != boundary || command_of(hook, site, row)->action != ES_STEER) continue;
        float control = config->control[telemetry_index(hook, hook->touching[t], row)];
        if (!writes(hook, hook->touching[t], command_of(hook, site, row), control)) continue;
        if (site->is_pid) {
            add_pid(hook, hook->touching[t], row, x);
            continue;
        }
        add_scaled(x, control, site->gain, config->width);
        if (site->axis) add_scaled(x, hook->sideways[hook->touching[t]], site->axis, config->width);
    }
}

/* Returns whether x was changed. */
static bool control_row(es_hook *hook, const node *at, int row, float *x)
{
    measure_row(hook, at->boundary, row, x, false);
    bool wanted = decide_row(hook, at, row, x);
    if (wanted) apply_row(hook, at->boundary, row, x);
    measure_row(hook, at->boundary, row, x, true);
    return wanted;
}

static bool row_is_active(const es_hook *hook, int boundary, int row)
{
    for (int t = hook->first_touching[boundary]; t < hook->first_touching[boundary + 1]; t++) {
        const es_site *site = &hook->config.sites[hook->touching[t]];
        if (works_at(site, boundary, command_of(hook, site, row)->action)) return true;
    }
    return false;
}

/* ---- one node ---- */

/* The buffer pointer is read from inside the tensor because ggml exports no function that returns it. */
static float *host_rows(const es_hook *hook, const void *tensor)
{
    const es_backend *backend = hook->config.backend;
    if (hook->config.force_copy || backend->buffer_offset == SIZE_MAX) return NULL;
    const void *buffer;
    memcpy(&buffer, (const char *)tensor + backend->buffer_offset, sizeof buffer);
    return buffer && backend->buffer_is_host(buffer) ? backend->data(tensor) : NULL;
}

/* Returns false, with the error recorded, when the tensor is not rows of the residual stream as planned, and for every
 * node after an error. */
static bool find_rows(es_hook *hook, node *at)
{
    const es_backend *backend = hook->config.backend;
    int64_t elements = backend->element_count(at->tensor);
    int64_t bytes = (int64_t)backend->byte_count(at->tensor);
    int64_t rows = elements / hook->config.width;
    bool pruned = at->boundary == hook->config.n_blocks && rows != hook->n_rows;
    int planned = pruned ? hook->n_outputs : hook->n_rows;

    if (!backend->is_contiguous(at->tensor)) {
        fail(hook, at, ES_LAYOUT, 0, 0);
    } else if (bytes != elements * (int64_t)sizeof(float)) {
        fail(hook, at, ES_TYPE, elements * (int64_t)sizeof(float), bytes);
    } else if (elements % hook->config.width != 0) {
        fail(hook, at, ES_WIDTH, hook->config.width, elements);
    } else if (rows != planned) {
        fail(hook, at, ES_ROWS, planned, rows);
    }
    at->n_rows = planned;
    at->batch_rows = pruned ? hook->output_rows : NULL;
    at->host = host_rows(hook, at->tensor);
    return hook->error.code == ES_OK;
}

static void control_node(es_hook *hook, const node *at)
{
    const es_backend *backend = hook->config.backend;
    size_t row_bytes = sizeof(float) * (size_t)hook->config.width;
    for (int i = 0; i < at->n_rows; i++) {
        int row = at->batch_rows ? at->batch_rows[i] : i;
        if (!row_is_active(hook, at->boundary, row)) continue;
        if (at->host) {
            control_row(hook, at, row, at->host + (size_t)i * hook->config.width);
            continue;
        }
        backend->read(at->tensor, hook->scratch, i * row_bytes, row_bytes);
        if (control_row(hook, at, row, hook->scratch)) {
            backend->write(at->tensor, hook->scratch, i * row_bytes, row_bytes);
        }
    }
}

static void capture_node(es_hook *hook, const node *at)
{
    capture *target = &hook->captures[at->boundary];
    size_t size = sizeof(float) * (size_t)hook->config.width * (size_t)at->n_rows;
    if (!target->destination || size == 0) return;
    if (at->n_rows > target->capacity_rows) {
        fail(hook, at, ES_CAPTURE, target->capacity_rows, at->n_rows);
        return;
    }
    if (at->host) {
        memcpy(target->destination, at->host, size);
    } else {
        hook->config.backend->read(at->tensor, target->destination, 0, size);
    }
    target->rows = at->n_rows;
}

/* ---- the callback ---- */

static int block_of(const es_hook *hook, const char *name)
{
    size_t prefix = strlen(hook->config.block_output);
    if (strncmp(name, hook->config.block_output, prefix) != 0 || name[prefix] != '-') return NOT_A_BOUNDARY;
    const char *digit = name + prefix + 1;
    int block = 0;
    do {
        if (*digit < '0' || *digit > '9') return NOT_A_BOUNDARY;
        block = block * 10 + (*digit - '0');
        if (block >= hook->config.n_blocks) return NOT_A_BOUNDARY;
    } while (*++digit);
    return block;
}

static int boundary_of(es_hook *hook, const char *name)
{
    int block = block_of(hook, name);
    if (block != NOT_A_BOUNDARY) {
        hook->blocks_began = true;
        return block + 1;
    }
    if (hook->blocks_began || !hook->needed[0]) return NOT_A_BOUNDARY;
    for (const char *const *embedding = hook->config.embedding_names; *embedding; embedding++) {
        if (strcmp(name, *embedding) == 0) return 0;
    }
    return NOT_A_BOUNDARY;
}

static void note_name(es_hook *hook, const char *name)
{
    size_t length = strlen(name);
    if (length + 1 > hook->survey_left) {
        hook->survey_left = 0; /* no later, shorter name either: the list has no gaps */
        return;
    }
    memcpy(hook->survey, name, length);
    hook->survey[length] = '\n';
    hook->survey += length + 1;
    hook->survey_left -= length + 1;
}

static bool eval(es_hook *hook, void *tensor, bool ask)
{
    if (hook->survey && ask) note_name(hook, hook->config.backend->name(tensor));
    if (hook->survey || hook->nothing_needed) return !ask;

    node at = {.tensor = tensor, .name = hook->config.backend->name(tensor)};
    at.boundary = boundary_of(hook, at.name);
    bool needed = at.boundary != NOT_A_BOUNDARY && hook->needed[at.boundary];
    if (ask || !needed) return needed || !ask;

    hook->visited[at.boundary]++;
    if (find_rows(hook, &at)) {
        control_node(hook, &at);
        capture_node(hook, &at);
    }
    return true; /* false would end the graph here and still report success */
}

/* ---- timing and tracing ---- */

int64_t es_now(void)
{
#if defined(_WIN32)
    LARGE_INTEGER ticks, per_second;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&per_second);
    int64_t whole = ticks.QuadPart / per_second.QuadPart, rest = ticks.QuadPart % per_second.QuadPart;
    return whole * 1000000000 + rest * 1000000000 / per_second.QuadPart;
#else
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
#endif
}

/* "label" or "label-<digits>". */
static bool has_label(const char *name, const char *label)
{
    while (*label && *name == *label) name++, label++;
    if (*label) return false;
    if (*name == '\0') return true;
    return name[0] == '-' && name[1] != '\0' && name[1 + strspn(name + 1, "0123456789")] == '\0';
}

static bool is_traced(const es_hook *hook, const char *name)
{
    if (!hook->ring) return false;
    if (!hook->traced_labels) return true;
    for (const char *const *label = hook->traced_labels; *label; label++) {
        if (has_label(name, *label)) return true;
    }
    return false;
}

static void note_event(es_hook *hook, const char *name, int64_t computed, int64_t done)
{
    es_event *event = &hook->ring[hook->n_events++ % hook->ring_size];
    *event = (es_event){.asked = hook->asked, .computed = computed, .done = done};
    snprintf(event->node, sizeof event->node, "%s", name);
    hook->asked = 0;
}

/* The answer is yes where the hook or the trace wants the node; the hook does nothing where only the trace does. */
static bool eval_watched(es_hook *hook, void *tensor, bool ask)
{
    bool traced = is_traced(hook, hook->config.backend->name(tensor));
    if (ask) {
        if (hook->ring && hook->asked == 0) hook->asked = es_now();
        return eval(hook, tensor, true) || traced;
    }
    int64_t computed = es_now();
    bool goes_on = eval(hook, tensor, false);
    int64_t done = es_now();
    hook->work_ns += done - computed;
    if (traced) note_event(hook, hook->config.backend->name(tensor), computed, done);
    return goes_on;
}

bool es_eval(void *tensor, bool ask, void *user_data)
{
    es_hook *hook = user_data;
    return hook->is_watched ? eval_watched(hook, tensor, ask) : eval(hook, tensor, ask);
}

bool es_eval_current(void *tensor, bool ask, void *user_data)
{
    es_hook *const *current = user_data;
    return *current ? es_eval(tensor, ask, *current) : !ask;
}

/* ---- the plan ---- */

static void clear_telemetry(es_hook *hook)
{
    const es_config *config = &hook->config;
    size_t used = (size_t)hook->n_rows * config->n_sites;
    for (size_t at = 0; at < used; at++) config->before[at] = config->after[at] = config->control[at] = NAN;
}

static void find_strongest(es_hook *hook)
{
    int n = hook->config.n_controllers;
    memset(hook->strongest, ES_OFF, (size_t)n);
    for (int row = 0; row < hook->n_rows; row++) {
        for (int c = 0; c < n; c++) {
            uint8_t action = hook->commands[(size_t)row * n + c].action;
            if (action > hook->strongest[c]) hook->strongest[c] = action;
        }
    }
}

static void find_needed(es_hook *hook)
{
    hook->nothing_needed = true;
    for (int boundary = 0; boundary < hook->n_boundaries; boundary++) {
        bool needed = hook->captures[boundary].destination != NULL;
        for (int t = hook->first_touching[boundary]; t < hook->first_touching[boundary + 1] && !needed; t++) {
            const es_site *site = &hook->config.sites[hook->touching[t]];
            needed = works_at(site, boundary, hook->strongest[site->controller]);
        }
        hook->needed[boundary] = needed;
        hook->nothing_needed = hook->nothing_needed && !needed;
    }
}

static void forget_run(es_hook *hook)
{
    hook->blocks_began = false;
    hook->work_ns = hook->asked = 0;
    hook->error = (es_error){.code = ES_OK};
    for (int boundary = 0; boundary < hook->n_boundaries; boundary++) {
        hook->visited[boundary] = 0;
        hook->captures[boundary].rows = 0;
    }
}

bool es_plan(es_hook *hook, int n_rows, const uint8_t *is_output, const es_command *commands)
{
    if (n_rows < 0 || n_rows > hook->config.max_rows) return false;
    hook->n_rows = n_rows;
    hook->n_outputs = 0;
    for (int row = 0; row < n_rows; row++) {
        if (is_output[row]) hook->output_rows[hook->n_outputs++] = row;
    }
    size_t n_commands = (size_t)n_rows * (size_t)hook->config.n_controllers;
    if (n_commands) memcpy(hook->commands, commands, n_commands * sizeof *commands);
    forget_run(hook);
    clear_telemetry(hook);
    find_strongest(hook);
    find_needed(hook);
    return true;
}

/* ---- life ---- */

static void *zeros(size_t count, size_t size) { return calloc(count ? count : 1, size); }

static void index_sites(es_hook *hook)
{
    int used = 0;
    for (int boundary = 0; boundary < hook->n_boundaries; boundary++) {
        hook->first_touching[boundary] = used;
        for (int s = 0; s < hook->config.n_sites; s++) {
            const es_site *site = &hook->config.sites[s];
            bool touches = site->read_boundary == boundary || write_boundary(site) == boundary;
            if (touches) hook->touching[used++] = s;
        }
    }
    hook->first_touching[hook->n_boundaries] = used;
}

/* Link each controller's pid sites in the order given, and count the controllers that have some. */
static void link_pid_sites(es_hook *hook)
{
    const es_site *sites = hook->config.sites;
    hook->n_sums = 0;
    for (int s = 0; s < hook->config.n_sites; s++) {
        hook->last_pid[s] = NONE;
        if (!sites[s].is_pid) continue;
        for (int earlier = 0; earlier < s; earlier++) {
            if (sites[earlier].is_pid && sites[earlier].controller == sites[s].controller) hook->last_pid[s] = earlier;
        }
        hook->sum_of[s] = hook->last_pid[s] == NONE ? hook->n_sums++ : hook->sum_of[hook->last_pid[s]];
    }
}

static bool allocate(es_hook *hook)
{
    const es_config *config = &hook->config;
    size_t n_boundaries = (size_t)hook->n_boundaries;
    size_t n_controllers = (size_t)config->n_controllers;
    size_t max_rows = (size_t)config->max_rows;
    return (hook->first_touching = zeros(n_boundaries + 1, sizeof *hook->first_touching)) &&
           (hook->touching = zeros(2 * (size_t)config->n_sites, sizeof *hook->touching)) &&
           (hook->captures = zeros(n_boundaries, sizeof *hook->captures)) &&
           (hook->last_pid = zeros((size_t)config->n_sites, sizeof *hook->last_pid)) &&
           (hook->sum_of = zeros((size_t)config->n_sites, sizeof *hook->sum_of)) &&
           (hook->sideways = zeros((size_t)config->n_sites, sizeof *hook->sideways)) &&
           (hook->scratch = zeros((size_t)config->width, sizeof *hook->scratch)) &&
           (hook->output_rows = zeros(max_rows, sizeof *hook->output_rows)) &&
           (hook->commands = zeros(max_rows * n_controllers, sizeof *hook->commands)) &&
           (hook->strongest = zeros(n_controllers, sizeof *hook->strongest)) &&
           (hook->needed = zeros(n_boundaries, sizeof *hook->needed)) &&
           (hook->visited = zeros(n_boundaries, sizeof *hook->visited));
}

es_hook *es_create(const es_config *config)
{
    es_hook *hook = zeros(1, sizeof *hook);
    if (!hook) return NULL;
    hook->config = *config;
    hook->n_boundaries = config->n_blocks + 1;
    hook->nothing_needed = true;
    hook->is_watched = config->timed;
    if (!allocate(hook)) {
        es_destroy(hook);
        return NULL;
    }
    index_sites(hook);
    link_pid_sites(hook);
    hook->sums = zeros((size_t)config->max_rows * (size_t)hook->n_sums, sizeof(float) * (size_t)config->width);
    if (!hook->sums) {
        es_destroy(hook);
        return NULL;
    }
    return hook;
}

void es_destroy(es_hook *hook)
{
    if (!hook) return;
    free(hook->first_touching);
    free(hook->touching);
    free(hook->captures);
    free(hook->last_pid);
    free(hook->sum_of);
    free(hook->sums);
    free(hook->sideways);
    free(hook->scratch);
    free(hook->output_rows);
    free(hook->commands);
    free(hook->strongest);
    free(hook->needed);
    free(hook->visited);
    free(hook);
}

/* ---- what Python asks ---- */

const es_error *es_last_error(const es_hook *hook) { return &hook->error; }

int es_visited(const es_hook *hook, int boundary) { return hook->visited[boundary]; }

int es_missing(const es_hook *hook)
{
    for (int boundary = 0; boundary < hook->n_boundaries; boundary++) {
        if (hook->needed[boundary] && !hook->visited[boundary]) return boundary;
    }
    return NOT_A_BOUNDARY;
}

void es_survey(es_hook *hook, char *buffer, size_t capacity)
{
    hook->survey = buffer;
    hook->survey_left = capacity;
}

void es_capture(es_hook *hook, int boundary, float *destination, int capacity_rows)
{
    hook->captures[boundary] = (capture){.destination = destination, .capacity_rows = capacity_rows};
    find_needed(hook);
}

int es_captured(const es_hook *hook, int boundary) { return hook->captures[boundary].rows; }

int64_t es_time_ns(const es_hook *hook) { return hook->work_ns; }

void es_trace(es_hook *hook, es_event *ring, size_t size, const char *const *labels)
{
    hook->ring = ring;
    hook->ring_size = (int64_t)size;
    hook->traced_labels = labels;
    hook->asked = hook->n_events = 0;
    hook->is_watched = ring || hook->config.timed;
}

int64_t es_traced(const es_hook *hook) { return hook->n_events; }

size_t es_sizeof_backend(void) { return sizeof(es_backend); }
size_t es_sizeof_site(void) { return sizeof(es_site); }
size_t es_sizeof_command(void) { return sizeof(es_command); }
size_t es_sizeof_config(void) { return sizeof(es_config); }
size_t es_sizeof_error(void) { return sizeof(es_error); }
size_t es_sizeof_event(void) { return sizeof(es_event); }
