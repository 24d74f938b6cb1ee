// How the tiles of a matrix product are cut, packed and given to threads: the same for bf16 and fp32.
#pragma once

#include "common.h"

#include <omp.h>

namespace {

constexpr long BLOCK_BYTES = 384 << 10;  // of packed A that should stay in a core's second-level cache
constexpr long ALONE = 1 << 19;          // products that one thread has done before the others are awake

// Multiplies C[M,N] = A[M,K] B[K,N] in tiles of up to MR rows and one panel of columns, K in blocks. Packed, a row of A is
// one word of four bytes for every PER_WORD entries along K.
//
// pack(row, rows, k0, k, to): rows of A from k0 on, as [words][rows].
// multiply(row, rows, k0, k, from, panel): one tile of C. Blocks of K come in their order.
// Returns false where memory ran out.
template <int MR, int PER_WORD, class Pack, class Multiply>
bool over_tiles(long m, long panels, long k, long k_block, Pack pack, Multiply multiply) {
    const bool together = m * panels * 16 * k > ALONE;
    const long threads = together ? omp_get_max_threads() : 1, tiles = (m + MR - 1) / MR, most_words = (k_block + PER_WORD - 1) / PER_WORD;
    // Rows are spread evenly over the tiles: a short last tile would keep few sums in flight.
    auto start = [&](long t) { return t * m / tiles; };
    long blocks = (tiles * MR * most_words * 4 + BLOCK_BYTES - 1) / BLOCK_BYTES;
    const bool by_rows = tiles >= 2 * threads && blocks > 1;  // many rows: each thread packs and multiplies blocks of its own
    if (by_rows) blocks = (blocks + threads - 1) / threads * threads;
    if (blocks > tiles) blocks = tiles;
    auto first_tile = [&](long block) { return block * tiles / blocks; };
    static thread_local Buffer shared;
    uint32_t* whole = by_rows ? nullptr : shared.get<uint32_t>((size_t)m * most_words);
    bool failed = false;
    for (long k0 = 0; k0 < k; k0 += k_block) {
        const long part = k - k0 < k_block ? k - k0 : k_block, words = (part + PER_WORD - 1) / PER_WORD;
        auto rows = [&](long t) { return (int)(start(t + 1) - start(t)); };
#pragma omp parallel if (together)
        if (by_rows) {
            static thread_local Buffer own;
#pragma omp for schedule(static)
            for (long block = 0; block < blocks; block++) try {
                const long from = first_tile(block), to = first_tile(block + 1);
                uint32_t* packed = own.get<uint32_t>((size_t)(start(to) - start(from)) * words);
                auto at = [&](long t) { return packed + (start(t) - start(from)) * words; };
                for (long t = from; t < to; t++) pack(start(t), rows(t), k0, part, at(t));
                for (long p = 0; p < panels; p++)
                    for (long t = from; t < to; t++) multiply(start(t), rows(t), k0, part, at(t), p);
            } catch (const std::bad_alloc&) { failed = true; }
        } else {
#pragma omp for schedule(static)
            for (long t = 0; t < tiles; t++) pack(start(t), rows(t), k0, part, whole + start(t) * words);
#pragma omp for schedule(static)
            for (long task = 0; task < blocks * panels; task++)
                for (long t = first_tile(task / panels); t < first_tile(task / panels + 1); t++)
                    multiply(start(t), rows(t), k0, part, whole + start(t) * words, task % panels);
        }
    }
    return !failed;
}

}  // namespace
