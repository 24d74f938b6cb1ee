// The operations between the matrix products: RMSNorm, rotary embedding, SwiGLU; forward and backward.
#include "common.h"

#include <cmath>
#include <omp.h>

namespace {

template <class T> void rms_norm(const float* x, const float* weight, float epsilon, long rows, long width, T* out, float* scale) {
#pragma omp parallel for schedule(static)
    for (long t = 0; t < rows; t++) {
        const float* row = x + t * width;
        v16 squares = splat(0);
        long i = 0;
        for (; i + 16 <= width; i += 16) { v16 v = load16(row + i); squares += v * v; }
        float sum = sum_lanes(squares);
        for (; i < width; i++) sum += row[i] * row[i];
        const float factor = 1.0f / sqrtf(sum / width + epsilon);
        scale[t] = factor;
        for (i = 0; i + 16 <= width; i += 16) store_any(out + t * width + i, load16(row + i) * splat(factor) * load16(weight + i));
        for (; i < width; i++) put(out[t * width + i], row[i] * factor * weight[i]);
    }
}

// The weight's gradient is added to.
template <class T>
void rms_norm_backward(const float* x, const float* weight, const float* scale, const T* grad, long rows, long width, float* grad_x,
                       float* grad_weight) {
    static thread_local Buffer memory;
    const int threads = omp_get_max_threads();
    float* partial = memory.get<float>((size_t)threads * width);
    memset(partial, 0, (size_t)threads * width * sizeof(float));
    // Rows are dealt in fixed shares, so that the sums depend on the number of threads alone.
#pragma omp parallel for schedule(static, 1)
    for (int share = 0; share < threads; share++) {
        float* sums = partial + (long)share * width;
        for (long t = rows * share / threads; t < rows * (share + 1) / threads; t++) {
            const float* row = x + t * width;
            const T* up = grad + t * width;
            const v16 factor = splat(scale[t]);
            v16 dots = splat(0);
            long i = 0;
            for (; i + 16 <= width; i += 16) {
                v16 unit = load16(row + i) * factor, g = load_any(up + i);
                store16(sums + i, load16(sums + i) + g * unit);
                dots += g * load16(weight + i) * unit;
            }
            float dot = sum_lanes(dots);
            for (long j = i; j < width; j++) {
                float unit = row[j] * scale[t], g = value(up[j]);
                sums[j] += g * unit;
                dot += g * weight[j] * unit;
            }
            const float mean = dot / width;
            for (i = 0; i + 16 <= width; i += 16) {
                v16 unit = load16(row + i) * factor;
                v16 out = (load_any(up + i) * load16(weight + i) - unit * splat(mean)) * factor;
                store16(grad_x + t * width + i, out);
            }
            for (; i < width; i++) {
                grad_x[t * width + i] = (value(up[i]) * weight[i] - row[i] * scale[t] * mean) * scale[t];
            }
        }
    }
    for (int share = 0; share < threads; share++)
        for (long i = 0; i < width; i++) grad_weight[i] += partial[(long)share * width + i];
}

inline v16 sigmoid(v16 x) {
    v16 power = x * splat(-LOG2E);
    v16i none = power > splat(126.0f);
    v16 s = splat(1.0f) / (splat(1.0f) + exp2_16(select(none, splat(0.0f), power)));
    return select(none, splat(0.0f), s);
}

template <class T> void swiglu(const T* gate_up, long rows, long width, T* out) {
#pragma omp parallel for schedule(static)
    for (long t = 0; t < rows; t++) {
        const T *gate = gate_up + t * 2 * width, *up = gate + width;
        for (long i = 0; i < width; i += 16) {
            v16 g = some(gate + i, width - i);
            keep(out + t * width + i, g * sigmoid(g) * some(up + i, width - i), width - i);
        }
    }
}

template <class T> void swiglu_backward(const T* gate_up, const T* grad, long rows, long width, T* out) {
#pragma omp parallel for schedule(static)
    for (long t = 0; t < rows; t++) {
        const T *gate = gate_up + t * 2 * width, *up = gate + width;
        T *to_gate = out + t * 2 * width, *to_up = to_gate + width;
        for (long i = 0; i < width; i += 16) {
            const long left = width - i;
            v16 g = some(gate + i, left), u = some(up + i, left), d = some(grad + t * width + i, left);
            v16 s = sigmoid(g), silu = g * s;
            keep(to_up + i, d * silu, left);
            keep(to_gate + i, (s + silu * (splat(1.0f) - s)) * d * u, left);  // d silu(x) / dx = s + silu (1 - s)
        }
    }
}

template <class T>
void rotate(const T* x, long ld, long rows, long heads, long size, const float* cos, const float* sin, float direction, T* out, long ld_out) {
    const long half = size / 2;
#pragma omp parallel for schedule(static)
    for (long t = 0; t < rows; t++)
        for (long h = 0; h < heads; h++) {
            const T* from = x + t * ld + h * size;
            T* to = out + t * ld_out + h * size;
            for (long i = 0; i < half; i += 16) {
                const long left = half - i;
                v16 c = some(cos + t * size + i, left), s = some(sin + t * size + i, left) * splat(direction);
                v16 a = some(from + i, left), b = some(from + half + i, left);
                keep(to + i, a * c - b * s, left);
                keep(to + half + i, b * c + a * s, left);
            }
        }
}

}  // namespace

typedef const void* In;
typedef void* Mut;

RT_API int rt_rms_norm(int is_bf16, const float* x, const float* weight, float epsilon, int64_t rows, int64_t width, Mut out, float* scale) {
    if (is_bf16) rms_norm(x, weight, epsilon, rows, width, (bf16*)out, scale);
    else rms_norm(x, weight, epsilon, rows, width, (float*)out, scale);
    return 0;
}

RT_API int rt_rms_norm_backward(int is_bf16, const float* x, const float* weight, const float* scale, In grad, int64_t rows, int64_t width,
                                float* grad_x, float* grad_weight) try {
    if (is_bf16) rms_norm_backward(x, weight, scale, (const bf16*)grad, rows, width, grad_x, grad_weight);
    else rms_norm_backward(x, weight, scale, (const float*)grad, rows, width, grad_x, grad_weight);
    return 0;
} catch (const std::bad_alloc&) { return 1; }

RT_API int rt_swiglu(int is_bf16, In gate_up, int64_t rows, int64_t width, Mut out) {
    if (is_bf16) swiglu((const bf16*)gate_up, rows, width, (bf16*)out);
    else swiglu((const float*)gate_up, rows, width, (float*)out);
    return 0;
}

RT_API int rt_swiglu_backward(int is_bf16, In gate_up, In grad, int64_t rows, int64_t width, Mut out) {
    if (is_bf16) swiglu_backward((const bf16*)gate_up, (const bf16*)grad, rows, width, (bf16*)out);
    else swiglu_backward((const float*)gate_up, (const float*)grad, rows, width, (float*)out);
    return 0;
}

RT_API int rt_rotate(int is_bf16, In x, int64_t ld, int64_t rows, int64_t heads, int64_t size, const float* cos, const float* sin, float direction,
                     Mut out, int64_t ld_out) {
    if (is_bf16) rotate((const bf16*)x, ld, rows, heads, size, cos, sin, direction, (bf16*)out, ld_out);
    else rotate((const float*)x, ld, rows, heads, size, cos, sin, direction, (float*)out, ld_out);
    return 0;
}
