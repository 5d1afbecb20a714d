/* The forward pass of the Llama family, and its matrix product, in float32 on one core.
 *
 * A small model's step is a few hundred operations of a few microseconds each: a framework spends more time between them
 * than in them, and its matrix products are made for many rows, not for one to sixty-four. Here a step is one call.
 *
 * Matrices are stored in panels: the columns cut into blocks of PANEL, each block `(in, PANEL)` in one piece, the last one
 * filled up with zeros. A row's numbers are added up in the same order whatever rows are beside it, so that a reply does
 * not depend on the batch that it happened to be in.
 *
 * What is computed, and how norms, rotation and heads are arranged in the weights: see llama.py and llama_weights.py.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#define VECTORS 4 /* of one row in a tile: registers allow for ROWS * VECTORS sums and VECTORS weights */
#elif defined(__AVX__)
#define LANES 8
#define VECTORS 2
#else
#define LANES 4
#define VECTORS 4
#endif
#define ROWS 6
#define PANEL (LANES * VECTORS)

typedef float vector __attribute__((vector_size(4 * LANES)));
typedef int32_t integers __attribute__((vector_size(4 * LANES)));

static inline vector load(const float *from) {
    vector v;
    memcpy(&v, from, sizeof v);
    return v;
}

static inline void store(float *to, vector v) { memcpy(to, &v, sizeof v); }

static inline float total(vector v) {
#ifndef __clang__ /* which has no shuffle by a computed pattern */
    integers lanes;
    for (int lane = 0; lane < LANES; lane++) lanes[lane] = lane;
    for (int apart = LANES / 2; apart; apart /= 2) v += __builtin_shuffle(v, lanes ^ apart);
    return v[0];
#endif
    float sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += v[lane];
    return sum;
}

static inline vector choose(integers where, vector yes, vector no) {
    return (vector)(((integers)yes & where) | ((integers)no & ~where));
}

static float dot(const float *a, const float *b, int64_t n) {
    vector sums = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) sums += load(a + i) * load(b + i);
    float sum = total(sums);
    for (; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* e^x, to about two units in the last place: 2^n times a polynomial of what is left (Cephes' coefficients). */
static inline vector exponential(vector x) {
    const vector zero = {0};
    x = choose(x < -87.0f, zero - 87.0f, x);
    x = choose(x > 88.0f, zero + 88.0f, x);
    vector scaled = x * 1.44269504f;
    integers n = __builtin_convertvector(scaled + choose(scaled < 0.0f, zero - 0.5f, zero + 0.5f), integers);
    vector whole = __builtin_convertvector(n, vector);
    x -= whole * 0.693359375f;
    x -= whole * -2.12194440e-4f;
    vector p = x * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * x + 8.3334519073e-3f;
    p = p * x + 4.1665795894e-2f;
    p = p * x + 1.6666665459e-1f;
    p = p * x + 5.0000001201e-1f;
    p = p * x * x + x + 1.0f;
    integers power = (n + 127) << 23;
    vector factor;
    memcpy(&factor, &power, sizeof factor);
    return p * factor;
}

/* Replace each of n numbers by e^(number - shift) and return their sum. */
static float exponentials(float *numbers, int64_t n, float shift) {
    vector sums = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vector e = exponential(load(numbers + i) - shift);
        store(numbers + i, e);
        sums += e;
    }
    float sum = total(sums);
    for (; i < n; i++) sum += numbers[i] = expf(numbers[i] - shift);
    return sum;
}

/* y[r] (+)= x[r] @ columns for `rows` rows: `in` rows of PANEL numbers, `pitch` apart, of which `width` count. Always
 * inlined, so that `rows` is a constant and all sums stay in registers. */
static inline __attribute__((always_inline)) void tile(
    const int rows, const float *columns, int64_t pitch, const float *x, int64_t in, float *y, int64_t stride,
    int64_t width, int add) {
    vector sums[ROWS][VECTORS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < VECTORS; v++) sums[r][v] = (vector){0};
    for (int64_t k = 0; k < in; k++, columns += pitch) {
        vector weights[VECTORS];
        for (int v = 0; v < VECTORS; v++) weights[v] = load(columns + v * LANES);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < VECTORS; v++) sums[r][v] += weights[v] * x[r * in + k];
    }
    for (int r = 0; r < rows; r++) {
        float out[PANEL];
        for (int v = 0; v < VECTORS; v++) store(out + v * LANES, sums[r][v]);
        float *to = y + r * stride;
        if (add)
            for (int64_t c = 0; c < width; c++) to[c] += out[c];
        else
            memcpy(to, out, width * sizeof *to);
    }
}

