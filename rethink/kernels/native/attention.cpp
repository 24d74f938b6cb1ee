// Attention over trees of sequences: prompts shared by their completions, for training (forward and backward over packed
// rows) and for decoding (over a paged cache). bf16 with AVX512-BF16, fp32 everywhere else; sums are fp32.
//
// Keys come in blocks of sixteen, aligned to their position in the sequence. A query's score with a key is one chain of
// products along the head; its weighted sum over the values is one chain along the positions, 0 first. Neither depends on
// what else is computed, so the trainer (blocks gathered from a packed row) and the engine (blocks of its cache) get equal
// bits.
//
// Two layouts of a block of 16 vectors of size D, so that sixteen sums advance at once:
//   dot: [D/2][16][2] bf16 or [D][16] fp32     for scores   (a row's product with each of the sixteen)
//   sum: [8][D][2] bf16 or [16][D] fp32        for outputs  (a weighted sum of the sixteen)
#include "attention.h"
#include "common.h"

#include <cmath>
#include <omp.h>

namespace {

constexpr int BLOCK = 16, ROWS = 8;
constexpr int AHEAD = 12;        // blocks that are asked for before they are read
constexpr int BACK_BLOCKS = 32;  // blocks of queries whose weights exist at once in the backward pass

#ifdef RT_BF16
// acc[r][u] += row r . block u, each of 16 lanes a vector of the block.
template <int R, int U> inline void dot(const bf16* rows, long ld, const bf16* const* blocks, int size, v16 (&out)[R][U]) {
    __m512 acc[R][U];
    for (int r = 0; r < R; r++)
        for (int u = 0; u < U; u++) acc[r][u] = _mm512_setzero_ps();
    for (int i = 0; i < size / 2; i++) {
        __m512bh b[U];
        for (int u = 0; u < U; u++) b[u] = (__m512bh)_mm512_loadu_si512(blocks[u] + i * 2 * BLOCK);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            int pair;
            __builtin_memcpy(&pair, rows + r * ld + 2 * i, 4);
            __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
            for (int u = 0; u < U; u++) acc[r][u] = _mm512_dpbf16_ps(acc[r][u], x, b[u]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int u = 0; u < U; u++) out[r][u] = (v16)acc[r][u];  // a cast: through memory the sums would live there
}

// out[r][d0 .. d0+16C) += sum over keys of weights[r][key] * block(key / 16)[key % 16]
template <int R, int C, class Blocks>
inline void weigh(const bf16* weights, long ld, Blocks blocks, long number, int size, int d0, float* out, long ld_out) {
    __m512 acc[R][C];
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) acc[r][c] = _mm512_loadu_ps(out + r * ld_out + d0 + 16 * c);
    for (long b = 0; b < number; b++) {
        const bf16* block = blocks(b) + 2 * d0;
        const bf16* w = weights + b * BLOCK;
        for (int i = 0; i < BLOCK / 2; i++) {
            __m512bh v[C];
            for (int c = 0; c < C; c++) v[c] = (__m512bh)_mm512_loadu_si512(block + (long)i * 2 * size + 32 * c);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                int pair;
                __builtin_memcpy(&pair, w + r * ld + 2 * i, 4);
                __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
                for (int c = 0; c < C; c++) acc[r][c] = _mm512_dpbf16_ps(acc[r][c], x, v[c]);
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) _mm512_storeu_ps(out + r * ld_out + d0 + 16 * c, acc[r][c]);
}
#endif

template <int R, int U> inline void dot(const float* rows, long ld, const float* const* blocks, int size, v16 (&out)[R][U]) {
    for (int r = 0; r < R; r++)
        for (int u = 0; u < U; u++) out[r][u] = splat(0);
    for (int i = 0; i < size; i++)
        for (int u = 0; u < U; u++) {
            v16 b = load16(blocks[u] + i * BLOCK);
            for (int r = 0; r < R; r++) out[r][u] += splat(rows[r * ld + i]) * b;
        }
}

template <int R, int C, class Blocks>
inline void weigh(const float* weights, long ld, Blocks blocks, long number, int size, int d0, float* out, long ld_out) {
    v16 acc[R][C];
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) acc[r][c] = load16(out + r * ld_out + d0 + 16 * c);
    for (long b = 0; b < number; b++)
        for (int i = 0; i < BLOCK; i++) {
            const float* v = blocks(b) + (long)i * size + d0;
            for (int r = 0; r < R; r++)
                for (int c = 0; c < C; c++) acc[r][c] += splat(weights[r * ld + b * BLOCK + i]) * load16(v + 16 * c);
        }
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) store16(out + r * ld_out + d0 + 16 * c, acc[r][c]);
}

