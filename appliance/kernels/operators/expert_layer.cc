// The operator ExpertLayer.
//
// ExpertLayer(x, decoded_tokens, router_logits, gate_up_blocks, gate_up_scales, gate_up_bias, down_blocks, down_scales,
//             down_bias)
//   x float [.., hidden]; decoded_tokens int64 []; router_logits float [.., experts]; blocks and scales uint8 as in the
//   checkpoint; biases float. Attributes: key (int), top_k (int), alpha (float), limit (float), prompt_bits (int: 8 or
//   16; a prompt's activations take a form of at least so many bits, paths.h). Output: float, in the shape of x.
#include "expert_layer.h"
#include "operators/operator.h"
#include "operators/operators.h"

#include <memory>
#include <string>

namespace gpt_oss {
namespace {

class ExpertLayer {
 public:
  explicit ExpertLayer(const OrtKernelInfo* info) {
    int64_t key = 0, top_k = 0, prompt_bits = 0;
    check(api.attribute_int(info, "key", &key));
    check(api.attribute_int(info, "top_k", &top_k));
    check(api.attribute_int(info, "prompt_bits", &prompt_bits));
    check(api.attribute_float(info, "alpha", &form_.swiglu.alpha));
    check(api.attribute_float(info, "limit", &form_.swiglu.limit));
    const auto inputs = constant_inputs(info, {3, 4, 6, 7});
    const auto gate_up = shape_of(inputs[3]), down = shape_of(inputs[6]);
    if (gate_up.size() != 4 || down.size() != 4) fail("blocks must be [experts, rows, inner / 32, 16]");
    const int64_t experts = gate_up[0], hidden = down[1], inner = gate_up[1] / 2;
    if (hidden % 32 || inner % 32) fail("hidden and intermediate sizes must be multiples of 32");
    if (top_k < 1 || top_k > experts) fail("top_k must be between 1 and the number of experts");
    expect(inputs[3], {experts, 2 * inner, hidden / 32, 16}, "gate_up_blocks");
    expect(inputs[4], {experts, 2 * inner, hidden / 32}, "gate_up_scales");
    expect(inputs[6], {experts, hidden, inner / 32, 16}, "down_blocks");
    expect(inputs[7], {experts, hidden, inner / 32}, "down_scales");
    if (prompt_bits != 8 && prompt_bits != 16) fail("prompt_bits must be 8 or 16");
    form_.top_k = static_cast<size_t>(top_k);
    form_.prompt_bits = static_cast<int>(prompt_bits);
    weights_.shape = {static_cast<size_t>(experts), static_cast<size_t>(hidden), static_cast<size_t>(inner)};
    weights_.packed = offered_or_packed(key, weights_.shape.bytes(), &own_, [&](uint8_t* out) {
      pack_experts(weights_.shape, data_of<uint8_t>(inputs[3]), data_of<uint8_t>(inputs[4]),
                   data_of<uint8_t>(inputs[6]), data_of<uint8_t>(inputs[7]), 0, weights_.shape.experts, out);
    });
  }

  void compute(OrtKernelContext* context) const {
    const OrtValue *logits = nullptr, *gate_up_bias = nullptr, *down_bias = nullptr;
    check(api.input(context, 2, &logits));
    check(api.input(context, 5, &gate_up_bias));
    check(api.input(context, 8, &down_bias));
    const auto experts = static_cast<int64_t>(weights_.shape.experts);
    expect(gate_up_bias, {experts, static_cast<int64_t>(2 * weights_.shape.inner)}, "gate_up_bias");
    expect(down_bias, {experts, static_cast<int64_t>(weights_.shape.hidden)}, "down_bias");
    ExpertWeights weights = weights_;
    weights.gate_up_bias = data_of<float>(gate_up_bias);
    weights.down_bias = data_of<float>(down_bias);
    const Rows rows = rows_of(context, weights_.shape.hidden, weights_.shape.hidden);
    const auto dims = shape_of(logits);
    int64_t count = 1;
    for (const int64_t dim : dims) count *= dim;
    if (dims.empty() || static_cast<size_t>(dims.back()) != weights_.shape.experts ||
        static_cast<size_t>(count) != rows.count * weights_.shape.experts)
      fail("router_logits must be [.., " + std::to_string(weights_.shape.experts) + "] for the tokens of x");
    if (rows.count)
      expert_layer(chosen_path(), weights, form_, rows.x, data_of<float>(logits), tokens_of(context, rows.count),
                   rows.out, run_phases_of(context));
  }

 private:
  ExpertWeights weights_{};  // without biases, which come with each call
  ExpertForm form_{};
  std::unique_ptr<Aligned<uint8_t>> own_;
};

}  // namespace

const CustomOp* expert_layer_operator() {
  static const CustomOp op = [] {
    CustomOp o = operator_of<ExpertLayer>();
    o.name = [](const CustomOp*) { return "ExpertLayer"; };
    o.input_count = [](const CustomOp*) { return size_t{9}; };
    o.input_type = [](const CustomOp*, size_t i) {
      if (i == 1) return type(ElementType::kInt64);
      return type(i == 3 || i == 4 || i == 6 || i == 7 ? ElementType::kUint8 : ElementType::kFloat);
    };
    return o;
  }();
  return &op;
}

}  // namespace gpt_oss
