// The layers of a decoder over a paged cache, in one call: what a decode step spends between kernels is then some
// microseconds, where three hundred calls from Python take milliseconds. Each operation is the kernel that it is by
// itself, so the values are bit for bit those of the calls one by one.
#include "attention.h"
#include "common.h"

typedef const void* In;
typedef void* Mut;

extern "C" {
int rt_rms_norm(int, const float*, const float*, float, int64_t, int64_t, Mut, float*);
int rt_swiglu(int, In, int64_t, int64_t, Mut);
int rt_rotate(int, In, int64_t, int64_t, int64_t, int64_t, const float*, const float*, float, Mut, int64_t);
#ifdef RT_BF16
int rt_gemm(int, const void*, long, long, long, const bf16*, long, const bf16*, const float*, long, int, void*, long);
#endif
int rt_gemm_f32(int, const float*, long, long, long, const float*, long, const float*, const float*, long, int, float*, long);
int rt_cache_write(int, const Shape*, int64_t, In, int64_t, In, int64_t, const int32_t*, const int32_t*, Mut, Mut);
int rt_attention_forward(int, const Shape*, const Runs*, In, int64_t, In, In, Mut, int64_t, float*);
}

namespace {

template <class T> struct Layer {  // shared with Python
    const float* input_norm;
    const T *qkv, *qkv_bias;
    const float *q_norm, *k_norm;  // null where the family has none
    const T* output;
    const float* post_norm;
    const T *gate_up, *down;
    T *k_pages, *v_pages;
};

struct Widths {
    int64_t layers, hidden, intermediate;
    float epsilon;
};

struct Rows {
    int64_t number;
    float* x;                 // residual stream [rows, hidden], overwritten
    const float *cos, *sin;   // [rows, size]
    const int32_t *page, *place;
};

struct Memory {  // kept by the thread: a decode step asks for the same again
    Buffer normed, fused, rotated, attended, wide, scale, exact, heads;
};

template <class T> constexpr int IS_BF16 = sizeof(T) == 2;

// Heads of `x` normed one by one (Qwen3); consecutive rows of `heads` heads.
template <class T>
void norm_heads(const T* x, long ld, const float* weight, float epsilon, long rows, long heads, long size, Memory& memory, T* out) {
    float* exact = memory.exact.get<float>((size_t)rows * heads * size);
#pragma omp parallel for schedule(static)
    for (long t = 0; t < rows; t++)
        for (long i = 0; i < heads * size; i++) exact[t * heads * size + i] = value(x[t * ld + i]);
    rt_rms_norm(IS_BF16<T>, exact, weight, epsilon, rows * heads, size, out, memory.scale.get<float>(rows * heads));
}

// Queries and keys rotated; returns where they lie and how far apart their rows are.
template <class T> struct Rotated {
    const T *q, *k;
    long ld_q, ld_k;
};

template <class T>
Rotated<T> rotate(const Shape& s, const Widths& w, const Rows& r, const Layer<T>& layer, const T* fused, long ld, Memory& memory) {
    const long queries = s.heads * s.size, keys = s.kv_heads * s.size;
    T* out = memory.rotated.get<T>((size_t)r.number * (queries + keys));
    if (!layer.q_norm) {  // queries and keys lie side by side
        rt_rotate(IS_BF16<T>, fused, ld, r.number, s.heads + s.kv_heads, s.size, r.cos, r.sin, 1.0f, out, queries + keys);
        return {out, out + queries, queries + keys, queries + keys};
    }
    T* normed = memory.heads.get<T>((size_t)r.number * (queries + keys));
    T *normed_k = normed + r.number * queries, *out_k = out + r.number * queries;
    norm_heads(fused, ld, layer.q_norm, w.epsilon, r.number, s.heads, s.size, memory, normed);
    norm_heads(fused + queries, ld, layer.k_norm, w.epsilon, r.number, s.kv_heads, s.size, memory, normed_k);
    rt_rotate(IS_BF16<T>, normed, queries, r.number, s.heads, s.size, r.cos, r.sin, 1.0f, out, queries);
    rt_rotate(IS_BF16<T>, normed_k, keys, r.number, s.kv_heads, s.size, r.cos, r.sin, 1.0f, out_k, keys);
    return {out, out_k, queries, keys};
}

// C = A B (+ bias); or x += A B in fp32.
#ifdef RT_BF16
constexpr int ROWS_BF16 = 0, OUT_BF16 = 0, OUT_F32 = 1;

int product(const bf16* a, long rows, long inputs, const bf16* weight, long outputs, const bf16* bias, bf16* out) {
    return rt_gemm(ROWS_BF16, a, inputs, rows, inputs, weight, outputs, bias, nullptr, 0, OUT_BF16, out, outputs);
}

int add_product(const bf16* a, long rows, long inputs, const bf16* weight, long outputs, float* x) {
    return rt_gemm(ROWS_BF16, a, inputs, rows, inputs, weight, outputs, nullptr, x, outputs, OUT_F32, x, outputs);
}
#endif

int product(const float* a, long rows, long inputs, const float* weight, long outputs, const float* bias, float* out) {
    return rt_gemm_f32(0, a, inputs, rows, inputs, weight, outputs, bias, nullptr, 0, 0, out, outputs);
}

int add_product(const float* a, long rows, long inputs, const float* weight, long outputs, float* x) {
    return rt_gemm_f32(0, a, inputs, rows, inputs, weight, outputs, nullptr, x, outputs, 0, x, outputs);
}

template <class T> int one_layer(const Shape& s, const Widths& w, const Runs& runs, const Rows& r, const Layer<T>& layer, Memory& memory) {
    const long rows = r.number, queries = s.heads * s.size, ld = (s.heads + 2 * s.kv_heads) * s.size;
    T* normed = memory.normed.get<T>((size_t)rows * (w.hidden > w.intermediate ? w.hidden : w.intermediate));
    T* fused = memory.fused.get<T>((size_t)rows * ld);
    T* attended = memory.attended.get<T>((size_t)rows * queries);
    T* wide = memory.wide.get<T>((size_t)rows * 2 * w.intermediate);

    rt_rms_norm(IS_BF16<T>, r.x, layer.input_norm, w.epsilon, rows, w.hidden, normed, memory.scale.get<float>(rows));
    if (product(normed, rows, w.hidden, layer.qkv, ld, layer.qkv_bias, fused)) return 1;
    const Rotated<T> qk = rotate(s, w, r, layer, fused, ld, memory);
    rt_cache_write(IS_BF16<T>, &s, rows, qk.k, qk.ld_k, fused + ld - s.kv_heads * s.size, ld, r.page, r.place, layer.k_pages, layer.v_pages);
    if (rt_attention_forward(IS_BF16<T>, &s, &runs, qk.q, qk.ld_q, layer.k_pages, layer.v_pages, attended, queries, nullptr)) return 1;
    if (add_product(attended, rows, queries, layer.output, w.hidden, r.x)) return 1;

    rt_rms_norm(IS_BF16<T>, r.x, layer.post_norm, w.epsilon, rows, w.hidden, normed, memory.scale.get<float>(rows));
    if (product(normed, rows, w.hidden, layer.gate_up, 2 * w.intermediate, nullptr, wide)) return 1;
    rt_swiglu(IS_BF16<T>, wide, rows, w.intermediate, normed);
    return add_product(normed, rows, w.intermediate, layer.down, w.hidden, r.x);
}

template <class T> int all_layers(const Shape& s, const Widths& w, const Runs& runs, const Rows& rows, const void* layers) {
    static thread_local Memory memory;
    for (int64_t i = 0; i < w.layers; i++)
        if (one_layer(s, w, runs, rows, ((const Layer<T>*)layers)[i], memory)) return 1;
    return 0;
}

}  // namespace

RT_API int rt_layers(int is_bf16, const Shape* s, const Widths* w, const Runs* runs, const Rows* rows, const void* layers) try {
#ifdef RT_BF16
    if (is_bf16) return all_layers<bf16>(*s, *w, *runs, *rows, layers);
#endif
    return all_layers<float>(*s, *w, *runs, *rows, layers);
} catch (const std::bad_alloc&) { return 1; }