// A few rows at a time, so that the sums stay in registers; four vectors of the head at a time.
template <int R, class T, class Blocks>
inline void weigh_columns(const T* weights, long ld, Blocks blocks, long number, int size, float* out, long ld_out) {
    int d0 = 0;
    for (; d0 + 64 <= size; d0 += 64) weigh<R, 4>(weights, ld, blocks, number, size, d0, out, ld_out);
    for (; d0 + 32 <= size; d0 += 32) weigh<R, 2>(weights, ld, blocks, number, size, d0, out, ld_out);
    for (; d0 + 16 <= size; d0 += 16) weigh<R, 1>(weights, ld, blocks, number, size, d0, out, ld_out);
}

template <class T, class Blocks>
inline void weigh_rows(int rows, const T* weights, long ld, Blocks blocks, long number, int size, float* out, long ld_out) {
    for (; rows >= 4; rows -= 4, weights += 4 * ld, out += 4 * ld_out) weigh_columns<4>(weights, ld, blocks, number, size, out, ld_out);
    if (rows == 3) return weigh_columns<3>(weights, ld, blocks, number, size, out, ld_out);
    if (rows == 2) return weigh_columns<2>(weights, ld, blocks, number, size, out, ld_out);
    if (rows == 1) return weigh_columns<1>(weights, ld, blocks, number, size, out, ld_out);
}

// use(block, row, scores) for every block and row; few rows take several blocks at once to keep enough sums in flight.
template <int R, int U, class T, class Blocks, class Use>
inline void dot_blocks(const T* rows, long ld, Blocks blocks, long number, int size, Use use) {
    long b = 0;
    for (; b + U <= number; b += U) {
        const T* at[U];
        for (int u = 0; u < U; u++) at[u] = blocks(b + u);
        v16 s[R][U];
        dot<R, U>(rows, ld, at, size, s);
        for (int u = 0; u < U; u++)
            for (int r = 0; r < R; r++) use(b + u, r, s[r][u]);
    }
    for (; b < number; b++) {
        const T* at[1] = {blocks(b)};
        v16 s[R][1];
        dot<R, 1>(rows, ld, at, size, s);
        for (int r = 0; r < R; r++) use(b, r, s[r][0]);
    }
}

template <class T, class Blocks, class Use>
inline void dot_rows(int rows, const T* x, long ld, Blocks blocks, long number, int size, Use use) {
    int done = 0;
    auto shifted = [&](long b, int r, v16 s) { use(b, done + r, s); };
    if (sizeof(T) == 2)
        for (; rows - done >= 8; done += 8) dot_blocks<8, 2>(x + done * ld, ld, blocks, number, size, shifted);
    for (; rows - done >= 4; done += 4) dot_blocks<4, 2>(x + done * ld, ld, blocks, number, size, shifted);
    if (rows - done == 3) return dot_blocks<3, 4>(x + done * ld, ld, blocks, number, size, shifted);
    if (rows - done == 2) return dot_blocks<2, 4>(x + done * ld, ld, blocks, number, size, shifted);
    if (rows - done == 1) return dot_blocks<1, 4>(x + done * ld, ld, blocks, number, size, shifted);
}

// Pages lie anywhere in memory: ask for a block some time before it is read.
template <class T> inline void prefetch(const T* block, int size) {
    for (long i = 0; i < BLOCK * size * (long)sizeof(T); i += 64) __builtin_prefetch((const char*)block + i);
}

