// AdamW on fp32 weights, whole or as a bf16 model's weight and the 16 bits that rounding took from it.
#include "common.h"

#include <cmath>

namespace {

#ifdef __AVX512F__
typedef int16_t h16 __attribute__((vector_size(32), aligned(2), may_alias));
#else
typedef int16_t h8 __attribute__((vector_size(16), aligned(2), may_alias));
#endif

struct Constants { float scale, keep, mean_share, square_keep, step, spread, epsilon; };

inline float joined(bf16 weight, int16_t low) {
    const uint32_t bits = ((uint32_t)weight << 16) + (uint32_t)(int32_t)low;
    float out;
    __builtin_memcpy(&out, &bits, 4);
    return out;
}

inline void put_apart(float x, bf16& weight, int16_t& low) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, 4);
    const uint32_t upper = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
    const int32_t rest = (int32_t)(bits - (upper << 16));
    weight = (bf16)upper;
    low = (int16_t)(rest > 0x7fff ? 0x7fff : rest);
}

inline v16i widened(const int16_t* p) {
#ifdef __AVX512F__
    h16 x;
    __builtin_memcpy(&x, p, 32);
    return __builtin_convertvector(x, v16i);
#else
    h8 x, y;
    __builtin_memcpy(&x, p, 16);
    __builtin_memcpy(&y, p + 8, 16);
    return {__builtin_convertvector(x, v8i), __builtin_convertvector(y, v8i)};
#endif
}

inline void narrow(int16_t* p, v16i x) {
#ifdef __AVX512F__
    const h16 y = __builtin_convertvector(x, h16);
    __builtin_memcpy(p, &y, 32);
#else
    const h8 low = __builtin_convertvector(x.low, h8), high = __builtin_convertvector(x.high, h8);
    __builtin_memcpy(p, &low, 16);
    __builtin_memcpy(p + 8, &high, 16);
#endif
}

inline v16 joined16(const bf16* weight, const int16_t* low) {
    return of_bits((widened((const int16_t*)weight) << 16) + widened(low));
}

inline void put_apart16(v16 x, bf16* weight, int16_t* low) {
    const v16i bits = bits_of(x), most = splat_int(0x7fff);
    const v16i upper = (bits + most + ((bits >> 16) & splat_int(1))) >> 16, rest = bits - (upper << 16);
    narrow((int16_t*)weight, upper);
    narrow(low, bits_of(select(rest > most, of_bits(most), of_bits(rest))));
}

inline v16 root(v16 x) {
    float out[16];
    store16(out, x);
    for (int i = 0; i < 16; i++) out[i] = sqrtf(out[i]);
    return load16(out);
}

// One update of 16 entries; the new weights.
inline v16 updated16(v16 w, float* gradient, float* mean, float* square, const Constants& c) {
    const v16 g = load16(gradient) * splat(c.scale), before = load16(mean);
    const v16 m = before + splat(c.mean_share) * (g - before);
    const v16 s = splat(c.square_keep) * load16(square) + splat(1 - c.square_keep) * g * g;
    store16(gradient, splat(0));
    store16(mean, m);
    store16(square, s);
    return w * splat(c.keep) - splat(c.step) * m / (root(s) / splat(c.spread) + splat(c.epsilon));
}

inline float updated(float w, float& gradient, float& mean, float& square, const Constants& c) {
    const float g = gradient * c.scale;
    mean = mean + c.mean_share * (g - mean);
    square = c.square_keep * square + (1 - c.square_keep) * g * g;
    gradient = 0;
    return w * c.keep - c.step * mean / (sqrtf(square) / c.spread + c.epsilon);
}

}  // namespace

// low: of a bf16 weight; null where the weight is fp32.
RT_API int rt_adamw(void* weight, int16_t* low, float* gradient, float* mean, float* square, int64_t count, float scale, float keep,
                    float mean_share, float square_keep, float step, float spread, float epsilon) {
    const Constants c{scale, keep, mean_share, square_keep, step, spread, epsilon};
    const int64_t whole = count / 16;
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < whole; block++) {
        const int64_t i = 16 * block;
        const v16 w = low ? joined16((bf16*)weight + i, low + i) : load16((float*)weight + i);
        const v16 to = updated16(w, gradient + i, mean + i, square + i, c);
        if (low) put_apart16(to, (bf16*)weight + i, low + i);
        else store16((float*)weight + i, to);
    }
    for (int64_t i = 16 * whole; i < count; i++) {
        const float w = low ? joined(((bf16*)weight)[i], low[i]) : ((float*)weight)[i];
        const float to = updated(w, gradient[i], mean[i], square[i], c);
        if (low) put_apart(to, ((bf16*)weight)[i], low[i]);
        else ((float*)weight)[i] = to;
    }
    return 0;
}
