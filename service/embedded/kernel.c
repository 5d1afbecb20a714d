/* The forward pass of the Llama family, and its matrix product, computed in float32 on one core.
 *
 * A small model's step is a few hundred operations of a few microseconds each: a framework spends more time between them
 * than in them, and its matrix products are made for many rows, not for one to sixty-four. Here a step is one call.
 *
 * Matrices are stored in panels: the columns cut into blocks of a few vectors, each block `(in, width)` in one piece, the
 * last one filled up with zeros. Few rows wait for memory, not for arithmetic: a matrix whose numbers all are bfloat16, as
 * those of most checkpoints are, is kept in half the space, which changes no result. A row's numbers are added up in the
 * same order whatever rows are beside it, so that a reply does not depend on the batch that it happened to be in.
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
#define LINE 16 /* words in a line of the processor's cache */
/* The logarithm of a share of attention that changes no sum of at least one. Much less, and its products are subnormal
 * numbers, each of which takes the processor some hundred cycles. */
#define NEGLIGIBLE -60.0f
#define PANEL (LANES * VECTORS)

typedef float vector __attribute__((vector_size(4 * LANES)));
typedef int32_t integers __attribute__((vector_size(4 * LANES)));

static inline vector load(const float *from) {
    vector v;
    memcpy(&v, from, sizeof v);
    return v;
}

static inline void store(float *to, vector v) { memcpy(to, &v, sizeof v); }

static inline vector choose(integers where, vector yes, vector no) {
    return (vector)(((integers)yes & where) | ((integers)no & ~where));
}

/* In each lane the sum of one of LANES vectors' lanes: halves are folded onto each other, of two vectors at a time. */
static inline vector totals(vector v[LANES]) {
#ifdef __clang__ /* which has no shuffle by a computed pattern */
    vector sums;
    for (int i = 0; i < LANES; i++) {
        sums[i] = 0;
        for (int lane = 0; lane < LANES; lane++) sums[i] += v[i][lane];
    }
    return sums;
#else
    integers lanes;
    for (int lane = 0; lane < LANES; lane++) lanes[lane] = lane;
#pragma GCC unroll 4
    for (int apart = LANES / 2; apart; apart /= 2) {
        const integers of_other = (lanes & apart) != 0;
        const integers low = (lanes & ~apart) + (of_other & LANES), high = (lanes | apart) + (of_other & LANES);
#pragma GCC unroll 8
        for (int i = 0; i < apart; i++)
            v[i] = __builtin_shuffle(v[i], v[i + apart], low) + __builtin_shuffle(v[i], v[i + apart], high);
    }
    return v[0];
#endif
}

static inline float total(vector v) {
    vector alone[LANES] = {v};
    return totals(alone)[0];
}

static float dot(const float *a, const float *b, int64_t n) {
    vector sums = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) sums += load(a + i) * load(b + i);
    float sum = total(sums);
    for (; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* The dot products of one `x` with `count` rows of `n` numbers. Meanwhile it asks for as many rows `ahead`. */
static void dots(const float *x, const float *rows, const float *ahead, float *products, int64_t count, int64_t n) {
    int64_t r = 0;
    for (; r + LANES <= count && n % LANES == 0; r += LANES, rows += LANES * n, ahead += LANES * n) {
        vector sums[LANES];
        for (int i = 0; i < LANES; i++) sums[i] = (vector){0};
        for (int64_t k = 0; k < n; k += LANES) {
            const vector some = load(x + k);
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++) {
                sums[i] += some * load(rows + i * n + k);
                __builtin_prefetch(ahead + i * n + k);
            }
        }
        store(products + r, totals(sums));
    }
    for (; r < count; r++, rows += n) products[r] = dot(x, rows, n);
}

