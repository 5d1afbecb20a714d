/* The forward pass of the Llama family, computed in float32 on one core or by a crew on several.
 *
 * A small model's step is a few hundred operations of a few microseconds each: a framework spends more time between them
 * than in them, and its matrix products are made for many rows, not for one to sixty-four. Here a step is one call.
 *
 * What is computed, and how norms, rotation and heads are arranged in the weights: see llama.py and llama_weights.py.
 */

#include "crew.h"
#include "layer.h"
#include "sampling.h"

/* The phases of a layer. What an adapter adds is cut otherwise than what it is added to, and so comes after it. */
enum { TO_QKV, ADAPT_QKV, PLACE, ATTEND, TO_OUT, ADAPT_OUT, TO_GATE_UP, ADAPT_GATE_UP, TO_DOWN, ADAPT_DOWN, PHASES };

#define FEW 12   /* rows for each member, below which a product is cut by columns: each then reads a part of the matrix */
#define BLOCK 64 /* rows of a piece, at most */

/* One pass over `count` tokens, as a work. All go through the base's products together, whatever adapters they have. */
typedef struct {
    Work work;
    const Model *m;
    const Group *groups;
    float *const *planes;
    int64_t group_count, rank, capacity, count, wants, members;
    const int64_t *rows, *positions, *wanted;
    int prompts; /* whether several tokens are of one row, so that all keys must be in their place before anyone attends */
    float *hidden, *qkv, *attended, *gate_up, *logits; /* a row for each token */
    float *own;       /* each member's: what it alone needs within a piece */
    int64_t own_size;
} Pass;

/* How a product for so many rows is cut: into blocks of rows, and each into parts by columns. */
typedef struct {
    int64_t blocks, parts;
} Cut;