const v16i LANES = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// One vector into its place in a block.
template <class T> inline void write_dot(T* block, int place, const T* x, int size) {
    constexpr int PAIR = sizeof(T) == 2 ? 2 : 1;  // either way four bytes move at once
    for (int i = 0; i < size / PAIR; i++) memcpy(block + (i * BLOCK + place) * PAIR, x + i * PAIR, 4);
}

template <class T> inline void write_sum(T* block, int place, const T* x, int size) {
    constexpr int PAIR = sizeof(T) == 2 ? 2 : 1;
    T* to = block + (long)(place / PAIR) * size * PAIR + place % PAIR;
    for (int i = 0; i < size; i++) to[i * PAIR] = x ? x[i] : T(0);
}

template <class T> inline void clear_dot(T* block, int place, int size) {
    constexpr int PAIR = sizeof(T) == 2 ? 2 : 1;
    for (int i = 0; i < size / PAIR; i++) memset(block + (i * BLOCK + place) * PAIR, 0, 4);
}

}  // namespace

namespace {

struct Piece {
    int row, length, position, table;
};

// Runs cut so that a piece has at most `most` rows.
template <class Visit> void cut(const Runs& runs, int most, Visit visit) {
    for (int64_t i = 0; i < runs.number; i++) {
        int parts = (runs.length[i] + most - 1) / most;
        for (int p = 0; p < parts; p++) {
            int from = (int)((int64_t)runs.length[i] * p / parts), to = (int)((int64_t)runs.length[i] * (p + 1) / parts);
            visit(Piece{runs.row[i] + from, to - from, runs.position[i] + from, runs.table[i]});
        }
    }
}

struct Pieces {
    Buffer memory;
    Piece* at;
    long number = 0;
    Pieces(const Runs& runs, int most) {
        long count = 0;
        cut(runs, most, [&](Piece) { count++; });
        at = memory.get<Piece>(count + 1);
        cut(runs, most, [&](Piece p) { at[number++] = p; });
    }
};

template <class T>
void forward(const Shape& s, const Runs& runs, const T* q, long ld_q, const T* k_blocks, const T* v_blocks, T* out, long ld_out, float* lse) {
    const int size = (int)s.size, fold = (int)(s.heads / s.kv_heads);
    const long block_size = (long)BLOCK * size, page = block_size * s.kv_heads;
    const float scale = s.scale * LOG2E;
    // A piece's rows and folded heads: about 24 queries that share their keys.
    Pieces pieces(runs, fold >= 24 ? 1 : 24 / fold);
    const long tasks = pieces.number * s.kv_heads;
    bool failed = false;
#pragma omp parallel
    {
        static thread_local Buffer scores_memory, weights_memory, rows_memory, out_memory;
#pragma omp for schedule(dynamic, 4)
        for (long task = 0; task < tasks; task++) try {
            const Piece piece = pieces.at[task / s.kv_heads];
            const long head = task % s.kv_heads;
            const int32_t* table = runs.tables + (long)piece.table * runs.table_width;
            const int queries = piece.length * fold;
            const long most = (long)(piece.position + piece.length - 1) / BLOCK + 1, ld = most * BLOCK;
            T* rows = rows_memory.get<T>((size_t)queries * size);
            for (int i = 0; i < queries; i++)
                memcpy(rows + (long)i * size, q + (piece.row + i / fold) * ld_q + (head * fold + i % fold) * size, size * sizeof(T));
            float* scores = scores_memory.get<float>(ROWS * ld);
            T* weights = weights_memory.get<T>(ROWS * ld);
            float* sums = out_memory.get<float>((size_t)ROWS * size);
            const int parts = (queries + ROWS - 1) / ROWS;
            for (int part = 0; part < parts; part++) {
                const int from = queries * part / parts, n = queries * (part + 1) / parts - from;
                const int last = piece.position + (from + n - 1) / fold;
                const long number = last / BLOCK + 1;
                v16 top[ROWS];
                for (int r = 0; r < n; r++) top[r] = splat(-INFINITY);
                auto k_at = [&](long b) { return k_blocks + table[b] * page + head * block_size; };
                auto v_at = [&](long b) { return v_blocks + table[b] * page + head * block_size; };
                // The values and the keys some blocks on are asked for now, and the first keys of the task after this.
                if (part == 0 && queries <= ROWS && task + 1 < tasks) {
                    const Piece next = pieces.at[(task + 1) / s.kv_heads];
                    const int32_t* pages = runs.tables + (long)next.table * runs.table_width;
                    const long last = (next.position + next.length - 1) / BLOCK;
                    for (long b = 0; b <= last && b < AHEAD; b++) prefetch(k_blocks + pages[b] * page + (task + 1) % s.kv_heads * block_size, size);
                }
                dot_rows(n, rows + (long)from * size, size, k_at, number, size, [&](long b, int r, v16 x) {
                    if (r == 0 && part == 0) {
                        prefetch(v_at(b), size);
                        if (b + AHEAD < number) prefetch(k_at(b + AHEAD), size);
                    }
                    int limit = piece.position + (from + r) / fold - (int)b * BLOCK;  // last visible lane
                    x = x * splat(scale);
                    if (limit < BLOCK - 1) x = LANES > (v16i{} + limit) ? splat(-INFINITY) : x;
                    store16(scores + r * ld + b * BLOCK, x);
                    top[r] = vmax(top[r], x);
                });
                float total[ROWS];
                for (int r = 0; r < n; r++) {
                    const float m = max_lanes(top[r]);
                    v16 sum = splat(0);
                    for (long b = 0; b < number; b++) {
                        v16 p = exp2_16(load16(scores + r * ld + b * BLOCK) - splat(m));
                        sum += p;
                        store_any(weights + r * ld + b * BLOCK, p);
                    }
                    total[r] = sum_lanes(sum);
                    if (lse) lse[(piece.row + (from + r) / fold) * s.heads + head * fold + (from + r) % fold] = m + log2f(total[r]);
                }
                memset(sums, 0, (size_t)n * size * sizeof(float));
                weigh_rows(n, weights, ld, v_at, number, size, sums, size);
                for (int r = 0; r < n; r++) {
                    T* to = out + (piece.row + (from + r) / fold) * ld_out + (head * fold + (from + r) % fold) * size;
                    v16 scale_out = splat(1.0f / total[r]);
                    for (int d = 0; d < size; d += 16) store_any(to + d, load16(sums + (long)r * size + d) * scale_out);
                }
            }
        } catch (const std::bad_alloc&) { failed = true; }
    }
    if (failed) throw std::bad_alloc();
}

// Two vectors as pairs: a0 b0 a1 b1 ...; none reads as zero.
template <class T> inline void interleave(T* out, const T* a, const T* b, int size) {
#ifdef RT_BF16
    if (sizeof(T) == 2) {
        for (int i = 0; i < size; i += 16) {
            __m512i x = a ? _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(a + i))) : _mm512_setzero_si512();
            __m512i y = b ? _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(b + i))) : _mm512_setzero_si512();
            _mm512_storeu_si512(out + 2 * i, _mm512_or_si512(x, _mm512_slli_epi32(y, 16)));
        }
        return;
    }
