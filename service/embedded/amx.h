/* Matrix products by the processor's own matrix unit (Intel's AMX), where the compiler and the processor have it.
 *
 * The unit multiplies tiles of bfloat16 and adds up in float32. A number of float32 is the sum of three of bfloat16, which
 * have eight bits of it each: a product with a matrix whose numbers all are bfloat16 is the sum of three, and as exact as
 * one in float32.
 *
 * A panel is COLUMNS wide. For DEPTH numbers of the inner dimension it holds two tiles, side by side in the matrix, each of
 * DEPTH / 2 rows: the numbers of two neighbouring rows of the matrix alternate in one row of a tile.
 */

#include "vectors.h"

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512F__) && defined(__linux__)
#define AMX

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HEIGHT 16 /* rows of a tile, at most */
#define BYTES 64  /* in a row of a tile */
#define DEPTH 32
#define COLUMNS 32
#define PIECES 3
#define AHEAD (DEPTH * COLUMNS) /* numbers of the matrix that are asked for before they are needed */

typedef uint16_t bfloat16s __attribute__((vector_size(2 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));

/* Ask the system, for this process, to be allowed to use the tiles; whether it says yes. */
static int amx_granted(void) {
    const int request_permission = 0x1023, tile_data = 18;
    return !syscall(SYS_arch_prctl, request_permission, tile_data);
}

/* Memory is as written here for what the compiler does not know to read it. */
static inline void settle(const void *memory) { __asm__ volatile("" ::"r"(memory) : "memory"); }

/* Tiles 0 and 1 for sums and 2 for rows of x have `height` rows, 3 and 4 are for the matrix. */
static void configure(int64_t height) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } tiles = {.palette = 1};
    for (int t = 0; t < 5; t++) {
        tiles.bytes[t] = BYTES;
        tiles.rows[t] = t < 3 ? height : DEPTH / 2;
    }
    settle(&tiles);
    _tile_loadconfig(&tiles);
}

/* Bytes that `amx_multiply` needs for the pieces of x. */
static int64_t pieces_size(int64_t in) { return HEIGHT * in * PIECES * sizeof(uint16_t); }

/* x `(height, in)` in pieces (in / DEPTH, PIECES, height, DEPTH). */
static void split(const float *x, uint16_t *pieces, int64_t height, int64_t in) {
    for (int64_t r = 0; r < height; r++, pieces += DEPTH) {
        uint16_t *to = pieces;
        for (int64_t k = 0; k < in; k += DEPTH, x += DEPTH, to += PIECES * height * DEPTH)
            for (int64_t part = 0; part < DEPTH; part += LANES) {
                vector left = load(x + part);
                for (int p = 0; p < PIECES; p++) {
                    const words upper = (words)left & 0xffff0000;
                    const bfloat16s piece = __builtin_convertvector(upper >> 16, bfloat16s);
                    memcpy(to + p * height * DEPTH + part, &piece, sizeof piece);
                    left -= (vector)upper;
                }
            }
    }
}

/* sums (height, COLUMNS): one tile's rows of x, in pieces, times one panel. */
static inline void products(const uint16_t *pieces, const uint16_t *panel, float *sums, int64_t height, int64_t in) {
    _tile_zero(0);
    _tile_zero(1);
    for (int64_t k = 0; k < in; k += DEPTH, panel += DEPTH * COLUMNS) {
        for (int64_t line = 0; line < DEPTH * COLUMNS; line += BYTES / sizeof *panel)
            __builtin_prefetch(panel + AHEAD + line);
        _tile_loadd(3, panel, BYTES);
        _tile_loadd(4, panel + DEPTH * COLUMNS / 2, BYTES);
        for (int p = 0; p < PIECES; p++, pieces += height * DEPTH) {
            _tile_loadd(2, pieces, BYTES);
            _tile_dpbf16ps(0, 2, 3);
            _tile_dpbf16ps(1, 2, 4);
        }
    }
    _tile_stored(0, sums, COLUMNS * sizeof *sums);
    _tile_stored(1, sums + COLUMNS / 2, COLUMNS * sizeof *sums);
}

/* y (+)= x @ matrix in its columns from `start`, where a panel begins, to `stop`: x `(rows, in)`, y `(rows, out)` with its
 * rows `stride` numbers apart; `in` is a multiple of DEPTH. */
static void amx_multiply(const float *x, const uint16_t *panels, float *y, int64_t stride, int64_t rows, int64_t in,
                         int64_t start, int64_t stop, int add, uint16_t *pieces) {
    for (; rows > 0; rows -= HEIGHT, x += HEIGHT * in, y += HEIGHT * stride) {
        const int64_t height = rows < HEIGHT ? rows : HEIGHT;
        const uint16_t *panel = panels + start * in;
        split(x, pieces, height, in);
        settle(pieces);
        configure(height);
        for (int64_t column = start; column < stop; column += COLUMNS, panel += in * COLUMNS) {
            float sums[HEIGHT * COLUMNS];
            products(pieces, panel, sums, height, in);
            const int64_t width = stop - column < COLUMNS ? stop - column : COLUMNS;
            for (int64_t r = 0; r < height; r++) {
                const float *sum = sums + r * COLUMNS;
                float *to = y + r * stride + column;
                if (width == COLUMNS)
                    for (int64_t c = 0; c < COLUMNS; c += LANES)
                        store(to + c, add ? load(to + c) + load(sum + c) : load(sum + c));
                else
                    for (int64_t c = 0; c < width; c++) to[c] = add ? to[c] + sum[c] : sum[c];
            }
        }
    }
    _tile_release();
}

#endif
