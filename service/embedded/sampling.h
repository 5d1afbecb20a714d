/* Choosing the next token of each row, as sampling.py does where nothing restricts the choice. */

#pragma once

#include "crew.h"
#include "vectors.h"

#define STRETCH 256 /* entries of a distribution that are first looked at by their sum */

/* Rows to choose for, as a work: each is a piece. */
typedef struct {
    Work work;
    const float *logits, *temperatures;
    const double *uniforms;
    int64_t rows, vocab;
    float *scratch;
    int64_t *tokens;
    float *log_probs;
    _Atomic int64_t *broken; /* rows with a number that is not finite */
} Choices;

/* Floats of scratch memory that a member needs. */
static int64_t row_scratch(int64_t vocab) { return whole_vectors(vocab + (vocab + STRETCH - 1) / STRETCH); }

/* Floats of scratch memory that `sample` needs. */
int64_t sampling_scratch(int64_t vocab, const Crew *crew) { return members_of(crew) * row_scratch(vocab); }

/* Whether n numbers all are finite. */
static int64_t all_finite(const float *numbers, int64_t n) {
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

static int64_t rows_to_choose_for(const Work *work, int64_t phase) { return ((const Choices *)work)->rows; }

static void choose_for(const Work *work, int64_t phase, int64_t r, int64_t member) {
    const Choices *c = (const Choices *)work;
    const float *logits = c->logits + r * c->vocab, factor = c->temperatures[r] ? 1 / c->temperatures[r] : 0;
    float *weights = c->scratch + member * row_scratch(c->vocab);
    if (!all_finite(logits, c->vocab)) atomic_fetch_add(c->broken, 1);
    double all = factor ? weigh(logits, factor, c->vocab, weights) : 0;
    c->tokens[r] = factor ? fallen_on(c->uniforms[r] * all, weights, c->vocab) : likeliest(logits, c->vocab);
    if (!c->log_probs) return;
    if (factor != 1) all = weigh(logits, 1, c->vocab, weights);
    c->log_probs[r] = logits[c->tokens[r]] - highest(logits, c->vocab) - (float)log(all);
}

/* tokens[r] of logits `(rows, vocab)`: where uniforms[r], in [0, 1), falls in softmax(logits / temperatures[r]), or the
 * likeliest at temperature 0. log_probs[r], unless that is NULL: the token's in softmax(logits), whatever the temperature.
 * Returns how many rows have a logit that is not finite; their tokens mean nothing. */
int64_t sample(const float *logits, const float *temperatures, const double *uniforms, int64_t rows, int64_t vocab,
               float *scratch, int64_t *tokens, float *log_probs, Crew *crew) {
    _Atomic int64_t broken = 0;
    const Choices choices = {{1, rows_to_choose_for, choose_for}, logits, temperatures, uniforms, rows, vocab, scratch,
                             tokens, log_probs, &broken};
    do_work(crew, &choices.work);
    return broken;
}