static Cut cut(int64_t rows, int64_t members) {
    if (rows < FEW * members) return (Cut){1, members};
    const int64_t most = BLOCK * members;
    return (Cut){(rows + most - 1) / most * members, 1};
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t most(int64_t a, int64_t b) { return a < b ? b : a; }

/* A matrix product of a layer: y (+)= x @ matrix, where x goes through a norm or a gate first. */
typedef struct {
    const float *x, *norm;
    float *y;
    int64_t in;
    int gated, add;
} Product;

static Product product(const Pass *p, int64_t layer, int64_t matrix) {
    const Model *m = p->m;
    const float *norm = m->norms[layer * MATRICES + matrix];
    switch (matrix) {
        case QKV: return (Product){p->hidden, norm, p->qkv, m->hidden, 0, 0};
        case OUT: return (Product){p->attended, NULL, p->hidden, m->query_heads * m->head_dim, 0, 1};
        case GATE_UP: return (Product){p->hidden, norm, p->gate_up, m->hidden, 0, 0};
        default: return (Product){p->gate_up, NULL, p->hidden, m->inner, 1, 1};
    }
}

/* What a member needs within a piece: rows after a norm or a gate, then what lies between the two matrices of an adapter
 * or the scores of an attention, then the products' scratch memory. */
typedef struct {
    int64_t inputs, between, scratch;
} Needs;

static Needs needs(const Model *m, int64_t rank, int64_t count, int64_t capacity, int64_t members) {
    const int64_t rows = least(count, most(BLOCK, FEW * members)); /* of a piece, at most, of all tokens or of some */
    const int64_t scores = m->query_heads / m->kv_heads * whole_vectors(capacity);
    const int64_t in = most(most(m->hidden, m->query_heads * m->head_dim), most(m->inner, rank));
    return (Needs){
        .inputs = whole_vectors(rows * most(m->hidden, m->inner)),
        .between = most(whole_vectors(rows * rank), scores),
        .scratch = whole_vectors(product_scratch(in)),
    };
}

static int64_t own_size(const Model *m, int64_t rank, int64_t count, int64_t capacity, int64_t members) {
    const Needs n = needs(m, rank, count, capacity, members);
    return n.inputs + n.between + n.scratch;
}

/* The most numbers that lie between the two matrices of any group's adapter. */
static int64_t highest_rank(const Group *groups, int64_t count) {
    int64_t rank = 0;
    for (int64_t g = 0; g < count; g++)
        if (groups[g].adapter) rank = most(rank, groups[g].adapter->rank);
    return rank;
}

/* Floats of scratch memory that `forward` needs for so many tokens in these groups. */
int64_t scratch_size(const Model *m, const Group *groups, int64_t group_count, int64_t count, int64_t capacity,
                     const Crew *crew) {
    const int64_t members = members_of(crew);
    const int64_t heads = 2 * m->query_heads + 2 * m->kv_heads;
    return members * own_size(m, highest_rank(groups, group_count), count, capacity, members) +
           count * (m->hidden + heads * m->head_dim + 2 * m->inner);
}

/* The rows that a product takes, made in `made` if they are not there as they are. */
static const float *inputs(const Pass *p, const Product *of, Range rows, float *made) {
    const float *x = of->x + rows.start * of->in * (of->gated ? 2 : 1);
    if (!of->norm && !of->gated) return x;
    if (of->norm) norms(x, made, of->norm, rows.stop - rows.start, of->in, p->m->norm_eps);
    for (int64_t i = 0; of->gated && i < rows.stop - rows.start; i++) gate(x + i * 2 * of->in, made + i * of->in, of->in);
    return made;
}

/* A piece of the base's own product, and of its bias. */
static void project(const Pass *p, int64_t layer, int64_t matrix, int64_t piece, float *own, Needs n) {
    const Matrix *weights = p->m->matrices[layer * MATRICES + matrix];
    const Product of = product(p, layer, matrix);
    const Cut c = cut(p->count, p->members);
    const Range rows = share_of(p->count, piece / c.parts, c.blocks), columns = columns_of(weights, piece % c.parts, c.parts);
    const int64_t count = rows.stop - rows.start;
    float *y = of.y + rows.start * weights->out;
    multiply_columns(inputs(p, &of, rows, own), weights, y, weights->out, count, of.in, columns, of.add,
                     own + n.inputs + n.between);
    add_bias(y, p->m->biases[layer * MATRICES + matrix], count, weights->out, columns);
}

/* What a group's adapter adds is cut into pieces by blocks of its rows and parts of the matrix. */
static int64_t adapted_pieces(const Pass *p, const Group *group) {
    return group->adapter ? cut(group->stop - group->start, p->members).blocks * PARTS : 0;
}

/* A piece of what adapters add. */
static void adapt(const Pass *p, int64_t layer, int64_t matrix, int64_t piece, float *own, Needs n) {
    const Group *group = p->groups;
    for (; piece >= adapted_pieces(p, group); group++) piece -= adapted_pieces(p, group);
    const int64_t part = (layer * MATRICES + matrix) * PARTS + piece % PARTS, out = p->m->matrices[layer * MATRICES + matrix]->out;
    const Matrix *down = group->adapter->downs[part], *up = group->adapter->ups[part];
    if (!down) return;
    const Product of = product(p, layer, matrix);
    const int64_t all = group->stop - group->start;
    Range rows = share_of(all, piece / PARTS, cut(all, p->members).blocks);
    rows.start += group->start, rows.stop += group->start;
    const int64_t count = rows.stop - rows.start;
    float *between = own + n.inputs, *scratch = between + n.between;
    multiply(inputs(p, &of, rows, own), down, between, down->out, count, of.in, 0, scratch);
    multiply(between, up, of.y + rows.start * out + group->adapter->columns[part], out, count, down->out, 1, scratch);
}

static int64_t all_adapted_pieces(const Pass *p) {
    int64_t sum = 0;
    for (int64_t g = 0; g < p->group_count; g++) sum += adapted_pieces(p, p->groups + g);
    return sum;
}

/* Attention is cut into units: one token's queries that share one key head. */
static int64_t units(const Pass *p) { return p->count * p->m->kv_heads; }

static int64_t attention_pieces(const Pass *p) { return p->members == 1 ? 1 : least(units(p), 4 * p->members); }

/* The units of a piece, which are `step` apart: of prompts every so many-th, because later tokens see more. */
static Range units_of(const Pass *p, int64_t piece, int64_t *step) {
    *step = p->prompts ? attention_pieces(p) : 1;
    return p->prompts ? (Range){piece, units(p)} : share_of(units(p), piece, attention_pieces(p));
}

/* A unit's keys in the cache; values lie `values_after` numbers behind. */
static float *keys_of(const Pass *p, int64_t layer, int64_t unit) {
    const int64_t token = unit / p->m->kv_heads, head = unit % p->m->kv_heads;
    return p->planes[layer] + (p->rows[token] * 2 * p->m->kv_heads + head) * p->capacity * p->m->head_dim;
}

static int64_t values_after(const Pass *p) { return p->m->kv_heads * p->capacity * p->m->head_dim; }

/* A unit's queries. */
static float *queries_of(const Pass *p, int64_t unit) {
    const Model *m = p->m;
    const int64_t token = unit / m->kv_heads, first = unit % m->kv_heads * (m->query_heads / m->kv_heads);
    return p->qkv + (token * (m->query_heads + 2 * m->kv_heads) + first) * m->head_dim;
}

/* Rotate a unit's queries and its key, and put key and value where the cache has them. */
static void place(const Pass *p, int64_t layer, int64_t unit) {
    const Model *m = p->m;
    const int64_t dim = m->head_dim, group = m->query_heads / m->kv_heads;
    const int64_t token = unit / m->kv_heads, head = unit % m->kv_heads, position = p->positions[token];
    float *query = queries_of(p, unit), *key = query + (m->query_heads - head * (group - 1)) * dim;
    if (m->query_norms[layer]) {
        norms(query, query, m->query_norms[layer], group, dim, m->norm_eps);
        norms(key, key, m->key_norms[layer], 1, dim, m->norm_eps);
    }
    rotate(query, m->rotation + position * dim, group, dim);
    rotate(key, m->rotation + position * dim, 1, dim);
    float *keys = keys_of(p, layer, unit);
    memcpy(keys + position * dim, key, dim * sizeof *key);
    memcpy(keys + values_after(p) + position * dim, key + m->kv_heads * dim, dim * sizeof *key);
}

/* `next`: the unit after it, or the same where that is the last. */
static void attend_unit(const Pass *p, int64_t layer, int64_t unit, int64_t next, float *scores) {
    const Model *m = p->m;
    const int64_t group = m->query_heads / m->kv_heads;
    const float *keys = keys_of(p, layer, unit), *ahead = keys_of(p, layer, next);
    attend(queries_of(p, unit), keys, keys + values_after(p), p->attended + unit * group * m->head_dim, scores, group,
           p->positions[unit / m->kv_heads] + 1, m->head_dim, ahead);
}

/* A piece of the logits. */
static void judge(const Pass *p, int64_t piece, float *own, Needs n) {
    const Model *m = p->m;
    const Cut c = cut(p->wants, p->members);
    const Range rows = share_of(p->wants, piece / c.parts, c.blocks);
    const Range columns = columns_of(m->head, piece % c.parts, c.parts);
    const int64_t count = rows.stop - rows.start;
    for (int64_t i = 0; i < count; i++) {
        const int64_t token = p->wanted ? p->wanted[rows.start + i] : rows.start + i;
        norms(p->hidden + token * m->hidden, own + i * m->hidden, m->final_norm, 1, m->hidden, m->norm_eps);
    }
    multiply_columns(own, m->head, p->logits + rows.start * m->head->out, m->head->out, count, m->hidden, columns, 0,
                     own + n.inputs + n.between);
}

static int64_t pieces(const Work *work, int64_t phase) {
    const Pass *p = (const Pass *)work;
    const int last = phase / PHASES == p->m->layers;
    const Cut c = cut(last ? p->wants : p->count, p->members);
    switch (last ? TO_OUT : phase % PHASES) {
        case ADAPT_QKV: case ADAPT_OUT: case ADAPT_GATE_UP: case ADAPT_DOWN: return all_adapted_pieces(p);
        case PLACE: return p->prompts ? attention_pieces(p) : 0;
        case ATTEND: return attention_pieces(p);
        default: return c.blocks * c.parts;
    }
}

static void compute(const Work *work, int64_t phase, int64_t piece, int64_t member) {
    const Pass *p = (const Pass *)work;
    const int64_t layer = phase / PHASES;
    const Needs n = needs(p->m, p->rank, p->count, p->capacity, p->members);
    float *own = p->own + member * p->own_size;
    if (layer == p->m->layers) {
        judge(p, piece, own, n);
        return;
    }
    int64_t step;
    const Range some = units_of(p, piece, &step);
    switch (phase % PHASES) {
        case TO_QKV: project(p, layer, QKV, piece, own, n); break;
        case ADAPT_QKV: adapt(p, layer, QKV, piece, own, n); break;
        case PLACE:
            for (int64_t unit = some.start; unit < some.stop; unit += step) place(p, layer, unit);
            break;
        case ATTEND:
            for (int64_t unit = some.start; unit < some.stop; unit += step) {
                if (!p->prompts) place(p, layer, unit);
                attend_unit(p, layer, unit, unit + step < some.stop ? unit + step : unit, own + n.inputs);
            }
            break;
        case TO_OUT: project(p, layer, OUT, piece, own, n); break;
        case ADAPT_OUT: adapt(p, layer, OUT, piece, own, n); break;
        case TO_GATE_UP: project(p, layer, GATE_UP, piece, own, n); break;
        case ADAPT_GATE_UP: adapt(p, layer, GATE_UP, piece, own, n); break;
        case TO_DOWN: project(p, layer, DOWN, piece, own, n); break;
        case ADAPT_DOWN: adapt(p, layer, DOWN, piece, own, n); break;
    }
}

/* Compute `count` tokens, which the groups have between them in their order, by a crew, NULL: alone. Number i stands at
 * positions[i] of cache row rows[i]. Of one row there may be several, one after the other, each of which sees those before
 * it. Keys and values go to `planes` ([layer], (rows, 2 * kv_heads, capacity, head_dim): keys, then values), the logits
 * (wants, vocab) of the tokens whose numbers are in `wanted`, NULL: of the first `wants`, to `logits`. */
void forward(const Model *m, const Group *groups, int64_t group_count, float *const *planes, int64_t capacity,
             const int64_t *rows, const int64_t *tokens, const int64_t *positions, int64_t count, const int64_t *wanted,
             int64_t wants, float *scratch, float *logits, Crew *crew) {
    const int64_t members = members_of(crew), queries = m->query_heads * m->head_dim;
    const int64_t rank = highest_rank(groups, group_count);
    Pass p = {.work = {m->layers * PHASES + 1, pieces, compute}, .m = m, .groups = groups, .planes = planes,
              .group_count = group_count, .rank = rank, .capacity = capacity, .count = count, .wants = wants,
              .members = members, .rows = rows, .positions = positions, .wanted = wanted, .logits = logits,
              .own = scratch, .own_size = own_size(m, rank, count, capacity, members)};
    p.hidden = p.own + members * p.own_size;
    p.qkv = p.hidden + count * m->hidden;
    p.attended = p.qkv + count * (queries + 2 * m->kv_heads * m->head_dim);
    p.gate_up = p.attended + count * queries;
    for (int64_t i = 1; i < count; i++) p.prompts |= rows[i] == rows[i - 1];
    for (int64_t i = 0; i < count; i++)
        memcpy(p.hidden + i * m->hidden, m->embedding + tokens[i] * m->hidden, m->hidden * sizeof *p.hidden);
    do_work(crew, &p.work);
}
