// The operator library ONNX Runtime loads: domain "gpt_oss", operators Embedding, ExpertLayer, Dense, Attention
// and TopLogits.
//
// Embedding(ids, weight, weight..)
//   ids int64 [..]; weights bfloat16 [rows, hidden], whose rows follow each other. Output: float [ids, hidden]. The weights
//   stay where the session mapped them: only the pages of rows that are asked for take memory.
// ExpertLayer(x, decoded_tokens, router_logits, gate_up_blocks, gate_up_scales, gate_up_bias, down_blocks, down_scales,
//             down_bias)
//   x float [.., hidden]; decoded_tokens int64 []; router_logits float [.., experts]; blocks and scales uint8 as in the
//   checkpoint; biases float. Attributes: key (int), top_k (int), alpha (float), limit (float), prompt_bits (int: 8 or 16; a
//   prompt's activations take a form of so many bits or more, paths.h). Output: float, the shape of x.
// Dense(x, decoded_tokens, bias?, weight, weight..)
//   x float [.., inner]; decoded_tokens int64 []; weights bfloat16 [rows, inner], whose rows follow each other in bias float
//   [all rows] and in the output float [.., all rows]. Attributes: key (int; of the first weight, the next have the numbers after it), parts (int;
//   how many weights), kind (0: 8 bits, 1: bfloat16).
// Attention(qkv, past_key, past_value, token_slots, token_positions, cos, sin, sinks)
//   qkv float [T, (heads + 2 kv_heads) head_dim]; caches float [slots, kv_heads, C, head_dim], C a multiple of 16;
//   token_slots and token_positions int32 [T], whose cache a token belongs to and where: tokens of one slot follow each
//   other; cos and sin float [positions, head_dim / 2]; sinks float [heads]. Attributes: heads, kv_heads, window (int; 0:
//   none; with one the caches may be rings, attention.h). Outputs: float [T, heads head_dim], and the caches, which are
//   updated in place where both sides are bound to the same memory. How keys lie in them is this library's (attention.h).
// TopLogits(logits)
//   logits float [rows, vocabulary]. Attribute: k (int). Outputs: the k largest, float [rows, k], and their ids, int64
//   [rows, k], falling; the logarithm of the sum of all exponentials, float [rows].
//
// decoded_tokens: the first so many tokens, or all if there are fewer, are decoded ones; the others a prompt's (rows.h,
// Tokens).
//
// The products read packed weights (paths.h). The host packs them once, keeps them in a cache and offers them under the
// node's key (gpt_oss_offer) before it creates the session; a node without an offer packs for itself.
#include "attention.h"
#include "dense_layer.h"
#include "expert_layer.h"
#include "ort_abi.h"
#include "top_logits.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <utility>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace gpt_oss {
namespace {

Api api;
std::atomic<const Path*> chosen_path{nullptr};
std::atomic<size_t> thread_count{1};

std::mutex offers_mutex;
std::map<int64_t, std::pair<const uint8_t*, size_t>> offers;  // under offers_mutex

std::vector<const Path*> all_paths() {
#if defined(__x86_64__)
  return {&amx_path(), &avx512bf16_path(), &vnni_path(), &avxvnni_path(), &avx2_path(), &portable_path()};
#else
  return {&portable_path()};
#endif
}

const Path* best_path() {
  for (const Path* path : all_paths())
    if (path->supported()) return path;
  return &portable_path();
}

// Thrown inside this library only; every entry from ONNX Runtime turns it into an OrtStatus.
struct Failure {
  OrtStatus* status;
};
void check(OrtStatus* status) {
  if (status) throw Failure{status};
}
[[noreturn]] void fail(const std::string& text) { throw Failure{api.create_status(2, text.c_str())}; }

template <typename Body>
OrtStatus* guarded(const Body& body) {
  try {
    body();
    return nullptr;
  } catch (const Failure& failure) {
    return failure.status;
  } catch (const std::bad_alloc&) {
    return api.create_status(1, "gpt_oss: out of memory");
  }
}

std::vector<int64_t> shape_of(const OrtValue* value) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api.tensor_shape(value, &info));
  size_t count = 0;
  OrtStatus* status = api.dimensions_count(info, &count);
  std::vector<int64_t> dims(count);
  if (!status) status = api.dimensions(info, dims.data(), count);
  api.release_shape(info);
  check(status);
  return dims;
}

std::string text_of(const std::vector<int64_t>& dims) {
  std::string text = "[";
  for (size_t i = 0; i < dims.size(); ++i) text += (i ? ", " : "") + std::to_string(dims[i]);
  return text + "]";
}

void expect(const OrtValue* value, const std::vector<int64_t>& dims, const std::string& name) {
  const auto actual = shape_of(value);
  if (actual != dims) fail(name + " must be " + text_of(dims) + ", not " + text_of(actual));
}

