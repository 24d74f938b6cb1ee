// bf16 matrix products with fp32 sums: C[M,N] = A[M,K] B[K,N], for AVX512-BF16.
//
// Every element of C is one chain of products along K in a fixed order, whatever M is and however the work is cut: a row
// computed among sixty-four is bit-equal to the same row computed among two thousand. The sums never leave fp32 before
// the end, where bias or residual is added.
//
// A is packed into tiles of up to 12 rows, B into panels of 32 columns, both as pairs along K, which is what the
// processor multiplies at once: A [K/2][rows][2], B [N/32][K/2][32][2].
#include "gemm.h"

#ifdef RT_BF16

namespace {

constexpr int MR = 12, NR = 32;
constexpr int AHEAD = 128;  // vectors of B, 8 KiB
constexpr long LONGEST_K = 8192, K_BLOCK = 4096;

enum Out { OUT_BF16 = 0, OUT_F32 = 1, OUT_F32_ADD = 2 };
enum ALayout { A_ROWS_BF16 = 0, A_ROWS_F32 = 1, A_COLS_BF16 = 2, A_COLS_F32 = 3 };

struct Job {
    long m, n, k;  // k: of this K block
    const bf16* bias;
    const float* residual;
    long ld_residual;
    void* out;
    long ld_out;
    int kind;
    bool past_caches;  // a large result goes straight to memory: it would push out what is read again sooner
};

template <int R> inline void multiply(const uint32_t* __restrict a, const __m512i* __restrict b, long pairs, __m512 (&c)[R][2]) {
    for (int r = 0; r < R; r++) c[r][0] = c[r][1] = _mm512_setzero_ps();
    for (long k = 0; k < pairs; k++) {
        __m512bh b0 = (__m512bh)_mm512_loadu_si512(b), b1 = (__m512bh)_mm512_loadu_si512(b + 1);
        // Weights of a few rows come from memory: ask for them ahead of the processor's own guesses.
        _mm_prefetch((const char*)(b + AHEAD), _MM_HINT_T1);
        _mm_prefetch((const char*)(b + AHEAD + 1), _MM_HINT_T1);
        b += 2;
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            __m512bh x = (__m512bh)_mm512_set1_epi32((int)a[r]);
            c[r][0] = _mm512_dpbf16_ps(c[r][0], x, b0);
            c[r][1] = _mm512_dpbf16_ps(c[r][1], x, b1);
        }
        a += R;
    }
}

inline __m512 finished(__m512 x, const Job& job, long row, long first, __mmask16 mask, __m512 bias) {
    if (job.bias) x = _mm512_add_ps(x, bias);
    if (job.residual) x = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, job.residual + row * job.ld_residual + first), x);
    return x;
}

inline __m512 bias_of(const Job& job, long first, __mmask16 mask) {
    if (!job.bias) return _mm512_setzero_ps();
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, job.bias + first)), 16));
}

template <int R> void tile(const uint32_t* a, const __m512i* b, const Job& job, long row, long col) {
    __m512 c[R][2];
    multiply<R>(a, b, (job.k + 1) / 2, c);
    if (job.kind == OUT_BF16 && job.n - col >= NR) {  // whole lines of 32 entries
        const __m512 low = bias_of(job, col, 0xffff), high = bias_of(job, col + 16, 0xffff);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            __m512 x = finished(c[r][0], job, row + r, col, 0xffff, low), y = finished(c[r][1], job, row + r, col + 16, 0xffff, high);
            __m512i line = (__m512i)_mm512_cvtne2ps_pbh(y, x);
            bf16* to = (bf16*)job.out + (row + r) * job.ld_out + col;
            if (job.past_caches) _mm512_stream_si512((__m512i*)to, line);
            else _mm512_storeu_si512(to, line);
        }
        return;
    }
    for (int half = 0; half < 2; half++) {
        const long first = col + 16 * half, left = job.n - first;
        if (left <= 0) break;
        const __mmask16 mask = left >= 16 ? 0xffff : (__mmask16)((1u << left) - 1);
        const __m512 bias = bias_of(job, first, mask);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            __m512 x = finished(c[r][half], job, row + r, first, mask, bias);
            if (job.kind == OUT_BF16) {
                _mm256_mask_storeu_epi16((bf16*)job.out + (row + r) * job.ld_out + first, mask, (__m256i)_mm512_cvtneps_pbh(x));
            } else {
                float* to = (float*)job.out + (row + r) * job.ld_out + first;
                if (job.kind == OUT_F32_ADD) x = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), x);
                _mm512_mask_storeu_ps(to, mask, x);
            }
        }
    }
}

