// fp32 matrix products: C[M,N] = A[M,K] B[K,N].
//
// Every element of C is the sum over blocks of K of chains of fused products, in a fixed order, whatever M is and however
// the work is cut: a row computed among sixty-four is bit-equal to the same row computed among two thousand.
//
// A is packed into tiles of up to MR rows, B into panels of NR columns: A [K][rows], B [N/NR][K][NR].
#include "gemm.h"

namespace {

#ifdef __AVX512F__
constexpr int MR = 12, VECTORS = 2;
#else
constexpr int MR = 6, VECTORS = 1;  // twelve sums of eight, in sixteen registers
#endif
constexpr int NR = 16 * VECTORS;
constexpr int AHEAD = 64;      // rows of a panel
constexpr long K_BLOCK = 768;  // a panel of so many rows, 48 KiB on AVX2, stays in the second-level cache; longer chains round worse

struct Job {
    long n, k;  // k: of this K block
    const float* bias;
    const float* residual;
    long ld_residual;
    float* out;
    long ld_out;
    bool add;
};

template <int R> inline void multiply(const float* __restrict a, const float* __restrict b, long k, v16 (&out)[R][VECTORS]) {
    v16 c[R][VECTORS];
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int u = 0; u < VECTORS; u++) c[r][u] = splat(0);
    for (long i = 0; i < k; i++) {
        v16 x[VECTORS];
#pragma GCC unroll 2
        for (int u = 0; u < VECTORS; u++) {
            x[u] = load16(b + 16 * u);
            // Weights of a few rows come from memory: ask for them ahead of the processor's own guesses.
            __builtin_prefetch(b + AHEAD * NR + 16 * u, 0, 2);
        }
        b += NR;
#pragma GCC unroll 12
        for (int r = 0; r < R; r++)
#pragma GCC unroll 2
            for (int u = 0; u < VECTORS; u++) c[r][u] += splat(a[r]) * x[u];
        a += R;
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int u = 0; u < VECTORS; u++) out[r][u] = c[r][u];
}

template <int R> void tile(const float* a, const float* b, const Job& job, long row, long col) {
    v16 c[R][VECTORS];
    multiply<R>(a, b, job.k, c);
    for (int u = 0; u < VECTORS; u++) {
        const long first = col + 16 * u, left = job.n - first;
        if (left <= 0) break;
        const v16 bias = job.bias ? some(job.bias + first, left) : splat(0);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            float* to = job.out + (row + r) * job.ld_out + first;
            v16 x = c[r][u];
            if (job.bias) x = x + bias;
            if (job.residual) x = some(job.residual + (row + r) * job.ld_residual + first, left) + x;
            if (job.add) x = some(to, left) + x;
            keep(to, x, left);
        }
    }
}

typedef void (*Tile)(const float*, const float*, const Job&, long, long);
#ifdef __AVX512F__
const Tile TILES[MR + 1] = {nullptr, tile<1>, tile<2>, tile<3>, tile<4>, tile<5>, tile<6>, tile<7>, tile<8>, tile<9>, tile<10>, tile<11>, tile<12>};
#else
const Tile TILES[MR + 1] = {nullptr, tile<1>, tile<2>, tile<3>, tile<4>, tile<5>, tile<6>};
#endif

// Rows whose K runs along memory become [K][rows], `stride` apart.
inline void pack_rows(const float* a, long ld, int rows, long k, float* out, int stride) {
    for (long i = 0; i < k; i++)
        for (int r = 0; r < rows; r++) out[i * stride + r] = a[r * ld + i];
}

// Columns whose K runs across memory rows.
inline void pack_cols(const float* a, long ld, int cols, long k, float* out, int stride) {
    for (long i = 0; i < k; i++) memcpy(out + i * stride, a + i * ld, cols * sizeof(float));
}

}  // namespace

// Entries of a packed B.
RT_API long rt_packed_f32(long n, long k) { return (n + NR - 1) / NR * NR * k; }

// Pack B. transposed: the source is [N][K] (a weight of `x @ W.T`); otherwise [K][N].
RT_API void rt_pack_b_f32(const float* source, long n, long k, long ld, int transposed, float* out) {
    const long panels = (n + NR - 1) / NR;
#pragma omp parallel for schedule(static) if (n * k > ALONE / 8)
    for (long p = 0; p < panels; p++) {
        float* to = out + p * k * NR;
        const long first = p * NR, left = n - first;
        const int count = left < NR ? (int)left : NR;
        if (count < NR) memset(to, 0, (size_t)k * NR * sizeof(float));
        if (transposed) pack_rows(source + first * ld, ld, count, k, to, NR);
        else pack_cols(source + first, ld, count, k, to, NR);
    }
}

// C = A B (+ bias) (+ residual), or C += A B. columns: A as [K][M] instead of [M][K].
RT_API int rt_gemm_f32(int columns, const float* a, long ld_a, long m, long k, const float* packed_b, long n, const float* bias,
                       const float* residual, long ld_residual, int add, float* out, long ld_out) try {
    if (m <= 0 || n <= 0) return 0;
    const bool done = over_tiles<MR, 1>(
        m, (n + NR - 1) / NR, k, K_BLOCK,
        [&](long row, int rows, long k0, long part, uint32_t* to) {
            if (columns) pack_cols(a + k0 * ld_a + row, ld_a, rows, part, (float*)to, rows);
            else pack_rows(a + row * ld_a + k0, ld_a, rows, part, (float*)to, rows);
        },
        [&](long row, int rows, long k0, long part, const uint32_t* from, long panel) {
            const Job job{n, part, k0 ? nullptr : bias, k0 ? nullptr : residual, ld_residual, out, ld_out, add || k0};
            TILES[rows]((const float*)from, packed_b + (panel * k + k0) * NR, job, row, panel * NR);
        });
    return done ? 0 : 1;
} catch (const std::bad_alloc&) { return 1; }