template <typename T>
const T* data_of(const OrtValue* value) {
  void* data = nullptr;
  check(api.tensor_data(const_cast<OrtValue*>(value), &data));
  return static_cast<const T*>(data);
}

// The inputs that must be initialisers, each at its own index.
std::vector<const OrtValue*> constant_inputs(const OrtKernelInfo* info, const std::vector<size_t>& indices) {
  std::vector<const OrtValue*> inputs(indices.back() + 1);
  for (const size_t i : indices) {
    int is_constant = 0;
    check(api.constant_input(info, i, &is_constant, &inputs[i]));
    if (!is_constant) fail("input " + std::to_string(i) + " must be an initialiser");
  }
  return inputs;
}

// The tokens of x and the place for its result, whose last dimension is `columns`.
struct Rows {
  const float* x;
  size_t count;
  float* out;
};
Rows rows_of(OrtKernelContext* context, size_t inner, size_t columns) {
  const OrtValue* x = nullptr;
  check(api.input(context, 0, &x));
  auto dims = shape_of(x);
  if (dims.empty() || static_cast<size_t>(dims.back()) != inner)
    fail("x must be [.., " + std::to_string(inner) + "], not " + text_of(dims));
  dims.back() = static_cast<int64_t>(columns);
  OrtValue* out = nullptr;
  check(api.output(context, 0, dims.data(), dims.size(), &out));
  size_t count = 1;
  for (size_t i = 0; i + 1 < dims.size(); ++i) count *= static_cast<size_t>(dims[i]);
  return {data_of<float>(x), count, const_cast<float*>(data_of<float>(out))};
}

// How the tokens of a call are multiplied, as its second input says.
Tokens tokens_of(OrtKernelContext* context, size_t count) {
  const OrtValue* decoded = nullptr;
  check(api.input(context, 1, &decoded));
  expect(decoded, {}, "decoded_tokens");
  return {count, static_cast<size_t>(std::clamp<int64_t>(*data_of<int64_t>(decoded), 0, static_cast<int64_t>(count)))};
}

// Phases on the session's threads.
RunPhases run_phases_of(OrtKernelContext* context) {
  return [context](const std::vector<Phase>& phases) {
    size_t most = 0;
    for (const Phase& phase : phases) most = std::max(most, phase.units);
    const size_t threads = std::min(most, thread_count.load());
    SharedPhases shared(phases, threads);
    if (threads > 1)
      check(api.parallel_for(
          context, [](void* data, size_t) { static_cast<SharedPhases*>(data)->work(); }, threads, threads, &shared));
    else
      shared.work();
    shared.rethrow();
  };
}

// The weights offered under a key, or else those that `pack` makes.
template <typename Pack>
const uint8_t* packed_weights(int64_t key, size_t size, std::unique_ptr<Aligned<uint8_t>>* own, const Pack& pack) {
  {
    std::lock_guard<std::mutex> lock(offers_mutex);
    const auto found = offers.find(key);
    if (found != offers.end()) {
      if (found->second.second != size) fail("the packed weights offered have another size");
      return found->second.first;
    }
  }
  *own = std::make_unique<Aligned<uint8_t>>(size);
  pack((*own)->data);
  return (*own)->data;
}

