/* The feedback law as llama.cpp's eval callback. C11, no headers of llama.cpp or ggml, no state but the es_hook.
 *
 * A boundary is a point of the residual stream: 0 is the embedding, b+1 the output of block b. A site is one measurement
 * (and perhaps one actuation) of one controller at one block; a plan says for one llama_decode what each batch row asks
 * of each controller. All arrays are row-major float32; every pointer in es_config stays the caller's and must outlive
 * the hook. Nothing here is thread-safe: plan, decode and read from one thread. hook.py mirrors the structs below. */

#ifndef EDGESTEER_HOOK_H
#define EDGESTEER_HOOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define ES_API __declspec(dllexport)
#else
#define ES_API __attribute__((visibility("default")))
#endif

/* What the hook asks of ggml, by the ggml function that answers. */
typedef struct {
    const char *(*name)(const void *tensor);                                    /* ggml_get_name */
    int64_t (*element_count)(const void *tensor);                               /* ggml_nelements */
    size_t (*byte_count)(const void *tensor);                                   /* ggml_nbytes */
    bool (*is_contiguous)(const void *tensor);                                  /* ggml_is_contiguous */
    void *(*data)(const void *tensor);                                          /* ggml_get_data */
    void (*read)(const void *tensor, void *to, size_t offset, size_t size);     /* ggml_backend_tensor_get */
    void (*write)(void *tensor, const void *from, size_t offset, size_t size);  /* ggml_backend_tensor_set */
    bool (*buffer_is_host)(const void *buffer);                                 /* ggml_backend_buffer_is_host */
    size_t buffer_offset; /* where in a tensor its buffer pointer lies; SIZE_MAX: unknown, always use read and write */
} es_backend;

/* error = rest + level * span - (probe . x - offset);  control = effort * phi(error);  x += control * gain
 *
 * With an axis, x is turned instead by effort * (rest + level * span) radians in the plane of the unit vectors gain = probe
 * and axis, towards +gain or, if that is negative, -gain, no further than there; control is how far x moved along gain.
 * A pid site writes proportional * c + integral * (sum of c) + derivative * (c - the last c), with c = control * gain, over
 * its controller's pid sites up to this one; these must be given in the order of their blocks. */
typedef struct {
    int controller;
    int read_boundary; /* write_block + 1 (the block's output before control), write_block (its input), any for a sensor */
    int write_block;   /* -1 for a sensor */
    float offset;
    float rest;
    float span;
    const float *probe; /* [width], or NULL: the measurement is 0 */
    const float *gain;  /* [width], or NULL: a sensor, never writes */
    const float *axis;  /* [width], or NULL */
    bool is_pid;
    float proportional;
    float integral;
    float derivative;
} es_site;

/* Each action does all that the ones before it do. */
enum { ES_OFF, ES_SENSE /* sensors measure */, ES_MEASURE /* all sites measure */, ES_STEER /* and those with a gain write */ };
enum { ES_HOLD, ES_FLOOR, ES_CEILING };

typedef struct {
    float level;
    float effort;
    uint8_t action;
    uint8_t mode;
} es_command;

typedef struct {
    const es_backend *backend;
    const es_site *sites;
    const char *block_output;            /* block b's output is the node "<block_output>-<b>" */
    const char *const *embedding_names;  /* names that boundary 0 may have, ended by NULL; the last one seen counts */
    float *before;                       /* [max_rows][n_sites] alpha before control */
    float *after;                        /* [max_rows][n_sites] alpha after all control at the boundary that is read */
    float *control;                      /* [max_rows][n_sites] signed; 0 where a site only measured */
    int width;
    int n_blocks;
    int n_sites;
    int n_controllers;
    int max_rows;
    bool force_copy; /* treat every buffer as not on the host */
    bool timed;      /* see es_time_ns */
} es_config;

enum { ES_OK, ES_LAYOUT, ES_TYPE, ES_WIDTH, ES_ROWS, ES_NOT_A_NUMBER, ES_CAPTURE };

typedef struct {
    int code;
    int boundary;
    int64_t expected;
    int64_t found;
    char node[64];
} es_error;

/* A node that was computed, by es_now. llama.cpp computes nodes in stretches that end where the callback asked for it: this
 * is the last node of one. */
typedef struct {
    int64_t asked;    /* before the stretch was computed */
    int64_t computed; /* after it, before the hook's work */
    int64_t done;     /* after the hook's work */
    char node[64];
} es_event;

typedef struct es_hook es_hook;

/* NULL when memory is short. */
ES_API es_hook *es_create(const es_config *config);
ES_API void es_destroy(es_hook *hook);

/* Say what the next llama_decode does; its rows must arrive as one ubatch, in batch order. Fills the telemetry of these
 * rows with NaN, and forgets the last error and the visits. commands is [n_rows][n_controllers], is_output [n_rows].
 * False, and nothing is changed, when n_rows is not in 0 .. max_rows. */
ES_API bool es_plan(es_hook *hook, int n_rows, const uint8_t *is_output, const es_command *commands);

/* llama_context_params.cb_eval; hook is its cb_eval_user_data. */
ES_API bool es_eval(void *tensor, bool ask, void *hook);
/* The same for the hook that a variable holds now: current is an es_hook **, and while it holds NULL nothing is asked for.
 * llama.cpp takes its callback when a context is made; this lets the hook be exchanged between two decodes. */
ES_API bool es_eval_current(void *tensor, bool ask, void *current);

/* The first error since the plan; code is ES_OK when there was none. */
ES_API const es_error *es_last_error(const es_hook *hook);
/* How often a boundary was visited since the plan. */
ES_API int es_visited(const es_hook *hook, int boundary);
/* The first boundary that the plan needs and that was not visited, or -1. */
ES_API int es_missing(const es_hook *hook);

/* Until called with NULL: ask for nothing, and write the name of every node into buffer, each followed by a newline, as
 * far as they fit. The caller clears the buffer. */
ES_API void es_survey(es_hook *hook, char *buffer, size_t capacity);

/* Until called with NULL: copy all rows of one boundary, after control, to destination [capacity_rows][width]. */
ES_API void es_capture(es_hook *hook, int boundary, float *destination, int capacity_rows);
/* How many rows the last visit of a boundary copied since the plan. */
ES_API int es_captured(const es_hook *hook, int boundary);

/* Nanoseconds of a monotonic clock. */
ES_API int64_t es_now(void);
/* Nanoseconds that the hook worked on rows since the plan, if es_config.timed; time in which llama.cpp asks about nodes, some
 * nanoseconds a node, is not in it. */
ES_API int64_t es_time_ns(const es_hook *hook);

/* Until called with a NULL ring: ask also for the nodes "<label>" and "<label>-<block>" of these labels (NULL ends them; no
 * labels: for every node), and note an event for each of them; event i goes to ring[i % size]. Ring and labels stay the
 * caller's. Each node that is asked for costs llama.cpp a synchronization. */
ES_API void es_trace(es_hook *hook, es_event *ring, size_t size, const char *const *labels);
/* How many events there were since es_trace. */
ES_API int64_t es_traced(const es_hook *hook);

/* Sizes of the structs that callers mirror. */
ES_API size_t es_sizeof_backend(void);
ES_API size_t es_sizeof_site(void);
ES_API size_t es_sizeof_command(void);
ES_API size_t es_sizeof_config(void);
ES_API size_t es_sizeof_error(void);
ES_API size_t es_sizeof_event(void);

#endif
