/* Choosing the next token of each row, as sampling.py does where nothing restricts the choice. */

#include "vectors.h"

#define STRETCH 256 /* entries of a distribution that are first looked at by their sum */

/* Floats of scratch memory that `sample` needs. */
int64_t sampling_scratch(int64_t vocab) { return vocab + (vocab + STRETCH - 1) / STRETCH; }

/* Whether n numbers all are finite. */
int64_t all_finite(const float *numbers, int64_t n) {
    integers odd = {0};
    int64_t i = 0, left = 0;
    for (; i + LANES <= n; i += LANES) {
        const vector v = load(numbers + i);
        odd |= v - v != 0.0f;
    }
    for (; i < n; i++) left += numbers[i] - numbers[i] != 0;
    for (int lane = 0; lane < LANES; lane++) left += odd[lane] != 0;
    return !left;
}

static int64_t likeliest(const float *logits, int64_t vocab) {
    const float most = highest(logits, vocab);
    int64_t token = 0;
    while (token < vocab - 1 && logits[token] != most) token++;
    return token;
}

/* weights = e^(factor * (logits - the highest)); after them the sums of their stretches. Returns the sum of all. */
static double weigh(const float *logits, float factor, int64_t vocab, float *weights) {
    const float most = highest(logits, vocab);
    float *sums = weights + vocab;
    double all = 0;
    for (int64_t i = 0; i < vocab; i++) weights[i] = (logits[i] - most) * factor;
    for (int64_t i = 0, s = 0; i < vocab; i += STRETCH, s++)
        all += sums[s] = exponentials(weights + i, vocab - i < STRETCH ? vocab - i : STRETCH, 0);
    return all;
}

/* The entry that `left`, from 0 to below the sum of all weights, falls on; never one of weight 0. */
static int64_t fallen_on(double left, const float *weights, int64_t vocab) {
    const float *sums = weights + vocab;
    int64_t stretch = 0, token = 0;
    for (; (stretch + 1) * STRETCH < vocab && left >= sums[stretch]; stretch++) left -= sums[stretch];
    for (int64_t i = stretch * STRETCH; i < vocab && i < (stretch + 1) * STRETCH; i++)
        if (weights[i] > 0) {
            token = i;
            if ((left -= weights[i]) < 0) break;
        }
    return token;
}

/* tokens[r] of logits `(rows, vocab)`: where uniforms[r], in [0, 1), falls in softmax(logits / temperatures[r]), or the
 * likeliest at temperature 0. log_probs[r], unless that is NULL: the token's in softmax(logits), whatever the temperature. */
void sample(const float *logits, const float *temperatures, const double *uniforms, int64_t rows, int64_t vocab,
            float *scratch, int64_t *tokens, float *log_probs) {
    for (int64_t r = 0; r < rows; r++, logits += vocab) {
        const float factor = temperatures[r] ? 1 / temperatures[r] : 0;
        double all = factor ? weigh(logits, factor, vocab, scratch) : 0;
        tokens[r] = factor ? fallen_on(uniforms[r] * all, scratch, vocab) : likeliest(logits, vocab);
        if (!log_probs) continue;
        if (factor != 1) all = weigh(logits, 1, vocab, scratch);
        log_probs[r] = logits[tokens[r]] - highest(logits, vocab) - (float)log(all);
    }
}
