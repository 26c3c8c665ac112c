#include "expanded_weights.hpp"

#include <algorithm>
#include <iomanip>
#include <openvino/core/op_extension.hpp>
#include <openvino/op/constant.hpp>
#include <openvino/op/convert.hpp>
#include <openvino/op/matmul.hpp>
#include <openvino/op/multiply.hpp>
#include <openvino/op/op.hpp>
#include <openvino/op/reshape.hpp>
#include <openvino/op/subtract.hpp>
#include <sstream>

#include "ovround/ovround.hpp"

namespace ovround {
namespace {

using ov::op::v0::Constant;
using ov::op::v0::Convert;

constexpr std::size_t kCodeRows = 64;
constexpr std::size_t kTileRows = 16;
constexpr std::size_t kRun = 32;  // inputs
constexpr std::size_t kMostBooks = 64;
constexpr std::size_t kMostRows = std::size_t{1} << 26;  // also of inputs, so that products of sizes cannot overflow

// A placeholder for the operator's node in a graph; it is never computed.
class Placeholder final : public ov::op::Op {
public:
    OPENVINO_OP("QuantizedLinear", "ovround")

    void validate_and_infer_types() override {
        auto shape = get_input_partial_shape(0);
        if (shape.rank().is_static() && shape.size() > 0 && outputs_.size() == 1) {
            shape[shape.rank().get_length() - 1] = outputs_[0];
        }
        set_output_type(0, ov::element::f32, shape);
    }
    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
        auto copy = std::make_shared<Placeholder>(*this);
        copy->set_arguments(inputs);
        copy->validate_and_infer_types();
        return copy;
    }
    bool visit_attributes(ov::AttributeVisitor& visitor) override {
        visitor.on_attribute("weights", weights_);
        visitor.on_attribute("outputs", outputs_);
        visitor.on_attribute("inputs", inputs_);
        return true;
    }

