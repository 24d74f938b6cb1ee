// Attention over trees of sequences: prompts shared by their completions, for training (over packed rows; backward in
// attention_backward.cpp) and for decoding (over a paged cache). bf16 with AVX512-BF16, fp32 everywhere else; sums are fp32.
#include "attention_blocks.h"

#include <cmath>
#include <omp.h>

namespace {

constexpr int AHEAD = 12;  // blocks that are asked for before they are read

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
                    if (limit < BLOCK - 1) x = select(LANES > splat_int(limit), splat(-INFINITY), x);
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

RT_API int rt_cache_write(int is_bf16, const Shape* s, int64_t rows, In k, int64_t ld_k, In v, int64_t ld_v, const int32_t* pages, const int32_t* places,
                          Mut k_pages, Mut v_pages) {
    if (is_bf16) write_cache(*s, rows, (const bf16*)k, ld_k, (const bf16*)v, ld_v, pages, places, (bf16*)k_pages, (bf16*)v_pages);
    else write_cache(*s, rows, (const float*)k, ld_k, (const float*)v, ld_v, pages, places, (float*)k_pages, (float*)v_pages);
    return 0;
}
