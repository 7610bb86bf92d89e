// The operator Attention.
//
// Attention(qkv, past_key, past_value, token_slots, token_positions, cos, sin, sinks)
//   qkv float [T, (heads + 2 kv_heads) head_dim]; caches uint8 [slots, kv_heads, C, bytes], C a multiple of 16;
//   token_slots and token_positions int32 [T]: the slot that a token belongs to, and its position there; the tokens of
//   one slot are neighbours; cos and sin float [positions, head_dim / 2]; sinks float [heads]. Attributes: heads,
//   kv_heads, window (int; 0: none; with one the caches may be rings, attention.h). Outputs: float [T, heads head_dim],
//   and the caches, which are updated in place if input and output are bound to the same memory.
//   The caches are bytes, because whoever allocates them chooses the type of their numbers: with 4 bytes for each of
//   head_dim dimensions they hold floats, with 2 bytes bfloat16. Only this library knows the order of numbers in them
//   (attention.h).
#include "attention.h"
#include "operators/operator.h"
#include "operators/operators.h"

#include <cstring>
#include <string>
#include <vector>

namespace gpt_oss {
namespace {

// The bytes of a key or value.
template <typename Item>
int64_t bytes_of(int64_t head_dim) {
  return head_dim * int64_t{sizeof(Item)};
}

class Attention {
 public:
  explicit Attention(const OrtKernelInfo* info) {
    int64_t heads = 0, kv_heads = 0, window = 0;
    check(api.attribute_int(info, "heads", &heads));
    check(api.attribute_int(info, "kv_heads", &kv_heads));
    check(api.attribute_int(info, "window", &window));
    if (kv_heads < 1 || heads < kv_heads || heads % kv_heads || window < 0)
      fail("heads must be a multiple of kv_heads, and window not negative");
    shape_.heads = static_cast<size_t>(heads);
    shape_.kv_heads = static_cast<size_t>(kv_heads);
    shape_.window = static_cast<size_t>(window);
  }

  void compute(OrtKernelContext* context) const {
    const OrtValue* inputs[8] = {};
    for (size_t i = 0; i < 8; ++i) check(api.input(context, i, &inputs[i]));
    const auto qkv = shape_of(inputs[0]), past = shape_of(inputs[1]), cos = shape_of(inputs[5]);
    AttentionShape shape = shape_;
    if (qkv.size() != 2 || past.size() != 4 || cos.size() != 2)
      fail("qkv must have 2 dimensions, the caches 4, cos and sin 2");
    const int64_t head_dim = 2 * cos[1];
    shape.capacity = static_cast<size_t>(past[2]);
    shape.head_dim = static_cast<size_t>(head_dim);
    if (!head_dim || shape.head_dim % kKeyBlock || shape.capacity % kKeyBlock)
      fail("head_dim and the caches' capacity must be multiples of 16, not " + std::to_string(head_dim) + " and " +
           std::to_string(past[2]));
    if (past[3] != bytes_of<float>(head_dim) && past[3] != bytes_of<Bfloat16>(head_dim))
      fail("the caches must have 4 or 2 bytes for each of " + std::to_string(head_dim) + " dimensions, not " +
           std::to_string(past[3]) + " bytes for all");
    expect(inputs[0], {qkv[0], static_cast<int64_t>(shape.width())}, "qkv");
    const std::vector<int64_t> cache{past[0], static_cast<int64_t>(shape.kv_heads), past[2], past[3]};
    expect(inputs[1], cache, "past_key");
    expect(inputs[2], cache, "past_value");
    expect(inputs[3], {qkv[0]}, "token_slots");
    expect(inputs[4], {qkv[0]}, "token_positions");
    expect(inputs[6], cos, "sin");
    expect(inputs[7], {static_cast<int64_t>(shape.heads)}, "sinks");
    const auto segments =
        segments_of(data_of<int32_t>(inputs[3]), data_of<int32_t>(inputs[4]), static_cast<size_t>(qkv[0]));
    require_places(segments, shape, static_cast<size_t>(past[0]), static_cast<size_t>(cos[0]));
    OrtValue *out = nullptr, *keys = nullptr, *values = nullptr;
    const std::vector<int64_t> out_dims{qkv[0], static_cast<int64_t>(shape.heads) * head_dim};
    check(api.output(context, 0, out_dims.data(), out_dims.size(), &out));
    check(api.output(context, 1, cache.data(), cache.size(), &keys));
    check(api.output(context, 2, cache.data(), cache.size(), &values));
    void* present[2] = {const_cast<void*>(data_of<void>(keys)), const_cast<void*>(data_of<void>(values))};
    const size_t bytes = static_cast<size_t>(cache[0] * cache[1] * cache[2] * cache[3]);
    for (size_t i = 0; i < 2; ++i) {
      const void* from = data_of<void>(inputs[1 + i]);
      if (from != present[i]) std::memcpy(present[i], from, bytes);
    }
    if (segments.empty()) return;
    const AttentionInputs in{data_of<float>(inputs[0]), segments, data_of<float>(inputs[5]), data_of<float>(inputs[6]),
                             data_of<float>(inputs[7])};
    float* attended = const_cast<float*>(data_of<float>(out));
    const RunPhases run = run_phases_of(context);
    if (past[3] == bytes_of<float>(head_dim))
      attention_layer(chosen_path(), shape, in, static_cast<float*>(present[0]), static_cast<float*>(present[1]),
                      attended, run);
    else
      attention_layer(chosen_path(), shape, in, static_cast<Bfloat16*>(present[0]), static_cast<Bfloat16*>(present[1]),
                      attended, run);
  }

 private:
  // Refuses tokens whose position is outside the caches, and a slot that two segments write to in one call.
  static void require_places(const std::vector<Segment>& segments, const AttentionShape& shape, size_t slots,
                             size_t positions) {
    std::vector<bool> taken(slots);
    for (const Segment& segment : segments) {
      if (segment.slot >= slots || taken[segment.slot])
        fail("slot " + std::to_string(static_cast<int32_t>(segment.slot)) + " is none of the caches' " +
             std::to_string(slots) + " or its tokens do not follow each other");
      taken[segment.slot] = true;
      const size_t last = segment.position + segment.count - 1;
      const bool ring = shape.window && shape.window - 1 + segment.count <= shape.capacity;
      if (segment.position >= positions || last >= positions || (last >= shape.capacity && !ring))
        fail("position " + std::to_string(static_cast<int32_t>(last)) +
             " lies outside the caches or the rotary tables");
    }
  }

  AttentionShape shape_{};
};

}  // namespace

const CustomOp* attention_operator() {
  static const CustomOp op = [] {
    CustomOp o = operator_of<Attention>();
    o.name = [](const CustomOp*) { return "Attention"; };
    o.input_count = [](const CustomOp*) { return size_t{8}; };
    o.input_type = [](const CustomOp*, size_t i) {
      if (i == 1 || i == 2) return type(ElementType::kUint8);
      return type(i == 3 || i == 4 ? ElementType::kInt32 : ElementType::kFloat);
    };
    o.output_count = [](const CustomOp*) { return size_t{3}; };
    o.output_type = [](const CustomOp*, size_t i) { return type(i == 0 ? ElementType::kFloat : ElementType::kUint8); };
    return o;
  }();
  return &op;
}

}  // namespace gpt_oss