#endif
    for (int i = 0; i < size; i++) out[2 * i] = a ? a[i] : T(0), out[2 * i + 1] = b ? b[i] : T(0);
}

// Gather blocks of rows: source[b][16] is a row number or -1 (zeros).
template <class T>
void gather(const T* x, long ld, long heads, int size, const int32_t* source, long number, T* dots, T* sums) {
    const long block_size = (long)BLOCK * size;
#pragma omp parallel for schedule(static) collapse(2)
    for (long b = 0; b < number; b++)
        for (long h = 0; h < heads; h++)
            for (int i = 0; i < BLOCK; i++) {
                const int32_t row = source[b * BLOCK + i];
                const T* from = row < 0 ? nullptr : x + (long)row * ld + h * size;
                if (dots) {
                    T* block = dots + (b * heads + h) * block_size;
                    if (from) write_dot(block, i, from, size);
                    else clear_dot(block, i, size);
                }
                if (sums && sizeof(T) == 4) write_sum(sums + (b * heads + h) * block_size, i, from, size);
                if (sums && sizeof(T) == 2 && i % 2 == 0) {
                    const int32_t next = source[b * BLOCK + i + 1];
                    interleave(sums + (b * heads + h) * block_size + (long)i * size, from, next < 0 ? nullptr : x + (long)next * ld + h * size, size);
                }
            }
}

