/* Vectors as wide as the processor's, and what is computed of rows of numbers with them. */

#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
/* The logarithm of a share of attention that changes no sum of at least one. Much less, and its products are subnormal
 * numbers, each of which takes the processor some hundred cycles. */
#define NEGLIGIBLE -60.0f

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

/* The dot products of one `x` with LANES rows of `n` numbers, LANES at a time; of the last row again where there are only
 * `left`. Meanwhile it asks for as many rows `ahead`. */
static inline __attribute__((always_inline)) vector dots_abreast(const float *x, const float *rows, const float *ahead,
                                                                 int64_t left, int64_t n) {
    vector sums[LANES];
    for (int i = 0; i < LANES; i++) sums[i] = (vector){0};
    for (int64_t k = 0; k < n; k += LANES) {
        const vector some = load(x + k);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) {
            const int64_t at = (i < left ? i : left - 1) * n + k;
            sums[i] += some * load(rows + at);
            __builtin_prefetch(ahead + at, 0, 2);
        }
    }
    return totals(sums);
}

/* How many numbers `dots` writes for so many rows. */
static inline int64_t whole_vectors(int64_t count) { return (count + LANES - 1) / LANES * LANES; }

/* The dot products of one `x` with `count` rows of `n` numbers; what fills the last vector up is of no meaning. */
static void dots(const float *x, const float *rows, const float *ahead, float *products, int64_t count, int64_t n) {
    int64_t r = 0;
    if (n % LANES == 0) {
        for (; r + LANES <= count; r += LANES)
            store(products + r, dots_abreast(x, rows + r * n, ahead + r * n, LANES, n));
        if (r < count) store(products + r, dots_abreast(x, rows + r * n, ahead + r * n, count - r, n));
    } else
        for (; r < count; r++) products[r] = dot(x, rows + r * n, n);
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
