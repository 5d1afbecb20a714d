/* The matrix product: y (+)= x @ matrix, whatever form the matrix is kept in.
 *
 * Matrices are stored in panels: the columns cut into blocks of a few vectors, each block `(in, width)` in one piece, the
 * last one filled up with zeros. Few rows wait for memory, not for arithmetic: a matrix whose numbers all are bfloat16, as
 * those of most checkpoints are, is kept in half the space, which changes no result. A row's numbers are added up in the
 * same order whatever rows are beside it, so that a reply does not depend on the batch that it happened to be in.
 */

#include "amx.h"
#include "vectors.h"

#define ROWS 6
#define VECTORS (LANES == 8 ? 2 : 4) /* of one row in a tile: registers allow for ROWS * VECTORS sums and VECTORS weights */
#define LINE 16 /* words in a line of the processor's cache */
#define PANEL (LANES * VECTORS)

/* How a matrix is kept: in float32; as HALVES, bfloat16, those of two neighbouring vectors in one vector's words; as TILES
 * for the processor's matrix unit (amx.h). */
enum { FLOATS, HALVES, TILES };

/* A matrix `(in, out)` in panels. */
typedef struct {
    const void *panels;
    int64_t out;
    int64_t vectors; /* in a panel's row: VECTORS, or 1 for a narrow matrix; not of tiles */
    int64_t form;
} Matrix;

/* Numbers from `start` to before `stop`. */
typedef struct {
    int64_t start, stop;
} Range;

/* Share number `share` of `count` things that are cut into `shares` of nearly equal size. */
static Range share_of(int64_t count, int64_t share, int64_t shares) {
    return (Range){count * share / shares, count * (share + 1) / shares};
}

/* y[r] (+)= x[r] @ columns for `rows` rows, which lie `x_stride` and `y_stride` numbers apart. The columns are `in` rows of
 * `vectors` vectors, `pitch` words apart, of which `width` numbers count. Always inlined, so that the first three are
 * constants and all sums stay in registers. Meanwhile it asks for what lies `ahead`, `in` pieces that are `step` words apart. */
static inline __attribute__((always_inline)) void tile(
    const int rows, const int vectors, const int halves, const float *columns, int64_t pitch,
    const float *ahead, int64_t step, const float *x, int64_t x_stride, int64_t in, float *y, int64_t y_stride,
    int64_t width, int add) {
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
            for (int v = 0; v < vectors; v++) sums[r][v] += weights[v] * x[r * x_stride + k];
    }
    for (int r = 0; r < rows; r++) {
        float out[PANEL];
        for (int v = 0; v < vectors; v++) store(out + v * LANES, sums[r][v]);
        float *to = y + r * y_stride;
        if (add)
            for (int64_t c = 0; c < width; c++) to[c] += out[c];
        else
            memcpy(to, out, width * sizeof *to);
    }
}

/* The same for any number of rows, in tiles of nearly equal height; each asks for a part of the next strip. */
static inline __attribute__((always_inline)) void strip(
    int64_t rows, const int vectors, const int halves, const float *columns, int64_t pitch, const float *x,
    int64_t x_stride, int64_t in, float *y, int64_t y_stride, int64_t width, int add) {
    const int64_t tiles = (rows + ROWS - 1) / ROWS, step = tiles > 1 ? pitch / tiles : 0;
    const float *ahead = tiles > 1 ? columns + in * pitch : x; /* a single tile waits for memory anyway */
    for (int64_t left = tiles; left; left--) {
        int64_t some = (rows + left - 1) / left;
        switch (some) {
#define TILE(HIGH) tile(HIGH, vectors, halves, columns, pitch, ahead, step, x, x_stride, in, y, y_stride, width, add)
            case 1: TILE(1); break;
            case 2: TILE(2); break;
            case 3: TILE(3); break;
            case 4: TILE(4); break;
            case 5: TILE(5); break;
            default: TILE(ROWS);
#undef TILE
        }
        rows -= some;
        x += some * x_stride;
        y += some * y_stride;
        ahead += in * step;
    }
}

static inline __attribute__((always_inline)) void strips(
    const int vectors, const int halves, const Matrix *matrix, const float *x, float *y, int64_t stride, int64_t rows,
    int64_t in, Range wanted, int add) {
    const int width = vectors * LANES, pitch = halves ? width / 2 : width;
    const float *columns = (const float *)matrix->panels + wanted.start / width * in * pitch;
    for (int64_t column = wanted.start, left; (left = wanted.stop - column) > 0; column += width, columns += in * pitch)
        strip(rows, vectors, halves, columns, pitch, x, in, in, y + column, stride, left < width ? left : width, add);
}

/* Whether this processor and this system take a matrix as TILES. */
int64_t takes_tiles(void) {
#ifdef AMX
    return amx_granted();
#else
    return 0;
#endif
}

/* Floats of scratch memory that `multiply` needs where the inner dimension is `in` or less. */
int64_t product_scratch(int64_t in) {
#ifdef AMX
    return pieces_size(in) / sizeof(float);
#else
    return 0;
#endif
}

/* The columns of share number `share` of `shares`: whole panels. */
static Range columns_of(const Matrix *matrix, int64_t share, int64_t shares) {
    int64_t width = matrix->vectors * LANES;
#ifdef AMX
    if (matrix->form == TILES) width = COLUMNS;
#endif
    const Range panels = share_of((matrix->out + width - 1) / width, share, shares);
    const int64_t stop = panels.stop * width;
    return (Range){panels.start * width, stop < matrix->out ? stop : matrix->out};
}

/* y (+)= x @ matrix in those columns: x `(rows, in)`, y `(rows, out)` with its rows `stride` numbers apart. */
static void multiply_columns(const float *x, const Matrix *matrix, float *y, int64_t stride, int64_t rows, int64_t in,
                             Range columns, int add, float *scratch) {
#ifdef AMX
    if (matrix->form == TILES) {
        amx_multiply(x, matrix->panels, y, stride, rows, in, columns.start, columns.stop, add, (uint16_t *)scratch);
        return;
    }
#endif
    if (matrix->form == HALVES)
        strips(VECTORS, 1, matrix, x, y, stride, rows, in, columns, add);
    else if (matrix->vectors == VECTORS)
        strips(VECTORS, 0, matrix, x, y, stride, rows, in, columns, add);
    else
        strips(1, 0, matrix, x, y, stride, rows, in, columns, add);
}

/* The same in all columns. */
void multiply(const float *x, const Matrix *matrix, float *y, int64_t stride, int64_t rows, int64_t in, int add,
              float *scratch) {
    multiply_columns(x, matrix, y, stride, rows, in, columns_of(matrix, 0, 1), add, scratch);
}

int64_t lanes(void) { return LANES; }

int64_t vectors(void) { return VECTORS; }
