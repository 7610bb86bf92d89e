#include "attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace gpt_oss {
namespace {

constexpr size_t kUnitTokens = 8;  // of one key/value head, which one thread takes at a time

// Dimension i turns with dimension i + head_dim / 2.
void rotate(const float* x, const float* cosines, const float* sines, size_t head_dim, float factor, float* out) {
  const size_t half = head_dim / 2;
  for (size_t i = 0; i < half; ++i) {
    const float a = x[i], b = x[half + i];
    out[i] = factor * (a * cosines[i] - b * sines[i]);
    out[half + i] = factor * (b * cosines[i] + a * sines[i]);
  }
}

}  // namespace

void attention_layer(const Path& path, const AttentionShape& shape, const AttentionInputs& in, float* keys,
                     float* values, float* out, const RunPhases& run) {
  const size_t head_dim = shape.head_dim, half = head_dim / 2, group = shape.heads / shape.kv_heads;
  const size_t units = (in.tokens + kUnitTokens - 1) / kUnitTokens;
  const auto position_of = [&](size_t b, size_t t) { return static_cast<size_t>(in.last[b]) + 1 - in.tokens + t; };
  const auto cache_of = [&](size_t b, size_t head) { return (b * shape.kv_heads + head) * shape.capacity * head_dim; };

  // 1. Keys and values of every token, before any of them is attended to.
  const auto append = [&](size_t unit) {
    const size_t b = unit / shape.kv_heads, head = unit % shape.kv_heads;
    std::vector<float> key(head_dim);
    for (size_t t = 0; t < in.tokens; ++t) {
      const float* token = in.qkv + (b * in.tokens + t) * shape.width();
      const size_t position = position_of(b, t);
      rotate(token + (shape.heads + head) * head_dim, in.cosines + position * half, in.sines + position * half,
             head_dim, 1.0f, key.data());
      const size_t place = position % shape.capacity;
      float* block = keys + cache_of(b, head) + place / kKeyBlock * kKeyBlock * head_dim;
      for (size_t d = 0; d < head_dim; ++d) block[d * kKeyBlock + place % kKeyBlock] = key[d];
      std::memcpy(values + cache_of(b, head) + place * head_dim,
                  token + (shape.heads + shape.kv_heads + head) * head_dim, head_dim * sizeof(float));
    }
  };

  // 2. Each token, for the query heads that share a key/value head.
  const float factor = 1.0f / std::sqrt(static_cast<float>(head_dim));
  const auto attend = [&](size_t unit) {
    const size_t head = unit % shape.kv_heads, part = unit / shape.kv_heads % units;
    const size_t b = unit / shape.kv_heads / units;
    thread_local std::vector<float> scores;
    std::vector<float> q(group * head_dim);
    for (size_t t = part * kUnitTokens; t < std::min(in.tokens, (part + 1) * kUnitTokens); ++t) {
      const size_t position = position_of(b, t);
      const float* token = in.qkv + (b * in.tokens + t) * shape.width();
      for (size_t g = 0; g < group; ++g)
        rotate(token + (head * group + g) * head_dim, in.cosines + position * half, in.sines + position * half,
               head_dim, factor, q.data() + g * head_dim);
      const size_t first = shape.window && position + 1 > shape.window ? position + 1 - shape.window : 0;
      scores.resize(std::max(scores.size(), kMaxRows * (position + 1 - first + 2 * kKeyBlock)));
      path.attend({q.data(), group, head_dim, shape.capacity, keys + cache_of(b, head), values + cache_of(b, head), first,
                   position + 1, in.sinks + head * group, scores.data(),
                   out + ((b * in.tokens + t) * shape.heads + head * group) * head_dim});
    }
  };

  run({{in.batch * shape.kv_heads, append}, {in.batch * units * shape.kv_heads, attend}});
}

}  // namespace gpt_oss
