// The operator Dense.
//
// Dense(x, decoded_tokens, bias?, weight, weight..)
//   x float [.., inner]; decoded_tokens int64 []; weights bfloat16 [rows, inner], whose rows are concatenated in bias
//   float [all rows] and in the output float [.., all rows]. Attributes: key (int; of the first weight, the others have
//   the numbers after it), parts (int; how many weights), kind (0: 8 bits, 1: bfloat16).
#include "dense_layer.h"
#include "operators/operator.h"
#include "operators/operators.h"

#include <memory>
#include <vector>

namespace gpt_oss {
namespace {

class Dense {
 public:
  explicit Dense(const OrtKernelInfo* info) {
    int64_t key = 0, kind = 0, parts = 0;
    check(api.attribute_int(info, "key", &key));
    check(api.attribute_int(info, "kind", &kind));
    check(api.attribute_int(info, "parts", &parts));
    if (kind != 0 && kind != 1) fail("kind must be 0 (8 bits) or 1 (bfloat16)");
    if (parts < 1) fail("parts must be 1 or more");
    kind_ = static_cast<DenseKind>(kind);
    own_.resize(static_cast<size_t>(parts));
    for (size_t i = 0; i < own_.size(); ++i) {
      const OrtValue* weight = constant_inputs(info, {kFirstWeight + i}).back();
      const auto dims = shape_of(weight);
      if (dims.size() != 2 || dims[1] % 32) fail("weight must be [rows, inner] with inner a multiple of 32");
      const DenseShape shape{static_cast<size_t>(dims[0]), static_cast<size_t>(dims[1])};
      if (i && shape.inner != parts_[0].shape.inner) fail("all weights must have the same inner dimension");
      parts_.push_back(
          {shape, offered_or_packed(key + static_cast<int64_t>(i), shape.bytes(kind_), &own_[i], [&](uint8_t* out) {
             pack_dense(kind_, shape, data_of<uint16_t>(weight), 0, shape.groups(), out);
           })});
      rows_ += shape.rows;
    }
  }

  void compute(OrtKernelContext* context) const {
    const OrtValue* bias = nullptr;
    check(api.input(context, 2, &bias));
    if (bias) expect(bias, {static_cast<int64_t>(rows_)}, "bias");
    const Rows rows = rows_of(context, parts_[0].shape.inner, rows_);
    if (rows.count)
      dense_layer(chosen_path(), kind_, parts_, bias ? data_of<float>(bias) : nullptr, rows.x,
                  tokens_of(context, rows.count), rows.out, run_phases_of(context));
  }

 private:
  static constexpr size_t kFirstWeight = 3;
  DenseKind kind_ = DenseKind::kInt8;
  std::vector<DensePart> parts_;
  size_t rows_ = 0;
  std::vector<std::unique_ptr<Aligned<uint8_t>>> own_;
};

}  // namespace

const CustomOp* dense_operator() {
  static const CustomOp op = [] {
    CustomOp o = operator_of<Dense>();
    o.name = [](const CustomOp*) { return "Dense"; };
    o.input_count = [](const CustomOp*) { return size_t{4}; };
    o.input_type = [](const CustomOp*, size_t i) {
      return type(i == 1 ? ElementType::kInt64 : i == 3 ? ElementType::kBFloat16 : ElementType::kFloat);
    };
    // Required, optional, variadic.
    o.input_characteristic = [](const CustomOp*, size_t i) { return i < 2 ? 0 : i == 2 ? 1 : 2; };
    o.variadic_input_min_arity = [](const CustomOp*) { return 1; };
    o.variadic_input_homogeneity = [](const CustomOp*) { return 1; };
    return o;
  }();
  return &op;
}

}  // namespace gpt_oss
