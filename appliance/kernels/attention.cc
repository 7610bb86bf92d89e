#include "attention.h"

#include "cache_layout.h"
#include "elementwise.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace gpt_oss {
namespace {

constexpr size_t kPartTokens = 8;  // a thread takes so many tokens of one key/value head at a time

// Positions are divided at multiples of these, so that a token gets the same bits whatever it is computed with. The keys
// and values of a stretch stay in the second-level cache while the tokens of a part attend to them. A section is the
// least that a thread takes where few tokens share a long conversation.
constexpr size_t kStretch = 512;
constexpr size_t kSection = 16 * kStretch;

// Rotates dimension i together with dimension i + head_dim / 2. Dimensions are `stride` apart in `out`.
void rotate(const float* x, const float* cosines, const float* sines, size_t head_dim, float factor, float* out,
            size_t stride) {
  const size_t half = head_dim / 2;
  for (size_t i = 0; i < half; ++i) {
    const float a = x[i], b = x[half + i];
    out[i * stride] = factor * (a * cosines[i] - b * sines[i]);
    out[(half + i) * stride] = factor * (b * cosines[i] + a * sines[i]);
  }
}

void attend_on(const Path& path, const Attend<float>& attend) { path.attend(attend); }
void attend_on(const Path& path, const Attend<Bfloat16>& attend) { path.attend_bfloat16(attend); }

// Where the sums of some queries stand in memory of their own.
struct SumsLayout {
  size_t queries, head_dim;
  size_t size() const { return queries * (head_dim + 2); }
  AttendedSums at(float* memory) const { return {memory, memory + queries, memory + 2 * queries}; }
};

// Adds the sums of further positions.
void merge(const AttendedSums& into, const AttendedSums& from, const SumsLayout& layout) {
  for (size_t g = 0; g < layout.queries; ++g) {
    const float largest = std::max(into.largest[g], from.largest[g]);
    const float kept = exponential(into.largest[g] - largest), added = exponential(from.largest[g] - largest);
    into.largest[g] = largest;
    into.totals[g] = into.totals[g] * kept + from.totals[g] * added;
    for (size_t i = g * layout.head_dim; i < (g + 1) * layout.head_dim; ++i)
      into.values[i] = into.values[i] * kept + from.values[i] * added;
  }
}

// A few neighbours of a slot, and the sections that they see. `sums`: where those of the first section begin, if
// sections are divided among threads.
struct Part {
  Segment tokens;
  size_t first, end;
  size_t sums;
  bool divided;
};

// What a thread takes at a time, for one key/value head: a part, and which of its sections.
struct Work {
  size_t part;
  size_t first, end;
};

template <typename Item>
class Call {
 public:
  Call(const Path& path, const AttentionShape& shape, const AttentionInputs& in, Item* keys, Item* values, float* out)
      : path_(path),
        shape_(shape),
        in_(in),
        keys_(keys),
        values_(values),
        out_(out),
        layout_{shape.heads / shape.kv_heads, shape.head_dim} {
    for (const Segment& whole : in.segments)
      for (size_t t = 0; t < whole.count; t += kPartTokens)
        plan({whole.slot, whole.position + t, whole.token + t, std::min(kPartTokens, whole.count - t)});
  }

  void run(const RunPhases& run) {
    const size_t heads = shape_.kv_heads;
    std::vector<Phase> phases{
        {in_.segments.size() * heads, [&](size_t unit) { append(in_.segments[unit / heads], unit % heads); }},
        {works_.size() * heads, [&](size_t unit) { attend(works_[unit / heads], unit % heads); }}};
    if (!divided_.empty())
      phases.push_back(
          {divided_.size() * heads, [&](size_t unit) { join(parts_[divided_[unit / heads]], unit % heads); }});
    run(phases);
  }

 private:
  // A prompt has enough full parts for all threads. The sections of a smaller one, which may be alone, are divided.
  void plan(const Segment& tokens) {
    const size_t first = first_seen(tokens.position) / kSection;
    const size_t end = (tokens.position + tokens.count - 1) / kSection + 1;
    const bool divided = tokens.count < kPartTokens && end - first > 1;
    const size_t part = parts_.size();
    parts_.push_back({tokens, first, end, sums_.size(), divided});
    if (!divided) return works_.push_back({part, first, end});
    divided_.push_back(part);
    sums_.resize(sums_.size() + (end - first) * shape_.kv_heads * tokens.count * layout_.size());
    for (size_t section = first; section < end; ++section) works_.push_back({part, section, section + 1});
  }

  size_t first_seen(size_t position) const {
    return shape_.window && position + 1 > shape_.window ? position + 1 - shape_.window : 0;
  }
  size_t cache_of(size_t slot, size_t head) const {
    return (slot * shape_.kv_heads + head) * shape_.capacity * shape_.head_dim;
  }
  float* sums_of(const Part& part, size_t section, size_t head) {
    return sums_.data() + part.sums +
           ((section - part.first) * shape_.kv_heads + head) * part.tokens.count * layout_.size();
  }

  // 1. Stores the keys and values of a segment, before any token attends to them.
  void append(const Segment& segment, size_t head) const {
    using Layout = CacheLayout<Item>;
    const size_t head_dim = shape_.head_dim, half = head_dim / 2;
    std::vector<float> key(head_dim);
    for (size_t t = 0; t < segment.count; ++t) {
      const float* token = in_.qkv + (segment.token + t) * shape_.width();
      const float* value = token + (shape_.heads + shape_.kv_heads + head) * head_dim;
      const size_t position = segment.position + t, place = position % shape_.capacity;
      rotate(token + (shape_.heads + head) * head_dim, in_.cosines + position * half, in_.sines + position * half,
             head_dim, 1.0f, key.data(), 1);
      Item* block = keys_ + cache_of(segment.slot, head) + place / kKeyBlock * kKeyBlock * head_dim;
      Item* held = values_ + cache_of(segment.slot, head) + place * head_dim;
      for (size_t d = 0; d < head_dim; ++d) {
        block[Layout::key_at(d, place % kKeyBlock)] = Layout::stored(key[d]);
        held[Layout::value_at(d, head_dim)] = Layout::stored(value[d]);
      }
    }
  }