/* The same for any number of rows, in tiles of nearly equal height. */
static void strip(int64_t rows, const float *columns, int64_t pitch, const float *x, int64_t in, float *y, int64_t stride,
                  int64_t width, int add) {
    for (int64_t left = (rows + ROWS - 1) / ROWS; left; left--) {
        int64_t some = (rows + left - 1) / left;
        switch (some) {
            case 1: tile(1, columns, pitch, x, in, y, stride, width, add); break;
            case 2: tile(2, columns, pitch, x, in, y, stride, width, add); break;
            case 3: tile(3, columns, pitch, x, in, y, stride, width, add); break;
            case 4: tile(4, columns, pitch, x, in, y, stride, width, add); break;
            case 5: tile(5, columns, pitch, x, in, y, stride, width, add); break;
            default: tile(6, columns, pitch, x, in, y, stride, width, add);
        }
        rows -= some;
        x += some * in;
        y += some * stride;
    }
}

/* y (+)= x @ matrix: x `(rows, in)`, matrix in panels, y `(rows, out)`. */
void multiply(const float *x, const float *matrix, float *y, int64_t rows, int64_t in, int64_t out, int add) {
    for (int64_t column = 0; column < out; column += PANEL, matrix += in * PANEL)
        strip(rows, matrix, PANEL, x, in, y + column, out, out - column < PANEL ? out - column : PANEL, add);
}

int64_t panel_width(void) { return PANEL; }

/* ---- the forward pass ---- */

enum { QKV, OUT, GATE_UP, DOWN, MATRICES };

typedef struct {
    int64_t layers, hidden, inner, query_heads, kv_heads, head_dim, vocab;
    float norm_square;           /* hidden * eps: what is added to a vector's squared length */
    float head_eps;              /* of query and key norms */
    const float *embedding;      /* (vocab, hidden) */
    const float *rotation;       /* (positions, head_dim / 2, 2): cosine, sine */
    const float *head;           /* panels of (hidden, vocab) */
    const float *const *biases;  /* [layer * MATRICES + matrix], NULL: none */
    const float *const *query_norms, *const *key_norms; /* [layer], (head_dim,), NULL: none */
} Model;

static void norms(const float *x, float *y, int64_t rows, const Model *m) {
    for (; rows; rows--, x += m->hidden, y += m->hidden) {
        float factor = 1 / sqrtf(dot(x, x, m->hidden) + m->norm_square);
        for (int64_t i = 0; i < m->hidden; i++) y[i] = x[i] * factor;
    }
}

static void add_bias(float *y, const float *bias, int64_t rows, int64_t n) {
    if (bias)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < n; i++) y[r * n + i] += bias[i];
}