// Gradients of the queries: as the forward pass, over the same blocks.
template <class T>
void backward_queries(const Shape& s, const Runs& runs, const T* q, long ld_q, const T* grad, const float* lse, const float* delta,
                      const T* k_dots, const T* k_sums, const T* v_dots, T* grad_q, long ld_gq) {
    const int size = (int)s.size, fold = (int)(s.heads / s.kv_heads);
    const long block_size = (long)BLOCK * size, page = block_size * s.kv_heads, width = s.heads * size;
    Pieces pieces(runs, fold >= 24 ? 1 : 24 / fold);
    const long tasks = pieces.number * s.kv_heads;
    bool failed = false;
#pragma omp parallel
    {
        static thread_local Buffer weights_memory, rows_memory, scores_memory, out_memory;
#pragma omp for schedule(dynamic, 4)
        for (long task = 0; task < tasks; task++) try {
            const Piece piece = pieces.at[task / s.kv_heads];
            const long head = task % s.kv_heads;
            const int32_t* table = runs.tables + (long)piece.table * runs.table_width;
            const int queries = piece.length * fold;
            const long most = (long)(piece.position + piece.length - 1) / BLOCK + 1, ld = most * BLOCK;
            T* rows = rows_memory.get<T>((size_t)queries * size * 2);
            T* up = rows + (size_t)queries * size;
            for (int i = 0; i < queries; i++) {
                const long row = piece.row + i / fold, at = (head * fold + i % fold) * size;
                memcpy(rows + (long)i * size, q + row * ld_q + at, size * sizeof(T));
                memcpy(up + (long)i * size, grad + row * width + at, size * sizeof(T));
            }
            float* scores = scores_memory.get<float>(ROWS * ld);
            T* weights = weights_memory.get<T>(ROWS * ld);
            float* sums = out_memory.get<float>((size_t)ROWS * size);
            const int parts = (queries + ROWS - 1) / ROWS;
            for (int part = 0; part < parts; part++) {
                const int from = queries * part / parts, n = queries * (part + 1) / parts - from;
                const long number = (piece.position + (from + n - 1) / fold) / BLOCK + 1;
                auto k_at = [&](long b) { return k_dots + table[b] * page + head * block_size; };
                auto v_at = [&](long b) { return v_dots + table[b] * page + head * block_size; };
                auto sum_at = [&](long b) { return k_sums + table[b] * page + head * block_size; };
                float log_total[ROWS], shift[ROWS];
                for (int r = 0; r < n; r++) {
                    const long at = (piece.row + (from + r) / fold) * s.heads + head * fold + (from + r) % fold;
                    log_total[r] = lse[at], shift[r] = delta[at];
                }
                dot_rows(n, rows + (long)from * size, size, k_at, number, size, [&](long b, int r, v16 x) {
                    int limit = piece.position + (from + r) / fold - (int)b * BLOCK;
                    v16 p = exp2_16(x * splat(s.scale * LOG2E) - splat(log_total[r]));
                    if (limit < BLOCK - 1) p = LANES > (v16i{} + limit) ? splat(0) : p;
                    store16(scores + r * ld + b * BLOCK, p);
                });
                dot_rows(n, up + (long)from * size, size, v_at, number, size, [&](long b, int r, v16 x) {
                    store_any(weights + r * ld + b * BLOCK, load16(scores + r * ld + b * BLOCK) * (x - splat(shift[r])));
                });
                memset(sums, 0, (size_t)n * size * sizeof(float));
                weigh_rows(n, weights, ld, sum_at, number, size, sums, size);
                for (int r = 0; r < n; r++) {
                    T* to = grad_q + (piece.row + (from + r) / fold) * ld_gq + (head * fold + (from + r) % fold) * size;
                    for (int d = 0; d < size; d += 16) store_any(to + d, load16(sums + (long)r * size + d) * splat(s.scale));
                }
            }
        } catch (const std::bad_alloc&) { failed = true; }
    }
    if (failed) throw std::bad_alloc();
}