  // 2. The sums of sections, for the queries that share a key/value head, and the results if a thread takes them all.
  void attend(const Work& work, size_t head) {
    const Part& part = parts_[work.part];
    const std::vector<float> q = queries_of(part.tokens, head);
    if (part.divided) return sum_section(part.tokens, head, q, work.first, sums_of(part, work.first, head));
    std::vector<float> sums(part.tokens.count * layout_.size());
    write_results(part, head, [&](size_t section) {
      sum_section(part.tokens, head, q, section, sums.data());
      return sums.data();
    });
  }

  // 3. The results of a part whose sections were divided.
  void join(const Part& part, size_t head) {
    write_results(part, head, [&](size_t section) { return sums_of(part, section, head); });
  }

  // The queries of each token, (head_dim, queries), rotated and scaled.
  std::vector<float> queries_of(const Segment& tokens, size_t head) const {
    const size_t group = layout_.queries, head_dim = shape_.head_dim, half = head_dim / 2;
    const float factor = 1.0f / std::sqrt(static_cast<float>(head_dim));
    std::vector<float> q(tokens.count * group * head_dim);
    for (size_t t = 0; t < tokens.count; ++t) {
      const float* token = in_.qkv + (tokens.token + t) * shape_.width();
      const size_t at = (tokens.position + t) * half;
      for (size_t g = 0; g < group; ++g)
        rotate(token + (head * group + g) * head_dim, in_.cosines + at, in_.sines + at, head_dim, factor,
               q.data() + t * group * head_dim + g, group);
    }
    return q;
  }

  // Fills the sums (tokens, ..) of what each token sees of a section, stretch by stretch.
  void sum_section(const Segment& tokens, size_t head, const std::vector<float>& q, size_t section, float* sums) const {
    const size_t seen = tokens.position + tokens.count, end = std::min((section + 1) * kSection, seen);
    const size_t first = std::max(section * kSection, first_seen(tokens.position));
    for (size_t t = 0; t < tokens.count; ++t) {
      const AttendedSums fresh = layout_.at(sums + t * layout_.size());
      std::fill_n(fresh.largest, layout_.queries, std::numeric_limits<float>::lowest());
      std::fill_n(fresh.totals, layout_.size() - layout_.queries, 0.0f);
    }
    thread_local std::vector<float> scores(kMaxRows * (kStretch + 2 * kKeyBlock));
    for (size_t from = first, to; from < end; from = to) {
      to = std::min((from / kStretch + 1) * kStretch, end);
      for (size_t t = 0; t < tokens.count; ++t) {
        const size_t its_first = std::max(from, first_seen(tokens.position + t));
        const size_t its_end = std::min(to, tokens.position + t + 1);
        if (its_first >= its_end) continue;
        const size_t ahead = t + 1 == tokens.count && to < end ? kStretch : 0;
        attend_on(path_, Attend<Item>{q.data() + t * layout_.queries * shape_.head_dim, layout_.queries,
                                      shape_.head_dim, shape_.capacity, keys_ + cache_of(tokens.slot, head),
                                      values_ + cache_of(tokens.slot, head), its_first, its_end, ahead, scores.data(),
                                      layout_.at(sums + t * layout_.size())});
      }
    }
  }

  // The results of a part: the sums of its sections in their order, after the sinks. sums_of(section) gives them.
  template <typename SumsOf>
  void write_results(const Part& part, size_t head, const SumsOf& sums_of) const {
    const size_t group = layout_.queries, count = part.tokens.count;
    std::vector<float> largest(count * group), totals(count * group, 1.0f);
    const auto result = [&](size_t t) {
      float* row = out_ + ((part.tokens.token + t) * shape_.heads + head * group) * shape_.head_dim;
      return AttendedSums{largest.data() + t * group, totals.data() + t * group, row};
    };
    for (size_t t = 0; t < count; ++t) {
      std::copy_n(in_.sinks + head * group, group, result(t).largest);
      std::fill_n(result(t).values, group * shape_.head_dim, 0.0f);
    }
    for (size_t section = part.first; section < part.end; ++section) {
      float* sums = sums_of(section);
      for (size_t t = 0; t < count; ++t) merge(result(t), layout_.at(sums + t * layout_.size()), layout_);
    }
    for (size_t t = 0; t < count; ++t)
      for (size_t g = 0; g < group; ++g) {
        const float share = 1.0f / result(t).totals[g];
        float* values = result(t).values + g * shape_.head_dim;
        for (size_t d = 0; d < shape_.head_dim; ++d) values[d] *= share;
      }
  }

  const Path& path_;
  const AttentionShape& shape_;
  const AttentionInputs& in_;
  Item* const keys_;
  Item* const values_;
  float* const out_;
  const SumsLayout layout_;
  std::vector<Part> parts_;
  std::vector<Work> works_;
  std::vector<size_t> divided_;
  std::vector<float> sums_;
};

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
  Call<Item>(path, shape, in, keys, values, out).run(run);
}

template void attention_layer(const Path&, const AttentionShape&, const AttentionInputs&, float*, float*, float*,
                              const RunPhases&);
template void attention_layer(const Path&, const AttentionShape&, const AttentionInputs&, Bfloat16*, Bfloat16*, float*,
                              const RunPhases&);

}  // namespace gpt_oss
