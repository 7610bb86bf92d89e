// The operator Embedding.
//
// Embedding(ids, weight, weight..)
//   ids int64 [..]; weights bfloat16 [rows, hidden], whose rows are concatenated. Output: float [ids, hidden]. The
//   weights stay where the session mapped them, so only the pages of rows that are read take memory.
#include "operators/operator.h"
#include "operators/operators.h"

#include <cstring>
#include <string>
#include <vector>

namespace gpt_oss {
namespace {

class Embedding {
 public:
  explicit Embedding(const OrtKernelInfo*) {}

  void compute(OrtKernelContext* context) const {
    struct Part {
      const uint16_t* rows;
      int64_t count;
    };
    size_t inputs = 0;
    check(api.input_count(context, &inputs));
    std::vector<Part> parts;
    int64_t hidden = 0, vocab = 0;
    for (size_t i = 1; i < inputs; ++i) {
      const OrtValue* weight = nullptr;
      check(api.input(context, i, &weight));
      const auto dims = shape_of(weight);
      if (dims.size() != 2 || (i > 1 && dims[1] != hidden))
        fail("weights must be [rows, hidden], all of one hidden size");
      parts.push_back({data_of<uint16_t>(weight), dims[0]});
      hidden = dims[1];
      vocab += dims[0];
    }
    const OrtValue* ids = nullptr;
    check(api.input(context, 0, &ids));
    int64_t count = 1;
    for (const int64_t dim : shape_of(ids)) count *= dim;
    OrtValue* out = nullptr;
    const int64_t dims[2] = {count, hidden};
    check(api.output(context, 0, dims, 2, &out));
    if (count == 0) return;
    float* to = const_cast<float*>(data_of<float>(out));
    const int64_t* id = data_of<int64_t>(ids);
    for (int64_t i = 0; i < count; ++i) {
      int64_t row = id[i];
      if (row < 0 || row >= vocab)
        fail("token id " + std::to_string(row) + " is not below the vocabulary of " + std::to_string(vocab));
      const Part* part = parts.data();
      for (; row >= part->count; ++part) row -= part->count;
      const uint16_t* from = part->rows + row * hidden;
      for (int64_t h = 0; h < hidden; ++h) {
        const uint32_t bits = static_cast<uint32_t>(from[h]) << 16;
        std::memcpy(to++, &bits, sizeof bits);
      }
    }
  }
};

}  // namespace

const CustomOp* embedding_operator() {
  static const CustomOp op = [] {
    CustomOp o = operator_of<Embedding>();
    o.name = [](const CustomOp*) { return "Embedding"; };
    o.input_count = [](const CustomOp*) { return size_t{2}; };
    o.input_type = [](const CustomOp*, size_t i) { return type(i ? ElementType::kBFloat16 : ElementType::kInt64); };
    o.input_characteristic = [](const CustomOp*, size_t i) { return i ? 2 : 0; };  // the weights are variadic
    o.variadic_input_min_arity = [](const CustomOp*) { return 1; };
    o.variadic_input_homogeneity = [](const CustomOp*) { return 1; };
    return o;
  }();
  return &op;
}

}  // namespace gpt_oss
