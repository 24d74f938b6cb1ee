// Rows of logits: log-probabilities, entropies, gradients, and drawing tokens. Logits are fp32.
//
// One function sums a row's exponentials, in one order, so that the engine's log-probability of a token equals the
// trainer's bit for bit when the logits do.
#include "common.h"

#include <cmath>
#include <omp.h>

namespace {

constexpr int GROUP = 64;  // entries summed together first, so that a draw searches V / 64 sums and one group

struct Row {
    float top;        // largest logit / temperature
    float total;      // sum of exp(logit / temperature - top)
    float log_total;  // its log
};

inline v16 lanes_of(const float* x, long i, long width, float inverse) {
    if (i + 16 <= width) return load16(x + i) * splat(inverse);
    float out[16];
    for (long j = 0; j < 16; j++) out[j] = i + j < width ? x[i + j] * inverse : -INFINITY;
    return load16(out);
}

inline v16 weight_of(v16 scaled, float top) { return exp2_16((scaled - splat(top)) * splat(LOG2E)); }

// One body for all callers: inlined in several, the compiler would fuse multiplications and additions differently.
#define RT_ONE_BODY __attribute__((noipa))

// groups, if given: room for the sums of each group of 64; mean, if given: the mean of logit / temperature - top.
RT_ONE_BODY Row row_of(const float* x, long width, float inverse, float* groups, float* mean) {
    v16 tops[4] = {splat(-INFINITY), splat(-INFINITY), splat(-INFINITY), splat(-INFINITY)};
    v16 bad = splat(0);
    for (long i = 0; i < width; i += GROUP)
        for (int j = 0; j < 4; j++) {
            v16 v = lanes_of(x, i + 16 * j < width ? i + 16 * j : width, width, inverse);
            tops[j] = vmax(tops[j], v);
            bad = select(v != v, splat(1), bad);
        }
    Row row;
    row.top = max_lanes(vmax(vmax(tops[0], tops[1]), vmax(tops[2], tops[3])));
    if (max_lanes(bad) > 0) row.top = NAN;
    v16 sums[4] = {splat(0), splat(0), splat(0), splat(0)}, means = splat(0);
    for (long i = 0; i < width; i += GROUP) {
        v16 part = splat(0);
        for (int j = 0; j < 4; j++) {
            if (i + 16 * j >= width) break;
            v16 scaled = lanes_of(x, i + 16 * j, width, inverse), w = weight_of(scaled, row.top);
            sums[j] += w;
            part += w;
            // An excluded entry (-infinity) weighs nothing; 0 * infinity would be no number.
            if (mean) means += select(w > splat(0), w * (scaled - splat(row.top)), splat(0));
        }
        if (groups) groups[i / GROUP] = sum_lanes(part);
    }
    row.total = sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
    row.log_total = logf(row.total);
    if (mean) *mean = sum_lanes(means) / row.total;
    return row;
}

RT_ONE_BODY float logprob(const float* x, long token, float inverse, const Row& row) { return (x[token] * inverse - row.top) - row.log_total; }

long draw(const float* x, long width, float inverse, const Row& row, const float* groups, double uniform) {
    const long number = (width + GROUP - 1) / GROUP;
    double all = 0;
    for (long g = 0; g < number; g++) all += groups[g];
    double target = uniform * all, before = 0;
    long g = 0, last_positive = 0;
    for (; g < number; g++) {
        if (groups[g] > 0) last_positive = g;
        if (before + groups[g] > target) break;
        before += groups[g];
    }
    if (g == number) g = last_positive, before = target - groups[g];  // rounding stepped past the end
    const long first = g * GROUP, end = first + GROUP < width ? first + GROUP : width;
    float w[GROUP];
    for (long i = first; i < end; i += 16) store16(w + (i - first), weight_of(lanes_of(x, i, width, inverse), row.top));
    long found = first;
    for (long i = first; i < end; i++) {
        if (w[i - first] <= 0) continue;
        found = i;
        before += w[i - first];
        if (before > target) break;
    }
    return found;
}

}  // namespace

// Log-probabilities of targets, entropies, and log-sum-exps of logits / temperature. Rows of [rows, width], `ld` apart.
RT_API int rt_head_logprobs(const float* logits, int64_t ld, int64_t rows, int64_t width, const int64_t* targets, float inverse, float* logprobs,
                            float* entropies, float* lse) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        const float* x = logits + r * ld;
        float mean = 0;
        Row row = row_of(x, width, inverse, nullptr, entropies ? &mean : nullptr);
        logprobs[r] = logprob(x, targets[r], inverse, row);
        if (entropies) entropies[r] = row.log_total - mean;
        if (lse) lse[r] = row.top + row.log_total;
    }
    return 0;
}

// out = coefficient * (onehot(target) - softmax) / temperature, in bf16 or (in place of the logits) in fp32.
RT_API int rt_head_gradient(const float* logits, int64_t ld, int64_t rows, int64_t width, const int64_t* targets, const float* lse,
                            const float* coefficients, float inverse, int is_bf16, void* out, int64_t ld_out) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        const float* x = logits + r * ld;
        const float scale = coefficients[r] * inverse, p = expf(x[targets[r]] * inverse - lse[r]);
        for (int64_t i = 0; i < width; i += 16) {
            v16 g = exp2_16((lanes_of(x, i, width, inverse) - splat(lse[r])) * splat(LOG2E)) * splat(-scale);
            int64_t left = width - i < 16 ? width - i : 16;
            if (left == 16 && is_bf16) store_bf16((bf16*)out + r * ld_out + i, g);
            else if (left == 16) store16((float*)out + r * ld_out + i, g);
            else {
                float some[16];
                store16(some, g);
                for (int64_t j = 0; j < left; j++)
                    if (is_bf16) ((bf16*)out)[r * ld_out + i + j] = to_bf16(some[j]);
                    else ((float*)out)[r * ld_out + i + j] = some[j];
            }
        }
        const float chosen = scale * (1.0f - p);
        if (is_bf16) ((bf16*)out)[r * ld_out + targets[r]] = to_bf16(chosen);
        else ((float*)out)[r * ld_out + targets[r]] = chosen;
    }
    return 0;
}

// One token a row: by the inverse of the cumulative distribution at `uniforms`, or the most likely one where greedy.
RT_API int rt_sample(const float* logits, int64_t ld, int64_t rows, int64_t width, float inverse, int greedy, const double* uniforms, int64_t* tokens,
                     float* logprobs) try {
    const int64_t number = (width + GROUP - 1) / GROUP;
    static thread_local Buffer memory;
    float* all = memory.get<float>((size_t)rows * number);
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t r = 0; r < rows; r++) {
        const float* x = logits + r * ld;
        float* groups = all + r * number;
        Row row = row_of(x, width, inverse, groups, nullptr);
        if (!(row.total > 0) || std::isinf(row.top)) {  // no distribution: the caller sees it by the log-probability
            tokens[r] = 0;
            logprobs[r] = NAN;
            continue;
        }
        if (greedy) {
            int64_t best = 0;
            for (int64_t i = 0; i < width; i++)
                if (x[i] * inverse == row.top) { best = i; break; }
            tokens[r] = best;
        } else {
            tokens[r] = draw(x, width, inverse, row, groups, uniforms[r]);
        }
        logprobs[r] = logprob(x, tokens[r], inverse, row);
    }
    return 0;
} catch (const std::bad_alloc&) { return 1; }