/* The highest of n numbers. */
static float highest(const float *numbers, int64_t n) {
    float most = numbers[0];
    int64_t i = 0;
    if (n >= LANES) {
        vector best = load(numbers);
        for (i = LANES; i + LANES <= n; i += LANES) {
            vector v = load(numbers + i);
            best = choose(v > best, v, best);
        }
        for (int lane = 0; lane < LANES; lane++) most = best[lane] > most ? best[lane] : most;
    }
    for (; i < n; i++) most = numbers[i] > most ? numbers[i] : most;
    return most;
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

/* Replace each of n numbers by e^(number - shift), or 0 where that is negligible, and return their sum. */
static float exponentials(float *numbers, int64_t n, float shift) {
    vector sums = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vector x = load(numbers + i) - shift;
        vector e = choose(x < NEGLIGIBLE, (vector){0}, exponential(x));
        store(numbers + i, e);
        sums += e;
    }
    float sum = total(sums);
    for (; i < n; i++) sum += numbers[i] = numbers[i] - shift < NEGLIGIBLE ? 0 : expf(numbers[i] - shift);
    return sum;
}

/* A matrix `(in, out)` in panels. */
typedef struct {
    const void *panels;
    int64_t out;
    int64_t vectors; /* in a panel's row: VECTORS, or 1 for a narrow matrix */
    int64_t halves;  /* its numbers are bfloat16, those of two neighbouring vectors in one vector's words */
} Matrix;

/* y[r] (+)= x[r] @ columns for `rows` rows: `in` rows of `vectors` vectors, `pitch` words apart, of which `width` numbers
 * count. Always inlined, so that the first three are constants and all sums stay in registers. Meanwhile it asks for what
 * lies `ahead`, `in` pieces that are `step` words apart. */
static inline __attribute__((always_inline)) void tile(
    const int rows, const int vectors, const int halves, const float *columns, int64_t pitch,
    const float *ahead, int64_t step, const float *x, int64_t in, float *y, int64_t stride, int64_t width, int add) {
    vector sums[ROWS][VECTORS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) sums[r][v] = (vector){0};
    for (int64_t k = 0; k < in; k++, columns += pitch, ahead += step) {
        vector weights[VECTORS];
        __builtin_prefetch(ahead, 0, 2);
        __builtin_prefetch(ahead + LINE, 0, 2);
        for (int v = 0; v < vectors; v++) {
            integers words = (integers)load(columns + (halves ? v / 2 : v) * LANES);
            weights[v] = (vector)(!halves ? words : v % 2 ? words & (int32_t)0xffff0000 : words << 16);
        }
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < vectors; v++) sums[r][v] += weights[v] * x[r * in + k];
    }
    for (int r = 0; r < rows; r++) {
        float out[PANEL];
        for (int v = 0; v < vectors; v++) store(out + v * LANES, sums[r][v]);
        float *to = y + r * stride;
        if (add)
            for (int64_t c = 0; c < width; c++) to[c] += out[c];
        else
            memcpy(to, out, width * sizeof *to);
    }
}

/* The same for any number of rows, in tiles of nearly equal height; each asks for a part of the next strip. */
static inline __attribute__((always_inline)) void strip(
    int64_t rows, const int vectors, const int halves, const float *columns, int64_t pitch, const float *x,
    int64_t in, float *y, int64_t stride, int64_t width, int add) {
    const int64_t tiles = (rows + ROWS - 1) / ROWS, step = tiles > 1 ? pitch / tiles : 0;
    const float *ahead = tiles > 1 ? columns + in * pitch : x; /* a single tile waits for memory anyway */
    for (int64_t left = tiles; left; left--) {
        int64_t some = (rows + left - 1) / left;
        switch (some) {
            case 1: tile(1, vectors, halves, columns, pitch, ahead, step, x, in, y, stride, width, add); break;
            case 2: tile(2, vectors, halves, columns, pitch, ahead, step, x, in, y, stride, width, add); break;
            case 3: tile(3, vectors, halves, columns, pitch, ahead, step, x, in, y, stride, width, add); break;
            case 4: tile(4, vectors, halves, columns, pitch, ahead, step, x, in, y, stride, width, add); break;
            case 5: tile(5, vectors, halves, columns, pitch, ahead, step, x, in, y, stride, width, add); break;
            default: tile(6, vectors, halves, columns, pitch, ahead, step, x, in, y, stride, width, add);
        }
        rows -= some;
        x += some * in;
        y += some * stride;
        ahead += in * step;
    }
}

static inline __attribute__((always_inline)) void strips(
    const int vectors, const int halves, const Matrix *matrix, const float *x, float *y, int64_t stride, int64_t rows,
    int64_t in, int add) {
    const int width = vectors * LANES, pitch = halves ? width / 2 : width;
    const float *columns = matrix->panels;
    for (int64_t column = 0, left; (left = matrix->out - column) > 0; column += width, columns += in * pitch)
        strip(rows, vectors, halves, columns, pitch, x, in, y + column, stride, left < width ? left : width, add);
}