void pack_experts(const ExpertShape& shape, const uint8_t* gate_up, const uint8_t* gate_up_scales, const uint8_t* down,
                  const uint8_t* down_scales, size_t first, size_t last, uint8_t* out) {
  const size_t n = shape.hidden * shape.inner;
  for (size_t e = first; e < last; ++e) {
    pack_gate_up(shape, gate_up + e * n, gate_up_scales + e * n / 16, out + e * shape.gate_up_bytes());
    pack_down(shape, down + e * n / 2, down_scales + e * n / 32,
              out + shape.experts * shape.gate_up_bytes() + e * shape.down_bytes());
  }
}

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
    weights_.packed = packed_weights(key, weights_.shape.bytes(), &own_, [&](uint8_t* out) {
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
      expert_layer(*chosen_path, weights, form_, rows.x, data_of<float>(logits), tokens_of(context, rows.count),
                   rows.out, run_phases_of(context));
  }

 private:
  ExpertWeights weights_{};  // without biases, which come with each call
  ExpertForm form_{};
  std::unique_ptr<Aligned<uint8_t>> own_;
};

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
          {shape, packed_weights(key + static_cast<int64_t>(i), shape.bytes(kind_), &own_[i], [&](uint8_t* out) {
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
      dense_layer(*chosen_path, kind_, parts_, bias ? data_of<float>(bias) : nullptr, rows.x,
                  tokens_of(context, rows.count), rows.out, run_phases_of(context));
  }

 private:
  static constexpr size_t kFirstWeight = 3;
  DenseKind kind_ = DenseKind::kInt8;
  std::vector<DensePart> parts_;
  size_t rows_ = 0;
  std::vector<std::unique_ptr<Aligned<uint8_t>>> own_;
};

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
      top_logits(*chosen_path, data_of<float>(logits), static_cast<size_t>(dims[0]), static_cast<size_t>(dims[1]),
                 static_cast<size_t>(k_), const_cast<float*>(data_of<float>(outputs[0])),
                 const_cast<int64_t*>(data_of<int64_t>(outputs[1])), const_cast<float*>(data_of<float>(outputs[2])),
                 run_phases_of(context));
  }

 private:
  int64_t k_ = 0;
};

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
    shape.capacity = static_cast<size_t>(past[2]);
    shape.head_dim = static_cast<size_t>(past[3]);
    if (shape.head_dim % kKeyBlock || shape.capacity % kKeyBlock)
      fail("head_dim and the caches' capacity must be multiples of 16, not " + text_of(past));
    expect(inputs[0], {qkv[0], static_cast<int64_t>(shape.width())}, "qkv");
    const std::vector<int64_t> cache{past[0], static_cast<int64_t>(shape.kv_heads), past[2], past[3]};
    expect(inputs[1], cache, "past_key");
    expect(inputs[2], cache, "past_value");
    expect(inputs[3], {qkv[0]}, "token_slots");
    expect(inputs[4], {qkv[0]}, "token_positions");
    expect(inputs[5], {cos[0], past[3] / 2}, "cos");
    expect(inputs[6], {cos[0], past[3] / 2}, "sin");
    expect(inputs[7], {static_cast<int64_t>(shape.heads)}, "sinks");
    const auto segments =
        segments_of(data_of<int32_t>(inputs[3]), data_of<int32_t>(inputs[4]), static_cast<size_t>(qkv[0]));
    require_places(segments, shape, static_cast<size_t>(past[0]), static_cast<size_t>(cos[0]));
    OrtValue *out = nullptr, *keys = nullptr, *values = nullptr;
    const std::vector<int64_t> out_dims{qkv[0], static_cast<int64_t>(shape.heads) * past[3]};
    check(api.output(context, 0, out_dims.data(), out_dims.size(), &out));
    check(api.output(context, 1, cache.data(), cache.size(), &keys));
    check(api.output(context, 2, cache.data(), cache.size(), &values));
    float* present[2] = {const_cast<float*>(data_of<float>(keys)), const_cast<float*>(data_of<float>(values))};
    const size_t floats = static_cast<size_t>(cache[0] * cache[1] * cache[2] * cache[3]);
    for (size_t i = 0; i < 2; ++i) {
      const float* from = data_of<float>(inputs[1 + i]);
      if (from != present[i]) std::memcpy(present[i], from, floats * sizeof(float));
    }
    if (segments.empty()) return;
    attention_layer(*chosen_path, shape,
                    {data_of<float>(inputs[0]), segments, data_of<float>(inputs[5]), data_of<float>(inputs[6]),
                     data_of<float>(inputs[7])},
                    present[0], present[1], const_cast<float*>(data_of<float>(out)), run_phases_of(context));
  }

 private:
  // Refuses tokens whose place is none of the caches', and a slot that two segments write to at a time.
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

int type(ElementType t) { return static_cast<int>(t); }

// What every operator of this library has in common; Kernel is made from OrtKernelInfo and has compute().
template <typename Kernel>
CustomOp operator_of() {
  CustomOp o{};
  o.version = kApiVersion;
  o.provider = [](const CustomOp*) { return "CPUExecutionProvider"; };
  o.output_type = [](const CustomOp*, size_t) { return type(ElementType::kFloat); };
  o.output_count = [](const CustomOp*) { return size_t{1}; };
  o.input_characteristic = [](const CustomOp*, size_t) { return 0; };   // required
  o.output_characteristic = [](const CustomOp*, size_t) { return 0; };  // required
  o.input_memory_type = [](const CustomOp*, size_t) { return 0; };      // default memory
  o.variadic_input_min_arity = [](const CustomOp*) { return 0; };
  o.variadic_input_homogeneity = [](const CustomOp*) { return 0; };
  o.variadic_output_min_arity = [](const CustomOp*) { return 0; };
  o.variadic_output_homogeneity = [](const CustomOp*) { return 0; };
  o.create_kernel_v2 = [](const CustomOp*, const OrtApi*, const OrtKernelInfo* info, void** kernel) {
    return guarded([&] { *kernel = new Kernel(info); });
  };
  o.compute_v2 = [](void* kernel, OrtKernelContext* context) {
    return guarded([&] { static_cast<const Kernel*>(kernel)->compute(context); });
  };
  o.destroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  o.start_version = [](const CustomOp*) { return 1; };
  o.end_version = [](const CustomOp*) { return 0x7fffffff; };
  return o;
}

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