// Segments of a packed row: [start, start + length) sees itself causally; all rows up to `end` descend from it and see it.
struct KeyTile {
    int row, length, end;
};

// Gradients of keys and values. Rows are packed depth first, so the queries that see a key are the rows from its own up to
// its segment's end: one range. Blocks of queries lie at multiples of 16 rows.
template <class T>
void backward_keys(const Shape& s, const int32_t* segments, long number, const T* k, long ld_k, const T* v, long ld_v, const float* lse_HT,
                   const float* delta_HT, long padded, const T* q_dots, const T* q_sums, const T* g_dots, const T* g_sums, T* grad_k,
                   T* grad_v, long ld_gk, long ld_gv) {
    const int size = (int)s.size, fold = (int)(s.heads / s.kv_heads);
    const long block_size = (long)BLOCK * size, page = block_size * s.heads;
    Buffer memory;
    long count = 0;
    for (long i = 0; i < number; i++) count += (segments[3 * i + 1] + BLOCK - 1) / BLOCK;
    KeyTile* tiles = memory.get<KeyTile>(count + 1);
    count = 0;
    for (long i = 0; i < number; i++)
        for (int at = 0; at < segments[3 * i + 1]; at += BLOCK) {
            int left = segments[3 * i + 1] - at;
            tiles[count++] = KeyTile{segments[3 * i] + at, left < BLOCK ? left : BLOCK, segments[3 * i + 2]};
        }
    bool failed = false;
#pragma omp parallel
    {
        static thread_local Buffer p_memory, d_memory, sum_memory, f_memory;
#pragma omp for schedule(dynamic, 4)
        for (long task = 0; task < count * s.kv_heads; task++) try {
            const KeyTile tile = tiles[task / s.kv_heads];
            const long head = task % s.kv_heads, ld = BACK_BLOCKS * BLOCK;
            T* weights = p_memory.get<T>(BLOCK * ld);
            T* slopes = d_memory.get<T>(BLOCK * ld);
            float* p_full = f_memory.get<float>(BLOCK * ld);
            float* sums = sum_memory.get<float>((size_t)2 * BLOCK * size);
            memset(sums, 0, (size_t)2 * BLOCK * size * sizeof(float));
            const T *keys = k + tile.row * ld_k + head * size, *values = v + tile.row * ld_v + head * size;
            for (int f = 0; f < fold; f++) {
                const long h = head * fold + f;
                const float *lse = lse_HT + h * padded, *delta = delta_HT + h * padded;
                for (long first = tile.row / BLOCK; first * BLOCK < tile.end; first += BACK_BLOCKS) {
                    long blocks = (tile.end + BLOCK - 1) / BLOCK - first;
                    if (blocks > BACK_BLOCKS) blocks = BACK_BLOCKS;
                    auto q_at = [&](long b) { return q_dots + (first + b) * page + h * block_size; };
                    auto g_at = [&](long b) { return g_dots + (first + b) * page + h * block_size; };
                    for (int from = 0; from < tile.length; from += ROWS) {
                        const int n = tile.length - from < ROWS ? tile.length - from : ROWS;
                        dot_rows(n, keys + from * ld_k, ld_k, q_at, blocks, size, [&](long b, int r, v16 x) {
                            const int row = (int)(first + b) * BLOCK;
                            v16 p = exp2_16(x * splat(s.scale * LOG2E) - load16(lse + row));
                            v16i lane = LANES + row;
                            if (row < tile.row + from + r || row + BLOCK > tile.end)
                                p = (lane < (v16i{} + (tile.row + from + r))) | (lane >= (v16i{} + tile.end)) ? splat(0) : p;
                            store16(p_full + (from + r) * ld + b * BLOCK, p);
                            store_any(weights + (from + r) * ld + b * BLOCK, p);
                        });
                        dot_rows(n, values + from * ld_v, ld_v, g_at, blocks, size, [&](long b, int r, v16 x) {
                            const int row = (int)(first + b) * BLOCK;
                            v16 p = load16(p_full + (from + r) * ld + b * BLOCK);
                            store_any(slopes + (from + r) * ld + b * BLOCK, p * (x - load16(delta + row)));
                        });
                    }
                    weigh_rows(tile.length, weights, ld, [&](long b) { return g_sums + (first + b) * page + h * block_size; }, blocks, size, sums, size);
                    weigh_rows(tile.length, slopes, ld, [&](long b) { return q_sums + (first + b) * page + h * block_size; }, blocks, size,
                               sums + (long)BLOCK * size, size);
                }
            }
            for (int r = 0; r < tile.length; r++)
                for (int d = 0; d < size; d += 16) {
                    store_any(grad_v + (tile.row + r) * ld_gv + head * size + d, load16(sums + (long)r * size + d));
                    store_any(grad_k + (tile.row + r) * ld_gk + head * size + d, load16(sums + (long)(BLOCK + r) * size + d) * splat(s.scale));
                }
        } catch (const std::bad_alloc&) { failed = true; }
    }
    if (failed) throw std::bad_alloc();
}

