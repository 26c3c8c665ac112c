/* The kernels' C interface: products with weights in their stored form, for any engine.
 *
 * y[t, n] = sum over k of x[t, k] * W[n, k], for x float32 [tokens, inputs] and y float32 [tokens, outputs].
 * ovround/tensors/native_layout.py defines, writes and reads the layouts of the weights. No type belongs to an engine.
 *
 * A structure begins with its size, which the caller sets to `sizeof`. A newer library takes the structures of an older
 * header: what they lack is zero. Nothing is kept between calls but memory for the next one; all calls are thread-safe.
 */
#ifndef OVROUND_KERNELS_H
#define OVROUND_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(OVROUND_KERNELS_BUILD)
#define OVROUND_KERNELS_API __declspec(dllexport)
#elif defined(_WIN32)
#define OVROUND_KERNELS_API __declspec(dllimport)
#else
#define OVROUND_KERNELS_API __attribute__((visibility("default")))
#endif

#define OVROUND_KERNELS_VERSION 1 /* of this interface; a library has everything of the versions below its own */

#ifdef __cplusplus
extern "C" {
#endif

/* Results of calls. */
#define OVROUND_KERNELS_OK 0
#define OVROUND_KERNELS_INVALID 1   /* a size or an instruction set that the library does not have */
#define OVROUND_KERNELS_NO_MEMORY 2 /* for the products' own buffers */

/* W[o * O + a, g * V + b] = scales[o] * sum over m of codebooks[m, codes[o, g, m], a, b] */
typedef struct ovround_codebook_weight {
    size_t size;
    const uint8_t* codes;     /* [ceil(N / O / 64), K / V, M, 64], one byte each, or two for more than 256 entries */
    const uint8_t* codebooks; /* float16 [M, entries, O, V] */
    const uint8_t* scales;    /* float16 [N / O] */
    int64_t outputs, inputs;  /* N, K */
    int64_t books, entries;   /* M (at most 64), and at most 65536 entries */
    int64_t vector_outputs, vector_inputs; /* O, V */
} ovround_codebook_weight;

/* W[n, k] = (code[n, k] - zero_points[n, k / group]) * scales[n, k / group]
 *
 * With `blocks` the weight is affine: one zero point, minimums if there are any, and scales and minimums in blocks. A
 * block is float16 [16], followed, if it has several groups, by int8 factors [groups, 16].
 *
 * W[n, k] = (code[n, k] - zero_point) * scale[n, k / group] - minimum[n, k / group] */
typedef struct ovround_integer_weight {
    size_t size;
    int64_t bits;                    /* 2, 3, 4 or 8; of affine weights 2 to 6 */
    const uint8_t* codes;            /* [ceil(N / 16), ceil(K / 32), bits * 64]: see integers.inl */
    const uint8_t* scales;           /* float16 [ceil(N / 16), G, 16]; affine [ceil(N / 16), B, bytes of a block] */
    const uint8_t* zero_points;      /* [ceil(N / 16), G, 16], or one byte for all */
    int64_t one_zero_point;          /* whether it is one byte */
    int64_t outputs, inputs, groups; /* N, K, G */
    int64_t blocks;                  /* B of affine weights, 0 of others */
    const uint8_t* minimums;         /* of affine weights, as scales; or null */
} ovround_integer_weight;

/* How a product is computed. */
typedef struct ovround_product {
    size_t size;
    const float* x; /* [tokens, inputs] */
    int64_t tokens;
    int64_t exact;   /* float32 throughout; otherwise few rows use 8-bit tables (codebooks) or 8-bit activations */
    const char* isa; /* null: the best of this processor */
    /* The caller's threads: `run` calls task(context, i) once for each i below tasks, on any of them, and returns when
     * all are done. Null: the calling thread alone. `run` must not throw. */
    void (*run)(const void* threads, int64_t tasks, void (*task)(const void* context, int64_t index),
                const void* context);
    const void* threads;
} ovround_product;

OVROUND_KERNELS_API int ovround_kernels_version(void);

/* Instruction sets: "portable", "avx2", "avxvnni", "avx512", "avx512vbmi", "amx". */
OVROUND_KERNELS_API const char* ovround_kernels_isa(void); /* the best of this processor and this build */
OVROUND_KERNELS_API int ovround_kernels_has(const char* isa);
/* Whether this processor has 8-bit dot products, with which the kernels are faster than the engines' own. */
OVROUND_KERNELS_API int ovround_kernels_is_faster(void);

OVROUND_KERNELS_API int ovround_codebook_product(const ovround_codebook_weight* weight, const ovround_product* product,
                                                 float* y);
/* `count` weights with equal inputs and groups at once, each weights[0].size bytes apart: y[i] is that of weight i. */
OVROUND_KERNELS_API int ovround_integer_products(const ovround_integer_weight* weights, int64_t count,
                                                 const ovround_product* product, float* const* y);
/* Two weights of one shape: y = silu(product of the first) * product of the second. */
OVROUND_KERNELS_API int ovround_gated_product(const ovround_integer_weight* weights, const ovround_product* product,
                                              float* y);

/* Packs `from` [rows, columns] of 2, 4 or 8 bits, lowest bits first, columns a multiple of 32, to the codes of an
 * integer weight, [ceil(rows / 16), columns / 32, bits * 64]. `is_signed`: codes are signed. */
OVROUND_KERNELS_API void ovround_pack_integers(int64_t bits, const uint8_t* from, int is_signed, int64_t rows,
                                               int64_t columns, uint8_t* to);

#ifdef __cplusplus
}
#endif

#endif