const CustomOp* dense_operator() {
  static const CustomOp op = [] {
    CustomOp o = operator_of<Dense>();
    o.name = [](const CustomOp*) { return "Dense"; };
    o.input_count = [](const CustomOp*) { return size_t{4}; };
    o.input_type = [](const CustomOp*, size_t i) {
      return type(i == 1 ? ElementType::kInt64 : i == 3 ? ElementType::kBFloat16 : ElementType::kFloat);
    };
    o.input_characteristic = [](const CustomOp*, size_t i) {
      return i < 2 ? 0 : i == 2 ? 1 : 2;
    };  // required, optional, variadic
    o.variadic_input_min_arity = [](const CustomOp*) { return 1; };
    o.variadic_input_homogeneity = [](const CustomOp*) { return 1; };
    return o;
  }();
  return &op;
}

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

const CustomOp* attention_operator() {
  static const CustomOp op = [] {
    CustomOp o = operator_of<Attention>();
    o.name = [](const CustomOp*) { return "Attention"; };
    o.input_count = [](const CustomOp*) { return size_t{8}; };
    o.input_type = [](const CustomOp*, size_t i) {
      return type(i == 3 || i == 4 ? ElementType::kInt32 : ElementType::kFloat);
    };
    o.output_count = [](const CustomOp*) { return size_t{3}; };
    return o;
  }();
  return &op;
}

}  // namespace
}  // namespace gpt_oss

using namespace gpt_oss;

EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* table = base->GetApi(kApiVersion);
  if (!table) return nullptr;  // older than this library's ABI: the operators stay unknown, which the session reports
  api.table = table;
  if (!chosen_path) chosen_path = best_path();
  static OrtCustomOpDomain* domain = nullptr;  // lives as long as the process
  if (!domain) {
    if (OrtStatus* status = api.create_domain("gpt_oss", &domain)) return status;
    for (const CustomOp* op :
         {embedding_operator(), expert_layer_operator(), dense_operator(), attention_operator(), top_logits_operator()})
      if (OrtStatus* status = api.domain_add(domain, op)) return status;
  }
  return api.add_domain(options, domain);
}

// The names of the paths this processor supports, best first, separated by spaces.
EXPORT const char* gpt_oss_paths() {
  static const std::string names = [] {
    std::string text;
    for (const Path* path : all_paths())
      if (path->supported()) text += (text.empty() ? "" : " ") + std::string(path->name);
    return text;
  }();
  return names.c_str();
}

// Chooses the path of every session by name; 0 on success, 1 when this processor lacks it or nobody knows it.
EXPORT int gpt_oss_use_path(const char* name) {
  for (const Path* path : all_paths())
    if (std::strcmp(path->name, name) == 0 && path->supported()) {
      chosen_path = path;
      return 0;
    }
  return 1;
}

// How many threads share a layer: the sessions' intra-op threads.
EXPORT void gpt_oss_set_threads(size_t count) { thread_count = std::max<size_t>(1, count); }

EXPORT size_t gpt_oss_expert_bytes(size_t experts, size_t hidden, size_t inner) {
  return ExpertShape{experts, hidden, inner}.bytes();
}

EXPORT size_t gpt_oss_dense_bytes(int kind, size_t rows, size_t inner) {
  return DenseShape{rows, inner}.bytes(static_cast<DenseKind>(kind));
}

// Packs the experts first .. last - 1; `out` is the whole layer's buffer, so that threads can share the work.
EXPORT void gpt_oss_pack_experts(size_t experts, size_t hidden, size_t inner, const uint8_t* gate_up,
                                 const uint8_t* gate_up_scales, const uint8_t* down, const uint8_t* down_scales,
                                 size_t first, size_t last, uint8_t* out) {
  pack_experts({experts, hidden, inner}, gate_up, gate_up_scales, down, down_scales, first, last, out);
}

// Packs the groups of 16 rows first .. last - 1 of a dense weight; `out` is the whole weight's buffer.
EXPORT void gpt_oss_pack_dense(int kind, size_t rows, size_t inner, const uint16_t* weight, size_t first, size_t last,
                               uint8_t* out) {
  const DenseShape shape{rows, inner};
  pack_dense(static_cast<DenseKind>(kind), shape, weight, first, std::min(last, shape.groups()), out);
}

// Offers packed weights to the sessions created from now on; they must stay mapped while one of them lives.
EXPORT void gpt_oss_offer(int64_t key, const uint8_t* bytes, size_t size) {
  std::lock_guard<std::mutex> lock(offers_mutex);
  offers[key] = {bytes, size};
}

// Withdraws every offer; sessions that took one keep using it.
EXPORT void gpt_oss_withdraw_offers() {
  std::lock_guard<std::mutex> lock(offers_mutex);
  offers.clear();
}