// delta = sum over the head of gradient * output, and the log-sum-exps, both also head by head with rows padded to blocks.
template <class T>
void deltas(const Shape& s, long rows, long padded, const T* grad, const T* out, const float* lse, float* delta, float* delta_HT, float* lse_HT) {
    const int size = (int)s.size;
#pragma omp parallel for schedule(static)
    for (long t = 0; t < padded; t++)
        for (long h = 0; h < s.heads; h++) {
            const long at = t * s.heads + h, to = h * padded + t;
            if (t >= rows) {
                delta_HT[to] = lse_HT[to] = 0;
                continue;
            }
            v16 sum = splat(0);
            for (int d = 0; d < size; d += 16) sum += load_any(grad + at * size + d) * load_any(out + at * size + d);
            delta[at] = delta_HT[to] = sum_lanes(sum);
            lse_HT[to] = lse[at];
        }
}

template <class T>
void backward(const Shape& s, const Runs& runs, const int32_t* segments, long n_segments, const int32_t* source, long n_blocks, long rows,
              const T* q, long ld_q, const T* k, long ld_k, const T* v, long ld_v, const T* out, const float* lse, const T* grad, T* grad_q,
              long ld_gq, T* grad_k, long ld_gk, T* grad_v, long ld_gv) {
    static thread_local Buffer memory, floats, indices;
    const long width = s.heads * s.size, padded = (rows + BLOCK - 1) / BLOCK * BLOCK;
    const size_t kv = (size_t)n_blocks * BLOCK * s.kv_heads * s.size, qs = (size_t)padded * width;
    T* at = memory.get<T>(3 * kv + 4 * qs);
    T *k_dots = at, *k_sums = at + kv, *v_dots = at + 2 * kv;
    T *q_dots = at + 3 * kv, *q_sums = q_dots + qs, *g_dots = q_dots + 2 * qs, *g_sums = q_dots + 3 * qs;
    float* delta = floats.get<float>((size_t)rows * s.heads + 2 * (size_t)padded * s.heads);
    float *delta_HT = delta + rows * s.heads, *lse_HT = delta_HT + padded * s.heads;
    int32_t* straight = indices.get<int32_t>(padded);
    for (long t = 0; t < padded; t++) straight[t] = t < rows ? (int32_t)t : -1;
    deltas(s, rows, padded, grad, out, lse, delta, delta_HT, lse_HT);
    gather(k, ld_k, s.kv_heads, (int)s.size, source, n_blocks, k_dots, k_sums);
    gather<T>(v, ld_v, s.kv_heads, (int)s.size, source, n_blocks, v_dots, nullptr);
    gather(q, ld_q, s.heads, (int)s.size, straight, padded / BLOCK, q_dots, q_sums);
    gather(grad, width, s.heads, (int)s.size, straight, padded / BLOCK, g_dots, g_sums);
    backward_queries(s, runs, q, ld_q, grad, lse, delta, k_dots, k_sums, v_dots, grad_q, ld_gq);
    backward_keys(s, segments, n_segments, k, ld_k, v, ld_v, lse_HT, delta_HT, padded, q_dots, q_sums, g_dots, g_sums, grad_k, grad_v, ld_gk, ld_gv);
}

