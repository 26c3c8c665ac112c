// The inner loops for each instruction set, compiled from kernels.inl with the flags of that set.
//
// Those files must not use inline functions or templates of the standard library: the linker keeps one copy of such a
// function, which may contain instructions that this processor does not have.
#pragma once

#include <cstdint>

namespace ovround::native {

constexpr int64_t kTableEntries = 256;
constexpr int64_t kBlockGroups = 16;    // groups whose tables share a scale, if their lookups fit 16 bits
constexpr int64_t kBlockLookups = 256;  // sums of this many bytes fit 16 bits

// Codebooks in the form that tables are built from: int16 pairs [M, pairs, 256, 2], zero for missing entries and
// values.
struct PairedBooks {
    const int16_t* values;
    float scale;  // the value of one unit
    int64_t books, pairs, vector_inputs;
};

// 16 rows of an integer weight.
struct IntegerTile {
    int64_t bits;
    const uint8_t* codes;        // [runs, bits * 64]: see integers.inl
    const uint8_t* scales;       // float16 [groups, 16]
    const uint8_t* zero_points;  // [groups, 16], or one
    bool one_zero_point;
    int64_t group_spans;       // spans of inputs in one group of the weight
    int64_t block_groups = 0;  // of affine weights, whose scales and minimums are blocks: see linear.hpp
    const uint8_t* minimums = nullptr;
};

constexpr int64_t kLeastSpan = 16, kMostSpan = 128;

// Rows of inputs in 8 bits, with the tokens side by side.
struct QuantizedRows {
    int64_t tokens, runs, spans, span_runs;  // span_runs is 0 if a span is half a run
    const int8_t* levels;                    // [runs * 8, tokens, 4]
    const float* scales;                     // [spans, tokens]
    const float* sums;                       // [spans, tokens], sums of the levels
};

constexpr int64_t kAnyNumber = int64_t{1} << 62;
constexpr int64_t kMatrixTokens = 16;

// Products of many rows at once in bfloat16 (as uint16_t) with float32 sums. A run is 32 inputs, zero beyond the last.
struct MatrixKernels {
    // Packs `tokens` (at most 16) rows of x: [runs, 16, 32].
    void (*rows)(const float* x, int64_t inputs, int64_t tokens, uint16_t* to);

    // Decodes a tile of integers: [runs, 16 pairs of inputs, 16 outputs, 2].
    void (*integers)(const IntegerTile& tile, int64_t runs, int64_t group_runs, uint16_t* to);

    // Packs up to 16 rows of w times their scales, in the layout of `integers`.
    void (*floats)(const float* w, int64_t ldw, const float* scales, int64_t rows, int64_t inputs, uint16_t* to);

    // Products y [blocks * 16, 16] and other_y of `blocks` (1 or 2) consecutive blocks of `rows` with two tiles.
    void (*multiply)(const uint16_t* x, int64_t blocks, const uint16_t* w, const uint16_t* other, int64_t runs,
                     float* y, float* other_y, int64_t ldy);
};

struct Kernels {
    // The most rows of x for which tables (and products of 8 bits) are faster than float32 products with a decoded
    // weight.
    int64_t most_lookup_tokens, most_dot_tokens;
    int64_t dot_tokens;  // the most rows of a call of `dot`, which takes 1, 2, 3, 4, 8 or 16

    // Converts float16 to float32.
    void (*widen)(const uint8_t* halves, float* to, int64_t count);

    // Builds tables of `groups` groups of x: [groups, M, 256] products of each entry with the group's inputs, plus 128.
    // Returns the scale of one unit, shared by all of them; groups * M is at most kBlockLookups.
    float (*build_tables)(const PairedBooks& books, const float* x, int64_t groups, uint8_t* tables);

    // sums[tiles * 64]: the sums over the tables of all `groups` groups for each row of `tiles` (1, 2 or 4) tiles.
    void (*look_up)(const uint8_t* codes, int64_t tile_bytes, int64_t tiles, const uint8_t* tables,
                    const float* table_scales, int64_t groups, int64_t books, int64_t block_groups, float* sums);

    // Decodes output `output` of each of `rows` vectors, groups [first, last): float32 [rows, ld], unscaled.
    void (*expand_codes)(const uint8_t* codes, int64_t code_bytes, const uint8_t* codebooks, int64_t books,
                         int64_t entries, int64_t vector_outputs, int64_t vector_inputs, int64_t output, int64_t rows,
                         int64_t first, int64_t last, float* to, int64_t ld);

    // Rounds a row to 8 bits, in spans of `span_inputs` (16, or a multiple of 32, at most kMostSpan) that share a
    // scale. `levels`, `scale` and `sum` point to this token's first entries in QuantizedRows.
    void (*quantize)(const float* x, int64_t inputs, int64_t span_inputs, int64_t tokens, int8_t* levels, float* scale,
                     float* sum);

    // The products y [tokens, 16] of one tile.
    void (*dot)(const IntegerTile& tile, const QuantizedRows& rows, float* y);

    // Decodes runs [first, last) of one tile, of `runs` in `groups` groups: float32 [16, ld].
    void (*expand)(const IntegerTile& tile, int64_t runs, int64_t groups, int64_t first, int64_t last, float* to,
                   int64_t ld);

    // gate[i] = silu(gate[i]) * up[i]
    void (*gate)(float* gate, const float* up, int64_t count);

    // y[t, r] (+)= sum over k of x[t, k] * w[r, k]
    void (*multiply)(const float* x, int64_t ldx, int64_t tokens, const float* w, int64_t ldw, int64_t rows,
                     int64_t depth, float* y, int64_t ldy, bool add);

    const MatrixKernels* matrix;  // null without matrix instructions
};

const Kernels& portable_kernels();
const Kernels& avx2_kernels();
const Kernels& avxvnni_kernels();
const Kernels& avx512_kernels();
const Kernels& avx512vbmi_kernels();
const Kernels& amx_kernels();

}  // namespace ovround::native
