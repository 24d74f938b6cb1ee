// Blocks of sixteen vectors, which attention reads forward and backward: their layouts, products with them, and pieces of
// runs.
//
// Keys come in blocks of sixteen, aligned to their position in the sequence. A query's score with a key is one chain of
// products along the head; its weighted sum over the values is one chain along the positions, 0 first. Neither depends on
// what else is computed, so the trainer (blocks gathered from a packed row) and the engine (blocks of its cache) get equal
// bits.
//
// Two layouts of a block of 16 vectors of size D, so that sixteen sums advance at once:
//   dot: [D/2][16][2] bf16 or [D][16] fp32     for scores   (a row's product with each of the sixteen)
//   sum: [8][D][2] bf16 or [16][D] fp32        for outputs  (a weighted sum of the sixteen)
#pragma once

#include "attention.h"
#include "common.h"

#ifdef RT_BF16
#define RT_EITHER(call16, call32) (is_bf16 ? (void)(call16) : (void)(call32))
#else
#define RT_EITHER(call16, call32) (call32)
#endif

typedef const void* In;
typedef void* Mut;

namespace {

constexpr int BLOCK = 16, ROWS = 8;
#ifdef __AVX512F__
constexpr int SUMS = 16;  // vectors of sixteen that are summed at once, in 32 registers of sixteen
#else
constexpr int SUMS = 4;  // in 16 registers of eight
#endif

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
    v16 acc[R][U];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int u = 0; u < U; u++) acc[r][u] = splat(0);
    for (int i = 0; i < size; i++) {
        v16 b[U];
#pragma GCC unroll 8
        for (int u = 0; u < U; u++) b[u] = load16(blocks[u] + i * BLOCK);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 8
            for (int u = 0; u < U; u++) acc[r][u] += splat(rows[r * ld + i]) * b[u];
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int u = 0; u < U; u++) out[r][u] = acc[r][u];
}

template <int R, int C, class Blocks>
inline void weigh(const float* weights, long ld, Blocks blocks, long number, int size, int d0, float* out, long ld_out) {
    v16 acc[R][C];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) acc[r][c] = load16(out + r * ld_out + d0 + 16 * c);
    for (long b = 0; b < number; b++) {
        const float* block = blocks(b) + d0;
        for (int i = 0; i < BLOCK; i++) {
            v16 v[C];
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) v[c] = load16(block + (long)i * size + 16 * c);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++)
#pragma GCC unroll 8
                for (int c = 0; c < C; c++) acc[r][c] += splat(weights[r * ld + b * BLOCK + i]) * v[c];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) store16(out + r * ld_out + d0 + 16 * c, acc[r][c]);
}

// A few rows at a time, so that the sums stay in registers; up to four vectors of the head at a time.
template <int R, class T, class Blocks>
inline void weigh_columns(const T* weights, long ld, Blocks blocks, long number, int size, float* out, long ld_out) {
    int d0 = 0;
    if constexpr (R * 4 <= SUMS)
        for (; d0 + 64 <= size; d0 += 64) weigh<R, 4>(weights, ld, blocks, number, size, d0, out, ld_out);
    if constexpr (R * 2 <= SUMS)
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
    constexpr bool MANY = SUMS > 4;
    for (; rows - done >= 4; done += 4) dot_blocks<4, MANY ? 2 : 1>(x + done * ld, ld, blocks, number, size, shifted);
    if (rows - done == 3) return dot_blocks<3, MANY ? 4 : 1>(x + done * ld, ld, blocks, number, size, shifted);
    if (rows - done == 2) return dot_blocks<2, MANY ? 4 : 2>(x + done * ld, ld, blocks, number, size, shifted);
    if (rows - done == 1) return dot_blocks<1, 4>(x + done * ld, ld, blocks, number, size, shifted);
}

// Pages lie anywhere in memory: ask for a block some time before it is read.
template <class T> inline void prefetch(const T* block, int size) {
    for (long i = 0; i < BLOCK * size * (long)sizeof(T); i += 64) __builtin_prefetch((const char*)block + i);
}

#ifdef __AVX512F__
const v16i LANES = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#else
const v16i LANES = {{0, 1, 2, 3, 4, 5, 6, 7}, {8, 9, 10, 11, 12, 13, 14, 15}};
#endif

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

}  // namespace