static void head_norm(float *x, const float *weight, int64_t heads, int64_t dim, float eps) {
    if (weight)
        for (int64_t h = 0; h < heads; h++, x += dim) {
            float factor = 1 / sqrtf(dot(x, x, dim) / dim + eps);
            for (int64_t i = 0; i < dim; i++) x[i] *= factor * weight[i];
        }
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
 * out = softmax(query @ keys / sqrt(dim)) @ values. */
static void attend(const float *query, const float *keys, const float *values, float *out, float *scores, int64_t group,
                   int64_t seen, int64_t dim) {
    const float scale = 1 / sqrtf(dim);
    for (int64_t t = 0; t < seen; t++)
        for (int64_t g = 0; g < group; g++) scores[g * seen + t] = dot(query + g * dim, keys + t * dim, dim) * scale;
    for (int64_t g = 0; g < group; g++) {
        float *own = scores + g * seen, highest = own[0];
        for (int64_t t = 1; t < seen; t++) highest = own[t] > highest ? own[t] : highest;
        float share = 1 / exponentials(own, seen, highest);
        for (int64_t t = 0; t < seen; t++) own[t] *= share;
    }
    int64_t column = 0;
    for (; column + PANEL <= dim; column += PANEL)
        strip(group, values + column, dim, scores, seen, out + column, dim, PANEL, 0);
    for (; column < dim; column++)
        for (int64_t g = 0; g < group; g++) {
            float sum = 0;
            for (int64_t t = 0; t < seen; t++) sum += scores[g * seen + t] * values[t * dim + column];
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

/* Floats of scratch memory that `forward` needs for so many tokens. */
int64_t scratch_size(const Model *m, int64_t count, int64_t capacity) {
    int64_t heads = m->query_heads + 2 * m->kv_heads;
    return count * (2 * m->hidden + (heads + m->query_heads) * m->head_dim + 3 * m->inner) +
           m->query_heads / m->kv_heads * capacity;
}

/* Compute `count` tokens: number i stands at positions[i] of cache row rows[i]. All run with the same `matrices`
 * ([layer * MATRICES + matrix], in panels). Of one row there may be several, in order, each of which sees those before it.
 * Keys and values go to `planes` ([layer], (rows, 2 * kv_heads, capacity, head_dim): keys, then values), the logits
 * (count - first, vocab) of the tokens from `first` on to `logits`. */
void forward(const Model *m, float *const *planes, int64_t capacity, const float *const *matrices, const int64_t *rows,
             const int64_t *tokens, const int64_t *positions, int64_t count, int64_t first, float *scratch,
             float *logits) {
    const int64_t dim = m->head_dim, group = m->query_heads / m->kv_heads;
    const int64_t queries = m->query_heads * dim, keys = m->kv_heads * dim, qkv_size = queries + 2 * keys;
    float *hidden = scratch, *normed = hidden + count * m->hidden, *qkv = normed + count * m->hidden;
    float *attended = qkv + count * qkv_size, *gate_up = attended + count * queries;
    float *gated = gate_up + count * 2 * m->inner, *scores = gated + count * m->inner;
    for (int64_t i = 0; i < count; i++)
        memcpy(hidden + i * m->hidden, m->embedding + tokens[i] * m->hidden, m->hidden * sizeof *hidden);
    for (int64_t layer = 0; layer < m->layers; layer++) {
        const float *const *matrix = matrices + layer * MATRICES, *const *bias = m->biases + layer * MATRICES;
        norms(hidden, normed, count, m);
        multiply(normed, matrix[QKV], qkv, count, m->hidden, qkv_size, 0);
        add_bias(qkv, bias[QKV], count, qkv_size);
        for (int64_t i = 0; i < count; i++) {
            float *query = qkv + i * qkv_size, *key = query + queries;
            head_norm(query, m->query_norms[layer], m->query_heads, dim, m->head_eps);
            head_norm(key, m->key_norms[layer], m->kv_heads, dim, m->head_eps);
            rotate(query, m->rotation + positions[i] * dim, m->query_heads + m->kv_heads, dim);
            float *plane = planes[layer] + rows[i] * 2 * keys * capacity;
            for (int64_t h = 0; h < 2 * m->kv_heads; h++)
                memcpy(plane + (h * capacity + positions[i]) * dim, key + h * dim, dim * sizeof *plane);
            for (int64_t h = 0; h < m->kv_heads; h++)
                attend(query + h * group * dim, plane + h * capacity * dim, plane + (m->kv_heads + h) * capacity * dim,
                       attended + i * queries + h * group * dim, scores, group, positions[i] + 1, dim);
        }
        multiply(attended, matrix[OUT], hidden, count, queries, m->hidden, 1);
        add_bias(hidden, bias[OUT], count, m->hidden);
        norms(hidden, normed, count, m);
        multiply(normed, matrix[GATE_UP], gate_up, count, m->hidden, 2 * m->inner, 0);
        add_bias(gate_up, bias[GATE_UP], count, 2 * m->inner);
        for (int64_t i = 0; i < count; i++) gate(gate_up + i * 2 * m->inner, gated + i * m->inner, m->inner);
        multiply(gated, matrix[DOWN], hidden, count, m->inner, m->hidden, 1);
        add_bias(hidden, bias[DOWN], count, m->hidden);
    }
    norms(hidden + first * m->hidden, normed, count - first, m);
    multiply(normed, m->head, logits, count - first, m->hidden, m->vocab, 0);
}
