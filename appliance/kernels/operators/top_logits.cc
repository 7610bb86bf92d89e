// The operator TopLogits.
//
// TopLogits(logits)
//   logits float [rows, vocabulary]. Attribute: k (int). Outputs: the k largest, float [rows, k], and their ids, int64
//   [rows, k], falling; the logarithm of the sum of all exponentials, float [rows].
#include "top_logits.h"
#include "operators/operator.h"
#include "operators/operators.h"

#include <string>

namespace gpt_oss {
namespace {

class TopLogits {
 public:
  explicit TopLogits(const OrtKernelInfo* info) { check(api.attribute_int(info, "k", &k_)); }

  void compute(OrtKernelContext* context) const {
    const OrtValue* logits = nullptr;
    check(api.input(context, 0, &logits));
    const auto dims = shape_of(logits);
    if (dims.size() != 2 || k_ < 1 || k_ > dims[1])
      fail("logits must be [rows, vocabulary] and k between 1 and the vocabulary, not " + std::to_string(k_) + " of " +
           text_of(dims));
    OrtValue* outputs[3] = {};
    const int64_t top[2] = {dims[0], k_};
    for (size_t i = 0; i < 3; ++i) check(api.output(context, i, top, i < 2 ? 2 : 1, &outputs[i]));
    if (dims[0])
      top_logits(chosen_path(), data_of<float>(logits), static_cast<size_t>(dims[0]), static_cast<size_t>(dims[1]),
                 static_cast<size_t>(k_), const_cast<float*>(data_of<float>(outputs[0])),
                 const_cast<int64_t*>(data_of<int64_t>(outputs[1])), const_cast<float*>(data_of<float>(outputs[2])),
                 run_phases_of(context));
  }

 private:
  int64_t k_ = 0;
};

}  // namespace

const CustomOp* top_logits_operator() {
  static const CustomOp op = [] {
    CustomOp o = operator_of<TopLogits>();
    o.name = [](const CustomOp*) { return "TopLogits"; };
    o.input_count = [](const CustomOp*) { return size_t{1}; };
    o.input_type = [](const CustomOp*, size_t) { return type(ElementType::kFloat); };
    o.output_count = [](const CustomOp*) { return size_t{3}; };
    o.output_type = [](const CustomOp*, size_t i) { return type(i == 1 ? ElementType::kInt64 : ElementType::kFloat); };
    return o;
  }();
  return &op;
}

}  // namespace gpt_oss
