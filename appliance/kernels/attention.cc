#include "attention.h"

#include "cache_layout.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace gpt_oss {
namespace {

constexpr size_t kUnitTokens = 8;  // a thread takes so many tokens of one key/value head at a time

// Rotates dimension i together with dimension i + head_dim / 2.
void rotate(const float* x, const float* cosines, const float* sines, size_t head_dim, float factor, float* out) {
  const size_t half = head_dim / 2;
  for (size_t i = 0; i < half; ++i) {
    const float a = x[i], b = x[half + i];
    out[i] = factor * (a * cosines[i] - b * sines[i]);
    out[half + i] = factor * (b * cosines[i] + a * sines[i]);
  }
}

void attend_on(const Path& path, const Attend<float>& attend) { path.attend(attend); }
void attend_on(const Path& path, const Attend<Bfloat16>& attend) { path.attend_bfloat16(attend); }

}  // namespace

std::vector<Segment> segments_of(const int32_t* slots, const int32_t* positions, size_t tokens) {
  std::vector<Segment> segments;
  for (size_t t = 0; t < tokens; ++t) {
    if (t && slots[t] == slots[t - 1] && positions[t] == int64_t{positions[t - 1]} + 1)
      ++segments.back().count;
    else
      segments.push_back({static_cast<size_t>(slots[t]), static_cast<size_t>(positions[t]), t, 1});
  }
  return segments;
}

template <typename Item>
void attention_layer(const Path& path, const AttentionShape& shape, const AttentionInputs& in, Item* keys, Item* values,
                     float* out, const RunPhases& run) {
  using Layout = CacheLayout<Item>;
  const size_t head_dim = shape.head_dim, half = head_dim / 2, group = shape.heads / shape.kv_heads;
  const auto cache_of = [&](size_t slot, size_t head) {
    return (slot * shape.kv_heads + head) * shape.capacity * head_dim;
  };

  // 1. The keys and values of every token, before any token attends to them.
  const auto append = [&](size_t unit) {
    const Segment& segment = in.segments[unit / shape.kv_heads];
    const size_t head = unit % shape.kv_heads;
    std::vector<float> key(head_dim);
    for (size_t t = 0; t < segment.count; ++t) {
      const float* token = in.qkv + (segment.token + t) * shape.width();
      const float* value = token + (shape.heads + shape.kv_heads + head) * head_dim;
      const size_t position = segment.position + t;
      rotate(token + (shape.heads + head) * head_dim, in.cosines + position * half, in.sines + position * half,
             head_dim, 1.0f, key.data());
      const size_t place = position % shape.capacity;
      Item* block = keys + cache_of(segment.slot, head) + place / kKeyBlock * kKeyBlock * head_dim;
      Item* held = values + cache_of(segment.slot, head) + place * head_dim;
      for (size_t d = 0; d < head_dim; ++d) {
        block[Layout::key_at(d, place % kKeyBlock)] = Layout::stored(key[d]);
        held[Layout::value_at(d, head_dim)] = Layout::stored(value[d]);
      }
    }
  };

  // 2. The attention of each token, for the query heads that share a key/value head; a few neighbours at a time.
  std::vector<Segment> parts;
  for (const Segment& whole : in.segments)
    for (size_t t = 0; t < whole.count; t += kUnitTokens)
      parts.push_back({whole.slot, whole.position + t, whole.token + t, std::min(kUnitTokens, whole.count - t)});
  const float factor = 1.0f / std::sqrt(static_cast<float>(head_dim));
  const auto attend = [&](size_t unit) {
    const Segment& part = parts[unit / shape.kv_heads];
    const size_t head = unit % shape.kv_heads;
    thread_local std::vector<float> scores;
    std::vector<float> q(group * head_dim);
    for (size_t t = 0; t < part.count; ++t) {
      const size_t position = part.position + t;
      const float* token = in.qkv + (part.token + t) * shape.width();
      for (size_t g = 0; g < group; ++g)
        rotate(token + (head * group + g) * head_dim, in.cosines + position * half, in.sines + position * half,
               head_dim, factor, q.data() + g * head_dim);
      const size_t first = shape.window && position + 1 > shape.window ? position + 1 - shape.window : 0;
      scores.resize(std::max(scores.size(), kMaxRows * (position + 1 - first + 2 * kKeyBlock + head_dim)));
      attend_on(path, Attend<Item>{q.data(), group, head_dim, shape.capacity, keys + cache_of(part.slot, head),
                                   values + cache_of(part.slot, head), first, position + 1, in.sinks + head * group,
                                   scores.data(), out + ((part.token + t) * shape.heads + head * group) * head_dim});
    }
  };

  run({{in.segments.size() * shape.kv_heads, append}, {parts.size() * shape.kv_heads, attend}});
}

template void attention_layer(const Path&, const AttentionShape&, const AttentionInputs&, float*, float*, float*,
                              const RunPhases&);
template void attention_layer(const Path&, const AttentionShape&, const AttentionInputs&, Bfloat16*, Bfloat16*, float*,
                              const RunPhases&);

}  // namespace gpt_oss