    std::size_t bits() const {
        const bool integers = weights_.rfind("int", 0) == 0 || is_affine();
        return integers ? static_cast<std::size_t>(weights_.back() - '0') : 0;
    }
    std::size_t rows() const { return outputs_.size() == 1 ? static_cast<std::size_t>(outputs_[0]) : 0; }
    std::size_t columns() const { return static_cast<std::size_t>(inputs_); }
    bool is_codebook() const { return weights_ == "codebook"; }
    bool is_affine() const { return weights_.rfind("affine", 0) == 0; }

private:
    std::string weights_;
    std::vector<int64_t> outputs_;
    int64_t inputs_ = 0;
};

// Creates placeholders for a graph's nodes. It does not derive from ov::OpExtension, whose constructor calls a virtual
// method.
class PlaceholderExtension final : public ov::BaseOpExtension {
public:
    const ov::DiscreteTypeInfo& get_type_info() const override { return Placeholder::get_type_info_static(); }
    ov::OutputVector create(const ov::OutputVector& inputs, ov::AttributeVisitor& visitor) const override {
        const auto node = std::make_shared<Placeholder>();
        node->set_arguments(inputs);
        if (node->visit_attributes(visitor)) {
            node->constructor_validate_and_infer_types();
        }
        return node->outputs();
    }
    std::vector<ov::Extension::Ptr> get_attached_extensions() const override { return {}; }
};

// The u8 constants of one node.
struct Part {
    const uint8_t* bytes;
    ov::Shape shape;
    std::size_t size;
};

struct Expanded {
    std::shared_ptr<ov::Node> weight;  // f32 [N, K]
    std::size_t size_bytes;
};

void need(bool good, const char* what) {
    if (!good) {
        throw std::invalid_argument(what);
    }
}

Part part(const ov::Node& node, std::size_t index) {
    const auto* constant = dynamic_cast<const Constant*>(node.input_value(index).get_node());
    need(constant != nullptr && constant->get_element_type() == ov::element::u8, "a part is not made of bytes");
    return {constant->get_data_ptr<uint8_t>(), constant->get_shape(), constant->get_byte_size()};
}

ov::float16 half(const uint8_t* bytes) {
    return ov::float16::from_bits(static_cast<uint16_t>(bytes[0] | bytes[1] << 8));
}

std::shared_ptr<ov::Node> as_float32(const std::shared_ptr<ov::Node>& node) {
    return std::make_shared<Convert>(node, ov::element::f32);
}

// Each value is summed and scaled in float32, then rounded to float16.
Expanded expand_codebook(const Part& codes, const Part& codebooks, const Part& scales, std::size_t rows,
                         std::size_t columns) {
    need(codes.shape.size() == 4 && codebooks.shape.size() == 5 && codebooks.size > 0, "its parts have other shapes");
    const std::size_t books = codebooks.shape[0];
    const std::size_t entries = codebooks.shape[1];
    const std::size_t high = codebooks.shape[2];
    const std::size_t wide = codebooks.shape[3];
    need(books <= kMostBooks, "it has too many codebooks");
    const std::size_t code_bytes = entries > 256 ? 2 : 1;
    const std::size_t vectors = columns / wide;
    const std::size_t groups = rows / high;
    need(vectors * wide == columns && groups * high == rows && scales.size == 2 * groups &&
             codes.size == (groups + kCodeRows - 1) / kCodeRows * vectors * books * kCodeRows * code_bytes,
         "its parts do not fit");
    std::vector<ov::float16> weight(rows * columns);
    std::vector<float> sums(high * wide);
    for (std::size_t group = 0; group < groups; ++group) {
        const auto scale = static_cast<float>(half(scales.bytes + 2 * group));
        for (std::size_t vector = 0; vector < vectors; ++vector) {
            std::fill(sums.begin(), sums.end(), 0.0F);
            for (std::size_t book = 0; book < books; ++book) {
                const std::size_t at = ((group / kCodeRows * vectors + vector) * books + book) * kCodeRows;
                const uint8_t* stored = codes.bytes + (at + group % kCodeRows) * code_bytes;
                const std::size_t code = stored[0] + (code_bytes > 1 ? std::size_t{256} * stored[1] : 0);
                need(code < entries, "a code is beyond its codebook");
                const uint8_t* entry = codebooks.bytes + (book * entries + code) * sums.size() * 2;
                for (std::size_t index = 0; index < sums.size(); ++index) {
                    sums[index] += static_cast<float>(half(entry + 2 * index));
                }
            }
            for (std::size_t index = 0; index < sums.size(); ++index) {
                weight[(group * high + index / wide) * columns + vector * wide + index % wide] =
                    ov::float16(sums[index] * scale);
            }
        }
    }
    const auto constant = Constant::create(ov::element::f16, ov::Shape{rows, columns}, weight);
    return {as_float32(constant), constant->get_byte_size()};
}

// The integer at a row and an input; `bits` is 2 to 6. Of 3, 5 and 6 bits the lower 2 or 4 come first, then the others.
uint8_t integer(const uint8_t* codes, std::size_t bits, std::size_t runs, std::size_t row, std::size_t input) {
    const uint8_t* bytes =
        codes + (row / kTileRows * runs + input / kRun) * bits * 64 + row % kTileRows * 4 + input % 4;
    const std::size_t quad = input % kRun / 4;
    const auto plane = [&](const uint8_t* from, std::size_t width) {
        const std::size_t count = 8 / width;
        return static_cast<unsigned>(from[quad / count * 64]) >> width * (quad % count) & ((1U << width) - 1U);
    };
    const std::size_t low = bits < 4 ? 2 : 4;
    unsigned value = plane(bytes, low);
    if (bits > low) {
        value |= plane(bytes + low * 64, bits - low) << low;
    }
    return static_cast<uint8_t>(value);
}

// The number of a group: a float16 of its block, times an int8 factor where a block has several groups.
float group_value(const Part& blocks, std::size_t groups, std::size_t row, std::size_t group) {
    const std::size_t a_row = blocks.shape[1];
    const std::size_t each = groups / a_row;
    const uint8_t* block = blocks.bytes + (row / kTileRows * a_row + group / each) * blocks.shape[2];
    const std::size_t lane = row % kTileRows;
    const auto value = static_cast<float>(half(block + 2 * lane));
    return each == 1 ? value
                     : value * static_cast<float>(static_cast<int8_t>(block[(2 + group % each) * kTileRows + lane]));
}

// Integers with a scale and a minimum of each group, or one zero point, rounded to float16.
Expanded expand_affine(const Part& codes, const Part& scales, const Part& last, std::size_t bits, std::size_t rows,
                       std::size_t columns) {
    need(bits >= 2 && bits <= 6, "affine integers of 2 to 6 bits can be expanded");
    const std::size_t tiles = (rows + kTileRows - 1) / kTileRows;
    const std::size_t runs = columns / kRun;
    need(scales.shape.size() == 3 && scales.shape[0] == tiles && scales.shape[1] > 0 && scales.shape[1] <= columns &&
             scales.shape[2] % kTileRows == 0 && scales.shape[2] >= 2 * kTileRows,
         "its scales have another shape");
    const std::size_t groups = scales.shape[1] * std::max<std::size_t>(scales.shape[2] / kTileRows - 2, 1);
    need(columns % kRun == 0 && codes.size == tiles * runs * bits * 64 && columns % groups == 0 &&
             (last.size == 1 || last.shape == scales.shape),
         "its parts do not fit");
    const std::size_t size = columns / groups;
    const float zero_point = last.size == 1 ? static_cast<float>(last.bytes[0]) : 0.0F;
    std::vector<ov::float16> weight(rows * columns);
    for (std::size_t row = 0; row < rows; ++row) {
        for (std::size_t group = 0; group < groups; ++group) {
            const float scale = group_value(scales, groups, row, group);
            const float minimum = last.size == 1 ? 0.0F : group_value(last, groups, row, group);
            for (std::size_t input = group * size; input < (group + 1) * size; ++input) {
                const auto code = static_cast<float>(integer(codes.bytes, bits, runs, row, input));
                weight[row * columns + input] = ov::float16((code - zero_point) * scale - minimum);
            }
        }
    }
    const auto constant = Constant::create(ov::element::f16, ov::Shape{rows, columns}, weight);
    return {as_float32(constant), constant->get_byte_size()};
}

std::shared_ptr<Constant> nibbles(const std::vector<uint8_t>& values, const ov::Shape& shape) {
    std::vector<uint8_t> packed((values.size() + 1) / 2);
    for (std::size_t index = 0; index < values.size(); ++index) {
        packed[index / 2] |= static_cast<uint8_t>(values[index] << (index % 2 * 4));
    }
    return std::make_shared<Constant>(ov::element::u4, shape, packed.data());
}

// The nodes of a 4-bit weight with the same integers, as `ovround convert` writes it without native weights.
Expanded expand_integers(const Part& codes, const Part& scales, const Part& zero_points, std::size_t bits,
                         std::size_t rows, std::size_t columns) {
    need(bits >= 2 && bits <= 4, "integers of 2, 3 and 4 bits can be expanded");
    const std::size_t tiles = (rows + kTileRows - 1) / kTileRows;
    const std::size_t runs = (columns + kRun - 1) / kRun;
    need(scales.shape.size() == 4 && scales.shape[1] > 0, "its scales have another shape");
    const std::size_t groups = scales.shape[1];
    need(codes.size == tiles * runs * bits * 64 && scales.size == tiles * groups * kTileRows * 2 &&
             columns % groups == 0 && (zero_points.size == 1 || zero_points.size == tiles * groups * kTileRows),
         "its parts do not fit");
    std::vector<uint8_t> levels(rows * columns);
    std::vector<ov::float16> factors(rows * groups);
    std::vector<uint8_t> zeros(rows * groups);
    for (std::size_t row = 0; row < rows; ++row) {
        for (std::size_t input = 0; input < columns; ++input) {
            levels[row * columns + input] = integer(codes.bytes, bits, runs, row, input);
        }
        for (std::size_t group = 0; group < groups; ++group) {
            const std::size_t at = (row / kTileRows * groups + group) * kTileRows + row % kTileRows;
            factors[row * groups + group] = half(scales.bytes + 2 * at);
            zeros[row * groups + group] = zero_points.bytes[zero_points.size == 1 ? 0 : at] & 15U;
        }
    }
    const ov::Shape each{rows, groups, 1};
    const auto half_of = [](const std::shared_ptr<ov::Node>& node) {
        return std::make_shared<Convert>(node, ov::element::f16);
    };
    const auto centred = std::make_shared<ov::op::v1::Subtract>(
        half_of(nibbles(levels, {rows, groups, columns / groups})), half_of(nibbles(zeros, each)));
    const auto scaled =
        std::make_shared<ov::op::v1::Multiply>(centred, Constant::create(ov::element::f16, each, factors));
    const auto flat = Constant::create(ov::element::i64, ov::Shape{2}, {rows, columns});
    return {as_float32(std::make_shared<ov::op::v1::Reshape>(scaled, flat, false)),
            levels.size() / 2 + factors.size() * 2 + zeros.size() / 2};
}

Expanded expand(const Placeholder& node) {
    need(node.rows() <= kMostRows && node.columns() <= kMostRows, "it states no size");
    const Part codes = part(node, 1);
    const Part second = part(node, 2);
    const Part third = part(node, 3);
    if (node.is_affine()) {
        return expand_affine(codes, second, third, node.bits(), node.rows(), node.columns());
    }
    return node.is_codebook() ? expand_codebook(codes, second, third, node.rows(), node.columns())
                              : expand_integers(codes, second, third, node.bits(), node.rows(), node.columns());
}

}  // namespace

