/* The model as it lies in memory, and what a layer computes beside its matrix products: norms, rotation, attention, gate. */

#pragma once

#include "products.h"

enum { QKV, OUT, GATE_UP, DOWN, MATRICES };

#define PARTS 3 /* that a matrix is fused of, at most: query, key and value */

typedef struct {
    int64_t layers, hidden, inner, query_heads, kv_heads, head_dim;
    float norm_eps;
    const float *embedding;      /* (vocab, hidden) */
    const float *rotation;       /* (positions, head_dim / 2, 2): cosine, sine */
    const Matrix *head;          /* (hidden, vocab) */
    const float *final_norm;     /* (hidden,) */
    /* By layer * MATRICES + matrix; NULL for a bias or a norm that there is none of. */
    const Matrix *const *matrices;
    const float *const *biases;
    const float *const *norms;   /* what comes before the matrix */
    const float *const *query_norms, *const *key_norms; /* by layer: (head_dim,), NULL: none */
} Model;

/* What an adapter adds: x @ down @ up to the columns from `columns` on, by (layer * MATRICES + matrix) * PARTS + part; NULL
 * where it adds nothing. */
typedef struct {
    int64_t rank; /* the most numbers that lie between a down and its up */
    const Matrix *const *downs, *const *ups;
    const int64_t *columns;
} Adapter;

/* Tokens that stand together and have one adapter, NULL: none. */
typedef struct {
    int64_t start, stop;
    const Adapter *adapter;
} Group;

/* y[r] = x[r] / root mean square of x[r] * weight, for rows of n numbers. */
static void norms(const float *x, float *y, const float *weight, int64_t rows, int64_t n, float eps) {
    for (; rows; rows--, x += n, y += n) {
        float factor = 1 / sqrtf(dot(x, x, n) / n + eps);
        for (int64_t i = 0; i < n; i++) y[i] = x[i] * factor * weight[i];
    }
}

static void add_bias(float *y, const float *bias, int64_t rows, int64_t n, Range columns) {
    if (bias)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = columns.start; i < columns.stop; i++) y[r * n + i] += bias[i];
}

static void rotate(float *x, const float *rotation, int64_t heads, int64_t dim) {
    for (int64_t h = 0; h < heads; h++, x += dim)
        for (int64_t i = 0; i < dim; i += 2) {
            float real = x[i], imaginary = x[i + 1];
            x[i] = real * rotation[i] - imaginary * rotation[i + 1];
            x[i + 1] = real * rotation[i + 1] + imaginary * rotation[i];
        }
}

/* The attention of the `group` queries that share a key head to its first `seen` tokens:
 * out = softmax(query @ keys / sqrt(dim)) @ values. Values are asked for while keys are read, and then the `next` keys. */
static void attend(const float *query, const float *keys, const float *values, float *out, float *scores, int64_t group,
                   int64_t seen, int64_t dim, const float *next) {
    const float scale = 1 / sqrtf(dim);
    const int64_t whole = whole_vectors(seen); /* the last scores of each query are those of no token */
    for (int64_t g = 0; g < group; g++) {
        float *own = scores + g * whole;
        dots(query + g * dim, keys, g ? next : values, own, seen, dim);
        for (int64_t t = seen; t < whole; t++) own[t] = -INFINITY;
        for (int64_t t = 0; t < whole; t++) own[t] *= scale;
        float share = 1 / exponentials(own, whole, highest(own, whole));
        for (int64_t t = 0; t < whole; t++) own[t] *= share;
    }
    int64_t column = 0;
    for (; column + PANEL <= dim; column += PANEL)
        strip(group, VECTORS, 0, values + column, dim, scores, whole, seen, out + column, dim, PANEL, 0);
    for (; column < dim; column++)
        for (int64_t g = 0; g < group; g++) {
            float sum = 0;
            for (int64_t t = 0; t < seen; t++) sum += scores[g * whole + t] * values[t * dim + column];
            out[g * dim + column] = sum;
        }
}

static void gate(const float *gate_up, float *y, int64_t n) {
    const float *up = gate_up + n;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vector g = load(gate_up + i);
        store(y + i, g / (exponential(-g) + 1.0f) * load(up + i));
    }
    for (; i < n; i++) y[i] = gate_up[i] / (expf(-gate_up[i]) + 1) * up[i];
}
