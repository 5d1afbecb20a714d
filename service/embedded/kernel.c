/* The forward pass of the Llama family, computed in float32 on one core.
 *
 * A small model's step is a few hundred operations of a few microseconds each: a framework spends more time between them
 * than in them, and its matrix products are made for many rows, not for one to sixty-four. Here a step is one call.
 *
 * What is computed, and how norms, rotation and heads are arranged in the weights: see llama.py and llama_weights.py.
 */

#include "products.h"
#include "sampling.h"

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

/* y[r] = x[r] / root mean square of x[r] * weight, for rows of n numbers. */
static void norms(const float *x, float *y, const float *weight, int64_t rows, int64_t n, float eps) {
    for (; rows; rows--, x += n, y += n) {
        float factor = 1 / sqrtf(dot(x, x, n) / n + eps);
        for (int64_t i = 0; i < n; i++) y[i] = x[i] * factor * weight[i];
    }
}

static void add_bias(float *y, const float *bias, int64_t rows, int64_t n) {
    if (bias)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < n; i++) y[r * n + i] += bias[i];
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

/* Floats of scratch memory that any one product needs. */
static int64_t products_scratch(const Model *m, const Adapter *adapter) {
    int64_t in = m->query_heads * m->head_dim;
    if (m->hidden > in) in = m->hidden;
    if (m->inner > in) in = m->inner;
    if (adapter && adapter->rank > in) in = adapter->rank;
    return product_scratch(in);
}

/* Floats of scratch memory that `forward` needs for so many tokens. */
int64_t scratch_size(const Model *m, const Adapter *adapter, int64_t count, int64_t capacity) {
    int64_t heads = m->query_heads + 2 * m->kv_heads, rank = adapter ? adapter->rank : 0;
    return products_scratch(m, adapter) +
           count * (2 * m->hidden + (heads + m->query_heads) * m->head_dim + 3 * m->inner + rank) +
           m->query_heads / m->kv_heads * whole_vectors(capacity);
}

/* y (+)= x through matrix number `i`: the base's own, its bias, and what the adapter adds. */
static void project(const Model *m, const Adapter *adapter, int64_t i, const float *x, float *y, int64_t rows, int64_t in,
                    int add, float *between, float *scratch) {
    const int64_t out = m->matrices[i]->out;
    multiply(x, m->matrices[i], y, out, rows, in, add, scratch);
    add_bias(y, m->biases[i], rows, out);
    for (int64_t part = i * PARTS; adapter && part < (i + 1) * PARTS; part++)
        if (adapter->downs[part]) {
            const int64_t rank = adapter->downs[part]->out;
            multiply(x, adapter->downs[part], between, rank, rows, in, 0, scratch);
            multiply(between, adapter->ups[part], y + adapter->columns[part], out, rows, rank, 1, scratch);
        }
}

/* Compute `count` tokens with one adapter, NULL: none. Number i stands at positions[i] of cache row rows[i]. Of one row
 * there may be several, in order, each of which sees those before it. Keys and values go to `planes` ([layer],
 * (rows, 2 * kv_heads, capacity, head_dim): keys, then values), the logits (count - first, vocab) of the tokens from `first`
 * on to `logits`. */
void forward(const Model *m, const Adapter *adapter, float *const *planes, int64_t capacity, const int64_t *rows,
             const int64_t *tokens, const int64_t *positions, int64_t count, int64_t first, float *scratch,
             float *logits) {
    const int64_t dim = m->head_dim, group = m->query_heads / m->kv_heads;
    const int64_t queries = m->query_heads * dim, keys = m->kv_heads * dim, qkv_size = queries + 2 * keys;
    float *hidden = scratch + products_scratch(m, adapter), *normed = hidden + count * m->hidden;
    float *qkv = normed + count * m->hidden, *attended = qkv + count * qkv_size, *gate_up = attended + count * queries;
    float *gated = gate_up + count * 2 * m->inner, *scores = gated + count * m->inner;
    float *between = scores + group * whole_vectors(capacity);
    for (int64_t i = 0; i < count; i++)
        memcpy(hidden + i * m->hidden, m->embedding + tokens[i] * m->hidden, m->hidden * sizeof *hidden);
    for (int64_t layer = 0; layer < m->layers; layer++) {
        const int64_t here = layer * MATRICES;
        norms(hidden, normed, m->norms[here + QKV], count, m->hidden, m->norm_eps);
        project(m, adapter, here + QKV, normed, qkv, count, m->hidden, 0, between, scratch);
        for (int64_t i = 0; i < count; i++) {
            float *query = qkv + i * qkv_size, *key = query + queries;
            if (m->query_norms[layer]) {
                norms(query, query, m->query_norms[layer], m->query_heads, dim, m->norm_eps);
                norms(key, key, m->key_norms[layer], m->kv_heads, dim, m->norm_eps);
            }
            rotate(query, m->rotation + positions[i] * dim, m->query_heads + m->kv_heads, dim);
            float *plane = planes[layer] + rows[i] * 2 * keys * capacity;
            for (int64_t h = 0; h < 2 * m->kv_heads; h++)
                memcpy(plane + (h * capacity + positions[i]) * dim, key + h * dim, dim * sizeof *plane);
            for (int64_t h = 0; h < m->kv_heads; h++) {
                const float *own_keys = plane + h * capacity * dim, *own_values = own_keys + m->kv_heads * capacity * dim;
                const float *next = h + 1 < m->kv_heads ? own_keys + capacity * dim
                                    : i + 1 < count     ? planes[layer] + rows[i + 1] * 2 * keys * capacity
                                                        : own_keys;
                attend(query + h * group * dim, own_keys, own_values, attended + i * queries + h * group * dim, scores,
                       group, positions[i] + 1, dim, next);
            }
        }
        project(m, adapter, here + OUT, attended, hidden, count, queries, 1, between, scratch);
        norms(hidden, normed, m->norms[here + GATE_UP], count, m->hidden, m->norm_eps);
        project(m, adapter, here + GATE_UP, normed, gate_up, count, m->hidden, 0, between, scratch);
        for (int64_t i = 0; i < count; i++) gate(gate_up + i * 2 * m->inner, gated + i * m->inner, m->inner);
        project(m, adapter, here + DOWN, gated, hidden, count, m->inner, 1, between, scratch);
    }
    norms(hidden + first * m->hidden, normed, m->final_norm, count - first, m->hidden, m->norm_eps);
    multiply(normed, m->head, logits, m->head->out, count - first, m->hidden, 0, scratch);
}