typedef void (*Tile)(const uint32_t*, const __m512i*, const Job&, long, long);
const Tile TILES[MR + 1] = {nullptr, tile<1>, tile<2>, tile<3>, tile<4>, tile<5>, tile<6>, tile<7>, tile<8>, tile<9>, tile<10>, tile<11>, tile<12>};

// 16 rows of 16 dwords become 16 columns; rows may be fewer (the rest reads as zero).
inline void transpose16(__m512i (&x)[16]) {
    __m512i t[16];
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(x[2 * i], x[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(x[2 * i], x[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++) {
        x[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        x[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        x[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        x[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        x[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        x[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        x[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        x[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

inline __m512i pairs_of(const bf16* p, long left) {  // up to 32 values along K, zero behind the end
    __mmask32 mask = left >= 32 ? ~0u : left <= 0 ? 0u : (1u << left) - 1;
    return _mm512_maskz_loadu_epi16(mask, p);
}

inline __m512i pairs_of(const float* p, long left) {
    __mmask16 low = left >= 16 ? 0xffff : left <= 0 ? 0 : (__mmask16)((1u << left) - 1);
    __mmask16 high = left >= 32 ? 0xffff : left <= 16 ? 0 : (__mmask16)((1u << (left - 16)) - 1);
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(high, p + 16), _mm512_maskz_loadu_ps(low, p));
}

// Rows whose K runs along memory, packed as [K/2][rows][2].
template <class T> void pack_rows(const T* a, long ld, int rows, long k, uint32_t* out, int stride) {
    __mmask16 mask = rows >= 16 ? 0xffff : (__mmask16)((1u << rows) - 1);
    for (long first = 0; first < k; first += 32) {
        __m512i x[16];
        for (int r = 0; r < 16; r++) x[r] = r < rows ? pairs_of(a + r * ld + first, k - first) : _mm512_setzero_si512();
        transpose16(x);
        long pairs = (k - first + 1) / 2;
        for (int i = 0; i < (pairs < 16 ? pairs : 16); i++) _mm512_mask_storeu_epi32(out + (first / 2 + i) * stride, mask, x[i]);
    }
}

inline __m512i row_of(const bf16* p, __mmask16 mask) { return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p)); }
inline __m512i row_of(const float* p, __mmask16 mask) {
    __m256bh y = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, p));
    __m256i z;
    __builtin_memcpy(&z, &y, 32);
    return _mm512_cvtepu16_epi32(z);
}

// Columns whose K runs across memory rows: up to 16 of them, packed as [K/2][columns][2].
template <class T> void pack_cols(const T* a, long ld, int cols, long k, uint32_t* out, int stride) {
    __mmask16 mask = cols >= 16 ? 0xffff : (__mmask16)((1u << cols) - 1);
    for (long i = 0; i < k; i += 2) {
        __m512i even = row_of(a + i * ld, mask);
        __m512i odd = i + 1 < k ? row_of(a + (i + 1) * ld, mask) : _mm512_setzero_si512();
        _mm512_mask_storeu_epi32(out + i / 2 * stride, mask, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
    }
}

// A whole panel of 32 columns: full cache lines are read and written.
inline void pack_panel(const bf16* a, long ld, long k, uint32_t* out) {
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    for (long i = 0; i < k; i += 2) {
        __m512i even = _mm512_loadu_si512(a + i * ld);
        __m512i odd = i + 1 < k ? _mm512_loadu_si512(a + (i + 1) * ld) : _mm512_setzero_si512();
        _mm512_storeu_si512(out + i / 2 * NR, _mm512_permutex2var_epi16(even, low, odd));
        _mm512_storeu_si512(out + i / 2 * NR + 16, _mm512_permutex2var_epi16(even, high, odd));
    }
}

void pack_a(int layout, const void* a, long ld, long row, int rows, long k0, long k, uint32_t* out) {
    switch (layout) {
        case A_ROWS_BF16: return pack_rows((const bf16*)a + row * ld + k0, ld, rows, k, out, rows);
        case A_ROWS_F32: return pack_rows((const float*)a + row * ld + k0, ld, rows, k, out, rows);
        case A_COLS_BF16: return pack_cols((const bf16*)a + k0 * ld + row, ld, rows, k, out, rows);
        default: return pack_cols((const float*)a + k0 * ld + row, ld, rows, k, out, rows);
    }
}

}  // namespace

// Entries of a packed B.
RT_API long rt_packed_bf16(long n, long k) { return (n + NR - 1) / NR * ((k + 1) / 2) * NR * 2; }

// Pack B. transposed: the source is [N][K] (a weight of `x @ W.T`); otherwise [K][N].
RT_API void rt_pack_b(const bf16* source, long n, long k, long ld, int transposed, bf16* out) {
    long panels = (n + NR - 1) / NR, pairs = (k + 1) / 2;
#pragma omp parallel for schedule(static) if (n * k > ALONE / 8)
    for (long p = 0; p < panels; p++) {
        uint32_t* to = (uint32_t*)out + p * pairs * NR;
        for (int half = 0; half < 2; half++) {
            long first = p * NR + 16 * half, left = n - first;
            int count = left >= 16 ? 16 : left < 0 ? 0 : (int)left;
            uint32_t* part = to + 16 * half;
            if (!half && !transposed && left >= NR) {
                pack_panel(source + first, ld, k, to);
                break;
            }
            if (count < 16)
                for (long i = 0; i < pairs; i++) memset(part + i * NR, 0, 64);
            if (!count) continue;
            if (transposed) pack_rows(source + first * ld, ld, count, k, part, NR);
            else pack_cols(source + first, ld, count, k, part, NR);
        }
    }
}

// C = A B (+ bias) (+ residual), or C += A B.
//
// a_layout: A as [M][K] or as [K][M], in bf16 or fp32. kind: C in bf16, in fp32, or added to fp32.
// K is cut only where it is very long (then C must be fp32, without bias): each element still sums in one fixed order.
RT_API int rt_gemm(int a_layout, const void* a, long ld_a, long m, long k, const bf16* packed_b, long n, const bf16* bias,
                   const float* residual, long ld_residual, int kind, void* out, long ld_out) try {
    if (m <= 0 || n <= 0) return 0;
    const long panels = (n + NR - 1) / NR, all_pairs = (k + 1) / 2;
    const long k_block = k > LONGEST_K && kind != OUT_BF16 ? K_BLOCK : k;
    const bool past_caches = kind == OUT_BF16 && n % NR == 0 && ld_out % NR == 0 && (uintptr_t)out % 64 == 0 && m * n > (4 << 20);
    const bool done = over_tiles<MR, 2>(
        m, panels, k, k_block, [&](long row, int rows, long k0, long part, uint32_t* to) { pack_a(a_layout, a, ld_a, row, rows, k0, part, to); },
        [&](long row, int rows, long k0, long part, const uint32_t* from, long panel) {
            Job job{m, n, part, bias, residual, ld_residual, out, ld_out, kind, past_caches};
            if (k0) { job.kind = OUT_F32_ADD; job.residual = nullptr; job.bias = nullptr; }
            TILES[rows](from, (const __m512i*)packed_b + (panel * all_pairs + k0 / 2) * 2, job, row, panel * NR);
        });
    return done ? 0 : 1;
} catch (const std::bad_alloc&) { return 1; }

#endif
