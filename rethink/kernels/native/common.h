// What the native kernels share: bf16, sixteen-wide vectors, exp2, buffers.
//
// Vectors are GCC's vector extension, so that the same code compiles for AVX2 and AVX-512; only the bf16 products use
// intrinsics (AVX512-BF16), and are left out where the processor has none. On AVX2 a vector of sixteen is two of eight:
// GCC keeps one that no register holds in memory. Lanes have the same sums either way.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__AVX512BF16__) && defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define RT_BF16 1
#include <immintrin.h>
#endif

#define RT_API extern "C" __attribute__((visibility("default")))

typedef uint16_t bf16;
#ifdef __AVX512F__
typedef float v16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t v16i __attribute__((vector_size(64), aligned(4), may_alias));

static inline v16 splat(float x) { return v16{} + x; }
static inline v16i splat_int(int32_t x) { return v16i{} + x; }
static inline v16 select(v16i mask, v16 a, v16 b) { return mask ? a : b; }
static inline v16i bits_of(v16 x) { return (v16i)x; }
static inline v16 of_bits(v16i x) { return (v16)x; }
static inline v16 load16(const float* p) { v16 v; __builtin_memcpy(&v, p, 64); return v; }
static inline void store16(float* p, v16 v) { __builtin_memcpy(p, &v, 64); }
#else
typedef float v8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t v8i __attribute__((vector_size(32), aligned(4), may_alias));
struct v16 { v8 low, high; };
struct v16i { v8i low, high; };

#define RT_BY_HALVES(result, type, op) \
    static inline result operator op(type a, type b) { return {a.low op b.low, a.high op b.high}; }
RT_BY_HALVES(v16, v16, +)
RT_BY_HALVES(v16, v16, -)
RT_BY_HALVES(v16, v16, *)
RT_BY_HALVES(v16, v16, /)
RT_BY_HALVES(v16i, v16, <)
RT_BY_HALVES(v16i, v16, >)
RT_BY_HALVES(v16i, v16, !=)
RT_BY_HALVES(v16i, v16i, +)
RT_BY_HALVES(v16i, v16i, -)
RT_BY_HALVES(v16i, v16i, |)
RT_BY_HALVES(v16i, v16i, &)
RT_BY_HALVES(v16i, v16i, <)
RT_BY_HALVES(v16i, v16i, >)
RT_BY_HALVES(v16i, v16i, >=)
#undef RT_BY_HALVES
static inline v16i operator<<(v16i a, int by) { return {a.low << by, a.high << by}; }
static inline v16i operator>>(v16i a, int by) { return {a.low >> by, a.high >> by}; }
static inline v16& operator+=(v16& a, v16 b) { return a = a + b; }

static inline v16 splat(float x) {
    const v8 all = {x, x, x, x, x, x, x, x};
    return {all, all};
}
static inline v16i splat_int(int32_t x) { return {v8i{} + x, v8i{} + x}; }
static inline v16 select(v16i mask, v16 a, v16 b) { return {mask.low ? a.low : b.low, mask.high ? a.high : b.high}; }
static inline v16i bits_of(v16 x) { return {(v8i)x.low, (v8i)x.high}; }
static inline v16 of_bits(v16i x) { return {(v8)x.low, (v8)x.high}; }
static inline v16 load16(const float* p) { return {*(const v8*)p, *(const v8*)(p + 8)}; }
static inline void store16(float* p, v16 v) { *(v8*)p = v.low, *(v8*)(p + 8) = v.high; }
#endif

static inline float from_bf16(bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float out;
    __builtin_memcpy(&out, &bits, 4);
    return out;
}

// Round to nearest, ties to even; a NaN stays one.
static inline bf16 to_bf16(float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (bf16)((bits >> 16) | 0x40);
    return (bf16)((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

static inline v16 vmax(v16 a, v16 b) { return select(a > b, a, b); }

static inline float sum_lanes(v16 v) {
    float s[16];
    store16(s, v);
    for (int width = 8; width; width >>= 1)
        for (int i = 0; i < width; i++) s[i] += s[i + width];
    return s[0];
}

static inline float max_lanes(v16 v) {
    float s[16];
    store16(s, v);
    for (int width = 8; width; width >>= 1)
        for (int i = 0; i < width; i++) s[i] = s[i] > s[i + width] ? s[i] : s[i + width];
    return s[0];
}

// 2^x, relative error below 3e-7; 0 below -126 (also for -infinity), NaN stays NaN. x must be at most 127.
static inline v16 exp2_16(v16 x) {
    const v16 magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to the nearest integer
    v16i tiny = x < splat(-126.0f);
    v16 clipped = select(tiny, splat(-126.0f), x);
    v16 shifted = clipped + magic;
    v16 f = clipped - (shifted - magic);
    v16 p = splat(1.5403530e-4f);
    p = p * f + splat(1.3333558e-3f);
    p = p * f + splat(9.6181291e-3f);
    p = p * f + splat(5.5504109e-2f);
    p = p * f + splat(2.4022651e-1f);
    p = p * f + splat(6.9314718e-1f);
    p = p * f + splat(1.0f);
    v16 out = of_bits(bits_of(p) + (bits_of(shifted) << 23));
    return select(tiny, splat(0.0f), out);
}

static const float LOG2E = 1.4426950408889634f;
static const float LN2 = 0.6931471805599453f;

static inline v16 load_bf16(const bf16* p) {
#ifdef RT_BF16
    __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16);
    return (v16)wide;
#else
    float out[16];
    for (int i = 0; i < 16; i++) out[i] = from_bf16(p[i]);
    return load16(out);
#endif
}

static inline void store_bf16(bf16* p, v16 v) {
#ifdef RT_BF16
    _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh((__m512)v));
#else
    float x[16];
    store16(x, v);
    for (int i = 0; i < 16; i++) p[i] = to_bf16(x[i]);
#endif
}

static inline v16 load_any(const float* p) { return load16(p); }
static inline v16 load_any(const bf16* p) { return load_bf16(p); }
static inline void store_any(float* p, v16 v) { store16(p, v); }
static inline void store_any(bf16* p, v16 v) { store_bf16(p, v); }
static inline float value(float x) { return x; }
static inline float value(bf16 x) { return from_bf16(x); }
static inline void put(float& to, float x) { to = x; }
static inline void put(bf16& to, float x) { to = to_bf16(x); }

// Sixteen values of a row, or what is left of it (the rest reads as zero).
template <class T> static inline v16 some(const T* p, long left) {
    if (left >= 16) return load_any(p);
    float out[16] = {0};
    for (long i = 0; i < left; i++) out[i] = value(p[i]);
    return load16(out);
}

template <class T> static inline void keep(T* p, v16 v, long left) {
    if (left >= 16) return store_any(p, v);
    float x[16];
    store16(x, v);
    for (long i = 0; i < left; i++) put(p[i], x[i]);
}

// A block of memory that grows and is kept by its thread; 64-byte aligned.
struct Buffer {
    char* data = nullptr;
    size_t size = 0;
    ~Buffer() { free(data); }
    template <class T> T* get(size_t count) {
        size_t bytes = (count * sizeof(T) + 127) & ~(size_t)63;
        if (bytes > size) {
            free(data);
            data = (char*)aligned_alloc(64, bytes);
            if (!data) { size = 0; throw std::bad_alloc(); }
            size = bytes;
        }
        return (T*)data;
    }
};
