#include "quantized_linear.hpp"

#include <openvino/core/parallel.hpp>
#include <utility>

#include "linear.hpp"

namespace ovround::native {
namespace {

constexpr const char* kCodebook = "codebook";
constexpr const char* kThreeBits = "int3";

// The engine's own threads: its arena has as many as INFERENCE_NUM_THREADS says.
void run_in_arena(const void*, int64_t tasks, void (*task)(const void*, int64_t), const void* context) {
    ov::parallel_for(tasks, [&](int64_t index) { task(context, index); });
}

int64_t pieces(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

int64_t size_of(const ov::Shape& shape) { return static_cast<int64_t>(ov::shape_size(shape)); }

}  // namespace

QuantizedLinear::QuantizedLinear(const ov::OutputVector& inputs, std::string weights, int64_t outputs, int64_t inputs_count, bool exact)
    : Op(inputs), weights_(std::move(weights)), outputs_(outputs), inputs_(inputs_count), exact_(exact) {
    constructor_validate_and_infer_types();
}

void QuantizedLinear::validate_and_infer_types() {
    NODE_VALIDATION_CHECK(this, weights_ == kCodebook || weights_ == kThreeBits, "weights are `", weights_,
                          "`; this library has codebook and int3");
    NODE_VALIDATION_CHECK(this, get_input_size() == 4 && outputs_ > 0 && inputs_ > 0, "four inputs and sizes above 0 are needed");
    NODE_VALIDATION_CHECK(this, get_input_element_type(0).compatible(ov::element::f32), "x must be f32");
    for (std::size_t place = 1; place < 4; ++place) {
        NODE_VALIDATION_CHECK(this, get_input_element_type(place).compatible(ov::element::u8), "weights must be u8");
    }
    const auto& stored = get_input_partial_shape(1);
    const auto& second = get_input_partial_shape(2);
    const auto& third = get_input_partial_shape(3);
    if (stored.is_static() && second.is_static() && third.is_static()) {
        const ov::Shape codes = stored.to_shape(), other = second.to_shape();
        const int64_t code_bytes = size_of(codes), last = size_of(third.to_shape());
        if (weights_ == kThreeBits) {
            const int64_t tiles = pieces(outputs_, kThreeBitRows), runs = pieces(inputs_, kThreeBitRun);
            const int64_t groups = last / (tiles * kThreeBitRows);
            NODE_VALIDATION_CHECK(this,
                                  code_bytes == tiles * runs * 3 * kThreeBitRows * kThreeBitRun / 8 && groups > 0 &&
                                      last == tiles * groups * kThreeBitRows && size_of(other) == 2 * last && runs % groups == 0 &&
                                      (groups == 1 || inputs_ % kThreeBitRun == 0),
                                  "3-bit codes ", codes, " and scales ", other, " are not those of [", outputs_, ", ", inputs_, "]");
        } else {
            NODE_VALIDATION_CHECK(this, other.size() == 5 && other[4] == 2, "codebooks are ", other, "; [M, entries, O, V, 2] is needed");
            const auto books = static_cast<int64_t>(other[0]), entries = static_cast<int64_t>(other[1]);
            const auto rows = static_cast<int64_t>(other[2]), columns = static_cast<int64_t>(other[3]);
            NODE_VALIDATION_CHECK(this,
                                  books >= 1 && books <= 64 && entries >= 1 && entries <= 65536 && rows >= 1 && columns >= 1 &&
                                      columns <= 1024 && outputs_ % rows == 0 && inputs_ % columns == 0 &&
                                      code_bytes == pieces(outputs_ / rows, kCodeRows) * (inputs_ / columns) * books * kCodeRows *
                                                        (entries > 256 ? 2 : 1) &&
                                      last == 2 * (outputs_ / rows),
                                  "codes ", codes, " and codebooks ", other, " are not those of [", outputs_, ", ", inputs_, "]");
        }
    }
    auto shape = get_input_partial_shape(0);
    NODE_VALIDATION_CHECK(this, shape.rank().is_static() && shape.size() > 0, "the rank of x must be known");
    NODE_VALIDATION_CHECK(this, shape[shape.size() - 1].compatible(inputs_), "x is ", shape, "; ", inputs_, " inputs are needed");
    shape[shape.size() - 1] = outputs_;
    set_output_type(0, ov::element::f32, shape);
}

std::shared_ptr<ov::Node> QuantizedLinear::clone_with_new_inputs(const ov::OutputVector& inputs) const {
    return std::make_shared<QuantizedLinear>(inputs, weights_, outputs_, inputs_, exact_);
}

bool QuantizedLinear::visit_attributes(ov::AttributeVisitor& visitor) {
    visitor.on_attribute("weights", weights_);
    visitor.on_attribute("outputs", outputs_);
    visitor.on_attribute("inputs", inputs_);
    visitor.on_attribute("exact", exact_);
    return true;
}

bool QuantizedLinear::evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const {
    auto shape = inputs[0].get_shape();
    shape.back() = static_cast<std::size_t>(outputs_);
    outputs[0].set_shape(shape);
    const int64_t tokens = size_of(shape) / outputs_;
    const auto* x = inputs[0].data<const float>();
    auto* y = outputs[0].data<float>();
    const auto* codes = inputs[1].data<const uint8_t>();
    const auto* second = inputs[2].data<const uint8_t>();
    const auto* third = inputs[3].data<const uint8_t>();
    const Threads threads{run_in_arena, nullptr};
    if (weights_ == kThreeBits) {
        const int64_t groups = size_of(inputs[3].get_shape()) / (pieces(outputs_, kThreeBitRows) * kThreeBitRows);
        linear(ThreeBitWeight{codes, second, third, outputs_, inputs_, groups}, x, tokens, y, exact_, best_isa(), threads);
        return true;
    }
    const auto& books = inputs[2].get_shape();
    const auto size = [&](std::size_t place) { return static_cast<int64_t>(books[place]); };
    linear(CodebookWeight{codes, second, third, outputs_, inputs_, size(0), size(1), size(2), size(3)}, x, tokens, y, exact_,
           best_isa(), threads);
    return true;
}

}  // namespace ovround::native