// New keys and values into their places of a paged cache; a place behind them in the block reads as zero until written.
template <class T>
void write_cache(const Shape& s, long rows, const T* k, long ld_k, const T* v, long ld_v, const int32_t* page_T, const int32_t* place_T, T* k_pages, T* v_pages) {
    const long block_size = BLOCK * s.size, page = block_size * s.kv_heads;
#pragma omp parallel for schedule(static) if (rows * s.kv_heads > 32)
    for (long t = 0; t < rows; t++)
        for (long h = 0; h < s.kv_heads; h++) {
            write_dot(k_pages + page_T[t] * page + h * block_size, place_T[t], k + t * ld_k + h * s.size, (int)s.size);
            write_sum(v_pages + page_T[t] * page + h * block_size, place_T[t], v + t * ld_v + h * s.size, (int)s.size);
        }
}

}  // namespace

#ifdef RT_BF16
#define RT_EITHER(call16, call32) (is_bf16 ? (void)(call16) : (void)(call32))
#else
#define RT_EITHER(call16, call32) (call32)
#endif

typedef const void* In;
typedef void* Mut;

RT_API int rt_attention_forward(int is_bf16, const Shape* s, const Runs* runs, In q, int64_t ld_q, In k_blocks, In v_blocks, Mut out, int64_t ld_out,
                                float* lse) try {
    RT_EITHER(forward(*s, *runs, (const bf16*)q, ld_q, (const bf16*)k_blocks, (const bf16*)v_blocks, (bf16*)out, ld_out, lse),
              forward(*s, *runs, (const float*)q, ld_q, (const float*)k_blocks, (const float*)v_blocks, (float*)out, ld_out, lse));
    return 0;
} catch (const std::bad_alloc&) { return 1; }

RT_API int rt_attention_gather(int is_bf16, In x, int64_t ld, int64_t heads, int64_t size, const int32_t* source, int64_t number, Mut dots, Mut sums) {
    if (is_bf16) gather((const bf16*)x, ld, heads, (int)size, source, number, (bf16*)dots, (bf16*)sums);
    else gather((const float*)x, ld, heads, (int)size, source, number, (float*)dots, (float*)sums);
    return 0;
}

RT_API int rt_attention_backward(int is_bf16, const Shape* s, const Runs* runs, const int32_t* segments, int64_t n_segments, const int32_t* source,
                                 int64_t n_blocks, int64_t rows, In q, int64_t ld_q, In k, int64_t ld_k, In v, int64_t ld_v, In out, const float* lse,
                                 In grad, Mut grad_q, int64_t ld_gq, Mut grad_k, int64_t ld_gk, Mut grad_v, int64_t ld_gv) try {
    RT_EITHER(backward(*s, *runs, segments, n_segments, source, n_blocks, rows, (const bf16*)q, ld_q, (const bf16*)k, ld_k, (const bf16*)v, ld_v,
                       (const bf16*)out, lse, (const bf16*)grad, (bf16*)grad_q, ld_gq, (bf16*)grad_k, ld_gk, (bf16*)grad_v, ld_gv),
              backward(*s, *runs, segments, n_segments, source, n_blocks, rows, (const float*)q, ld_q, (const float*)k, ld_k, (const float*)v, ld_v,
                       (const float*)out, lse, (const float*)grad, (float*)grad_q, ld_gq, (float*)grad_k, ld_gk, (float*)grad_v, ld_gv));
    return 0;
} catch (const std::bad_alloc&) { return 1; }

RT_API int rt_cache_write(int is_bf16, const Shape* s, int64_t rows, In k, int64_t ld_k, In v, int64_t ld_v, const int32_t* pages, const int32_t* places,
                          Mut k_pages, Mut v_pages) {
    if (is_bf16) write_cache(*s, rows, (const bf16*)k, ld_k, (const bf16*)v, ld_v, pages, places, (bf16*)k_pages, (bf16*)v_pages);
    else write_cache(*s, rows, (const float*)k, ld_k, (const float*)v, ld_v, pages, places, (float*)k_pages, (float*)v_pages);
    return 0;
}
