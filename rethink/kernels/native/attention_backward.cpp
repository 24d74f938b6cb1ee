// Gradients of attention over trees of sequences: those of queries as the forward pass goes, those of keys and values over
// the rows that see them.
#include "attention_blocks.h"

#include <omp.h>

namespace {

constexpr int BACK_BLOCKS = 32;  // blocks of queries whose weights exist at once

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
                    if (limit < BLOCK - 1) p = select(LANES > splat_int(limit), splat(0), p);
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
                            v16i lane = LANES + splat_int(row);
                            if (row < tile.row + from + r || row + BLOCK > tile.end)
                                p = select((lane < splat_int(tile.row + from + r)) | (lane >= splat_int(tile.end)), splat(0), p);
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

}  // namespace

RT_API int rt_attention_backward(int is_bf16, const Shape* s, const Runs* runs, const int32_t* segments, int64_t n_segments, const int32_t* source,
                                 int64_t n_blocks, int64_t rows, In q, int64_t ld_q, In k, int64_t ld_k, In v, int64_t ld_v, In out, const float* lse,
                                 In grad, Mut grad_q, int64_t ld_gq, Mut grad_k, int64_t ld_gk, Mut grad_v, int64_t ld_gv) try {
    RT_EITHER(backward(*s, *runs, segments, n_segments, source, n_blocks, rows, (const bf16*)q, ld_q, (const bf16*)k, ld_k, (const bf16*)v, ld_v,
                       (const bf16*)out, lse, (const bf16*)grad, (bf16*)grad_q, ld_gq, (bf16*)grad_k, ld_gk, (bf16*)grad_v, ld_gv),
              backward(*s, *runs, segments, n_segments, source, n_blocks, rows, (const float*)q, ld_q, (const float*)k, ld_k, (const float*)v, ld_v,
                       (const float*)out, lse, (const float*)grad, (float*)grad_q, ld_gq, (float*)grad_k, ld_gk, (float*)grad_v, ld_gv));
    return 0;
} catch (const std::bad_alloc&) { return 1; }
