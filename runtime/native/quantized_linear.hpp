// `QuantizedLinear` as an OpenVINO operation: y = x * W^T for a weight in one of the layouts of linear.hpp.
//
// Inputs: x [..., inputs]; for weights "codebook": codes, codebooks [M, entries, O, V, 2] and scales; for "int2",
// "int3", "int4" and "int8": codes, scales and zero points, of one weight or of several with equal groups; for
// "affine2" to "affine6": codes, scales [tiles, B, bytes of a block], and minimums or one zero point. All but x are u8,
// because plugins widen other types when they compile. Outputs [..., outputs[i]], one for each weight.
//
// With `gated`, two weights of one shape have one output: silu(first product) * second product.
//
// With `groups`, the groups of a row, all integer parts are one input: for each weight codes, scales and zero points
// (one if `symmetric`), each aligned to 64 bytes. Affine weights also state `blocks`, and have minimums unless
// `symmetric`. The CPU plugin infers shapes before each call and copies the node and
// its constants for that: 8 us for three constants, 30 for nine.
#pragma once

#include <openvino/op/op.hpp>
#include <string>
#include <vector>

#include "linear.hpp"

namespace ovround::native {

class QuantizedLinear : public ov::op::Op {
public:
    OPENVINO_OP("QuantizedLinear", "ovround")

    QuantizedLinear() = default;

    void validate_and_infer_types() override;
    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override;
    bool visit_attributes(ov::AttributeVisitor& visitor) override;
    bool has_evaluate() const override { return true; }
    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override;

private:
    int64_t bits() const;  // bits of integers; 0 for codebooks
    void check() const;
    void check_joined() const;
    int64_t code_bytes(int64_t outputs) const;
    int64_t scale_bytes(int64_t outputs) const;
    int64_t last_bytes(int64_t outputs) const;
    IntegerWeight separate(const ov::TensorVector& inputs, std::size_t first_input, int64_t outputs) const;
    std::vector<IntegerWeight> joined(const uint8_t* memory) const;
    void check_weight(std::size_t first_input, int64_t outputs) const;
    int multiply(const ov::TensorVector& inputs, const ovround_product& product, float* const* y) const;

    std::string weights_;
    std::vector<int64_t> outputs_;
    int64_t inputs_ = 0;
    int64_t groups_ = 0;
    int64_t blocks_ = 0;
    bool symmetric_ = false;
    bool gated_ = false;
    bool exact_ = false;
    bool checked_ = false;  // whether this is a copy of a node with checked weights
};

}  // namespace ovround::native
