#include "quantized_linear.hpp"

#include <algorithm>
#include <atomic>
#include <openvino/core/parallel.hpp>

#include "weight_layout.hpp"

namespace ovround::native {
namespace {

constexpr const char* kCodebook = "codebook";
constexpr std::size_t kParts = 3;  // inputs of a weight
constexpr std::size_t kMostWeights = 8;
constexpr int64_t kAlignment = 64;

// The engine's own threads; its arena has INFERENCE_NUM_THREADS of them. A thread that is done takes the next task,
// because cores differ in speed and load.
void run_in_arena(const void*, int64_t tasks, void (*task)(const void*, int64_t), const void* context) {
    std::atomic<int64_t> next{0};
    ov::parallel_nt(static_cast<int>(std::min<int64_t>(tasks, parallel_get_max_threads())), [&](int, int) {
        for (int64_t index = next++; index < tasks; index = next++) {
            task(context, index);
        }
    });
}

int64_t size_of(const ov::Shape& shape) { return static_cast<int64_t>(ov::shape_size(shape)); }

int64_t aligned(int64_t bytes) { return tiles(bytes, kAlignment) * kAlignment; }

int64_t grid_rows(int64_t outputs) { return tiles(outputs, kIntegerRows) * kIntegerRows; }

}  // namespace

int64_t QuantizedLinear::bits() const { return bits_of(weights_); }

void QuantizedLinear::validate_and_infer_types() {
    if (!checked_) {
        check();
        checked_ = true;
    }
    auto shape = get_input_partial_shape(0);
    NODE_VALIDATION_CHECK(this, shape.rank().is_static() && shape.size() > 0, "the rank of x must be known");
    auto& columns = *(shape.end() - 1);
    NODE_VALIDATION_CHECK(this, columns.compatible(inputs_), "x is ", shape, "; ", inputs_, " inputs are needed");
    for (std::size_t weight = 0; weight < (gated_ ? 1 : outputs_.size()); ++weight) {
        columns = outputs_[weight];
        set_output_type(weight, ov::element::f32, shape);
    }
}

void QuantizedLinear::check() const {
    NODE_VALIDATION_CHECK(this, weights_ == kCodebook || bits() > 0, "weights are `", weights_,
                          "`; this library has codebook, int2, int3, int4, int8 and affine2 to affine6");
    const std::size_t count = outputs_.size();
    const std::size_t parts = groups_ > 0 ? 1 : kParts * count;
    NODE_VALIDATION_CHECK(this, count >= 1 && count <= (bits() > 0 ? kMostWeights : 1) && get_input_size() == 1 + parts,
                          get_input_size(), " inputs do not fit ", count, " outputs");
    NODE_VALIDATION_CHECK(
        this,
        std::all_of(outputs_.begin(), outputs_.end(), [&](int64_t outputs) { return sizes_fit(outputs, inputs_); }),
        "sizes must be above 0, at most ", kMostSize);
    NODE_VALIDATION_CHECK(this, get_input_element_type(0).compatible(ov::element::f32), "x must be f32");
    NODE_VALIDATION_CHECK(this, !gated_ || (bits() > 0 && count == 2 && outputs_[0] == outputs_[1]),
                          "a gate needs two equal weights");
    if (groups_ == 0) {
        for (std::size_t weight = 0; weight < count; ++weight) {
            check_weight(1 + kParts * weight, outputs_[weight]);
        }
        return;
    }
    check_joined();
}

void QuantizedLinear::check_joined() const {
    const bool fit = is_affine(weights_) ? affine_groups_fit(inputs_, groups_, blocks_)
                                         : bits() > 0 && groups_ > 0 && inputs_ % (groups_ * kIntegerRun) == 0;
    NODE_VALIDATION_CHECK(this, fit, groups_, " groups do not fit ", inputs_, " inputs");
    NODE_VALIDATION_CHECK(this, get_input_element_type(1).compatible(ov::element::u8), "weights must be u8");
    if (get_input_partial_shape(1).is_static()) {
        int64_t bytes = 0;
        for (const int64_t outputs : outputs_) {
            bytes += code_bytes(outputs) + scale_bytes(outputs) + last_bytes(outputs);
        }
        NODE_VALIDATION_CHECK(this, size_of(get_input_shape(1)) == bytes, "weights are ", get_input_shape(1), "; ",
                              bytes, " bytes are needed");
    }
}

int64_t QuantizedLinear::code_bytes(int64_t outputs) const {
    return aligned(grid_rows(outputs) * inputs_ * bits() / 8);
}

int64_t QuantizedLinear::scale_bytes(int64_t outputs) const {
    const int64_t tile = is_affine(weights_) ? blocks_ * block_bytes(groups_ / blocks_) : 2 * kIntegerRows * groups_;
    return aligned(grid_rows(outputs) / kIntegerRows * tile);
}

// Of zero points, or of the minimums of affine weights.
int64_t QuantizedLinear::last_bytes(int64_t outputs) const {
    return symmetric_ ? aligned(1) : is_affine(weights_) ? scale_bytes(outputs) : aligned(grid_rows(outputs) * groups_);
}

std::vector<IntegerWeight> QuantizedLinear::joined(const uint8_t* memory) const {
    std::vector<IntegerWeight> weights;
    for (const int64_t outputs : outputs_) {
        const auto* scales = memory + code_bytes(outputs);
        const auto* last = scales + scale_bytes(outputs);
        weights.push_back(
            is_affine(weights_)
                ? affine_weight(bits(), memory, scales, last, symmetric_, outputs, inputs_, groups_, blocks_)
                : integer_weight(bits(), memory, scales, last, symmetric_, outputs, inputs_, groups_));
        memory = last + last_bytes(outputs);
    }
    return weights;
}

void QuantizedLinear::check_weight(std::size_t input, int64_t outputs) const {
    for (std::size_t part = input; part < input + kParts; ++part) {
        NODE_VALIDATION_CHECK(this, get_input_element_type(part).compatible(ov::element::u8), "weights must be u8");
        if (get_input_partial_shape(part).is_dynamic()) {
            return;
        }
    }
    const ov::Shape codes = get_input_shape(input), other = get_input_shape(input + 1),
                    third = get_input_shape(input + 2);
    const int64_t code_bytes = size_of(codes), last = size_of(third);
    if (is_affine(weights_)) {
        NODE_VALIDATION_CHECK(this, other.size() == 3, "scales are ", other,
                              "; [tiles, B, bytes of a block] is needed");
        const std::vector<int64_t> scales(other.begin(), other.end());
        NODE_VALIDATION_CHECK(this,
                              affine_groups(bits(), outputs, inputs_, code_bytes, scales.data(), last) > 0 &&
                                  other == get_input_shape(2) && (last == 1) == (size_of(get_input_shape(3)) == 1),
                              bits(), "-bit codes ", codes, ", scales ", other, " and ", third, " are not those of [",
                              outputs, ", ", inputs_, "]");
        return;
    }
    if (bits() > 0) {
        const int64_t groups = integer_groups(bits(), outputs, inputs_, code_bytes, size_of(other), last);
        NODE_VALIDATION_CHECK(this, groups > 0 && size_of(get_input_shape(2)) / (2 * grid_rows(outputs_[0])) == groups,
                              bits(), "-bit codes ", codes, " and scales ", other, " are not those of [", outputs, ", ",
                              inputs_, "]");
        return;
    }
    NODE_VALIDATION_CHECK(this, other.size() == 5 && other[4] == 2, "codebooks are ", other,
                          "; [M, entries, O, V, 2] is needed");
    const std::vector<int64_t> books(other.begin(), other.end());
    NODE_VALIDATION_CHECK(this, codebooks_fit(outputs, inputs_, code_bytes, books.data(), last), "codes ", codes,
                          " and codebooks ", other, " are not those of [", outputs, ", ", inputs_, "]");
}

std::shared_ptr<ov::Node> QuantizedLinear::clone_with_new_inputs(const ov::OutputVector& inputs) const {
    auto copy = std::make_shared<QuantizedLinear>();
    copy->weights_ = weights_;
    copy->outputs_ = outputs_;
    copy->inputs_ = inputs_;
    copy->groups_ = groups_;
    copy->blocks_ = blocks_;
    copy->symmetric_ = symmetric_;
    copy->gated_ = gated_;
    copy->exact_ = exact_;
    copy->checked_ = checked_;
    copy->set_arguments(inputs);
    copy->validate_and_infer_types();
    return copy;
}

bool QuantizedLinear::visit_attributes(ov::AttributeVisitor& visitor) {
    visitor.on_attribute("weights", weights_);
    visitor.on_attribute("outputs", outputs_);
    visitor.on_attribute("inputs", inputs_);
    visitor.on_attribute("exact", exact_);
    visitor.on_attribute("gated", gated_);
    visitor.on_attribute("groups", groups_);
    visitor.on_attribute("blocks", blocks_);
    visitor.on_attribute("symmetric", symmetric_);
    return true;
}

// The weight whose parts are inputs of their own.
IntegerWeight QuantizedLinear::separate(const ov::TensorVector& inputs, std::size_t first, int64_t outputs) const {
    const auto bytes = [&](std::size_t part) { return inputs[first + part].data<const uint8_t>(); };
    const ov::Shape scales = inputs[first + 1].get_shape();
    const bool one = size_of(inputs[first + 2].get_shape()) == 1;
    if (is_affine(weights_)) {
        const auto blocks = static_cast<int64_t>(scales[1]),
                   factors = static_cast<int64_t>(scales[2]) / kIntegerRows - 2;
        return affine_weight(bits(), bytes(0), bytes(1), bytes(2), one, outputs, inputs_,
                             blocks * std::max<int64_t>(factors, 1), blocks);
    }
    const int64_t groups = size_of(scales) / (2 * grid_rows(outputs));
    return integer_weight(bits(), bytes(0), bytes(1), bytes(2), one, outputs, inputs_, groups);
}

bool QuantizedLinear::evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const {
    auto shape = inputs[0].get_shape();
    const int64_t tokens = size_of(shape) / inputs_;
    float* y[kMostWeights];
    for (std::size_t weight = 0; weight < outputs.size(); ++weight) {
        shape.back() = static_cast<std::size_t>(outputs_[weight]);
        outputs[weight].set_shape(shape);
        y[weight] = outputs[weight].data<float>();
    }
    const ovround_product product{
        sizeof(ovround_product), inputs[0].data<const float>(), tokens, exact_, nullptr, run_in_arena, nullptr};
    const int result = multiply(inputs, product, y);
    OPENVINO_ASSERT(result != OVROUND_KERNELS_NO_MEMORY, "memory is exhausted");
    OPENVINO_ASSERT(result == OVROUND_KERNELS_OK, "the library of the kernels has no product for ", weights_);
    return true;
}

int QuantizedLinear::multiply(const ov::TensorVector& inputs, const ovround_product& product, float* const* y) const {
    const auto bytes = [&](std::size_t input) { return inputs[input].data<const uint8_t>(); };
    if (bits() == 0) {
        const auto& books = inputs[2].get_shape();
        const auto size = [&](std::size_t axis) { return static_cast<int64_t>(books.data()[axis]); };
        const CodebookWeight weight{sizeof(CodebookWeight),
                                    bytes(1),
                                    bytes(2),
                                    bytes(3),
                                    outputs_[0],
                                    inputs_,
                                    size(0),
                                    size(1),
                                    size(2),
                                    size(3)};
        return ovround_codebook_product(&weight, &product, y[0]);
    }
    std::vector<IntegerWeight> weights;
    if (groups_ > 0) {
        weights = joined(bytes(1));
    } else {
        for (std::size_t weight = 0, input = 1; weight < outputs_.size(); ++weight, input += kParts) {
            weights.push_back(separate(inputs, input, outputs_[weight]));
        }
    }
    return gated_ ? ovround_gated_product(weights.data(), &product, y[0])
                  : ovround_integer_products(weights.data(), static_cast<int64_t>(weights.size()), &product, y);
}

}  // namespace ovround::native