/* y (+)= x @ matrix: x `(rows, in)`, y `(rows, out)` with its rows `stride` numbers apart. */
void multiply(const float *x, const Matrix *matrix, float *y, int64_t stride, int64_t rows, int64_t in, int add) {
    if (matrix->halves)
        strips(VECTORS, 1, matrix, x, y, stride, rows, in, add);
    else if (matrix->vectors == VECTORS)
        strips(VECTORS, 0, matrix, x, y, stride, rows, in, add);
    else
        strips(1, 0, matrix, x, y, stride, rows, in, add);
}

int64_t lanes(void) { return LANES; }

int64_t vectors(void) { return VECTORS; }

/* ---- the forward pass ---- */

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
    for (int64_t g = 0; g < group; g++) {
        float *own = scores + g * seen;
        dots(query + g * dim, keys, g ? next : values, own, seen, dim);
        for (int64_t t = 0; t < seen; t++) own[t] *= scale;
        float share = 1 / exponentials(own, seen, highest(own, seen));
        for (int64_t t = 0; t < seen; t++) own[t] *= share;
    }
    int64_t column = 0;
    for (; column + PANEL <= dim; column += PANEL)
        strip(group, VECTORS, 0, values + column, dim, scores, seen, out + column, dim, PANEL, 0);
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
int64_t scratch_size(const Model *m, const Adapter *adapter, int64_t count, int64_t capacity) {
    int64_t heads = m->query_heads + 2 * m->kv_heads, rank = adapter ? adapter->rank : 0;
    return count * (2 * m->hidden + (heads + m->query_heads) * m->head_dim + 3 * m->inner + rank) +
           m->query_heads / m->kv_heads * capacity;
}

/* y (+)= x through matrix number `i`: the base's own, its bias, and what the adapter adds. */
static void project(const Model *m, const Adapter *adapter, int64_t i, const float *x, float *y, int64_t rows, int64_t in,
                    int add, float *between) {
    const int64_t out = m->matrices[i]->out;
    multiply(x, m->matrices[i], y, out, rows, in, add);
    add_bias(y, m->biases[i], rows, out);
    for (int64_t part = i * PARTS; adapter && part < (i + 1) * PARTS; part++)
        if (adapter->downs[part]) {
            const int64_t rank = adapter->downs[part]->out;
            multiply(x, adapter->downs[part], between, rank, rows, in, 0);
            multiply(between, adapter->ups[part], y + adapter->columns[part], out, rows, rank, 1);
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
    float *hidden = scratch, *normed = hidden + count * m->hidden, *qkv = normed + count * m->hidden;
    float *attended = qkv + count * qkv_size, *gate_up = attended + count * queries;
    float *gated = gate_up + count * 2 * m->inner, *scores = gated + count * m->inner;
    float *between = scores + group * capacity;
    for (int64_t i = 0; i < count; i++)
        memcpy(hidden + i * m->hidden, m->embedding + tokens[i] * m->hidden, m->hidden * sizeof *hidden);
    for (int64_t layer = 0; layer < m->layers; layer++) {
        const int64_t here = layer * MATRICES;
        norms(hidden, normed, m->norms[here + QKV], count, m->hidden, m->norm_eps);
        project(m, adapter, here + QKV, normed, qkv, count, m->hidden, 0, between);
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
        project(m, adapter, here + OUT, attended, hidden, count, queries, 1, between);
        norms(hidden, normed, m->norms[here + GATE_UP], count, m->hidden, m->norm_eps);
        project(m, adapter, here + GATE_UP, normed, gate_up, count, m->hidden, 0, between);
        for (int64_t i = 0; i < count; i++) gate(gate_up + i * 2 * m->inner, gated + i * m->inner, m->inner);
        project(m, adapter, here + DOWN, gated, hidden, count, m->inner, 1, between);
    }
    norms(hidden + first * m->hidden, normed, m->final_norm, count - first, m->hidden, m->norm_eps);
    multiply(normed, m->head, logits, m->head->out, count - first, m->hidden, 0);
}