void add_placeholder(ov::Core& core) { core.add_extension(std::make_shared<PlaceholderExtension>()); }

std::string expand_weights(ov::Model& model, const std::string& path) {
    std::size_t count = 0;
    std::size_t before = 0;
    std::size_t after = 0;
    for (const auto& op : model.get_ordered_ops()) {
        const auto node = std::dynamic_pointer_cast<Placeholder>(op);
        if (!node) {
            continue;
        }
        try {
            const Expanded expanded = expand(*node);
            for (const std::size_t index : {1U, 2U, 3U}) {
                before += part(*node, index).size;
            }
            const auto product =
                std::make_shared<ov::op::v0::MatMul>(node->input_value(0), expanded.weight, false, true);
            product->set_friendly_name(node->get_friendly_name());
            product->output(0).set_names(node->output(0).get_names());
            ov::replace_node(node, product);
            after += expanded.size_bytes;
            ++count;
        } catch (const std::invalid_argument& error) {
            throw Error(ErrorCode::artifact,
                        "`" + path + "`: `" + node->get_friendly_name() + "` is damaged: " + error.what());
        }
    }
    model.validate_nodes_and_infer_types();
    std::ostringstream words;
    words << std::fixed << std::setprecision(0) << count
          << " weights were expanded: " << static_cast<double>(after) / 1e6 << " MB in place of "
          << static_cast<double>(before) / 1e6 << " MB, or twice that where the device computes in float32";
    return words.str();
}

}  // namespace ovround
