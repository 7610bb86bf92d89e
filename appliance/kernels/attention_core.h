// Attention of one token over the keys and values of one key/value head, in 16-lane vectors that the compiler turns
// into each path's own instructions. Internal linkage on purpose: every path compiles its own copy.
#pragma once

#include "elementwise.h"
#include "lanes.h"
#include "paths.h"

namespace gpt_oss {
namespace {

// Fetches a line ahead of time, while others are computed with.
inline void prefetch(const float* at) { __builtin_prefetch(at); }

// Scores of kQueries queries with the 16 keys of one block (head_dim, 16), while the block after next is fetched.
template <int kQueries>
inline void block_scores(const float* q, const float* keys, size_t head_dim, float* scores, size_t stride) {
  Lanes sums[kQueries] = {};
  for (size_t d = 0; d < head_dim; ++d) {
    prefetch(keys + (2 * head_dim + d) * kKeyBlock);
    const Lanes key = load_lanes(keys + d * kKeyBlock);
#pragma GCC unroll 8
    for (int g = 0; g < kQueries; ++g) sums[g] += q[static_cast<size_t>(g) * head_dim + d] * key;
  }
#pragma GCC unroll 8
  for (int g = 0; g < kQueries; ++g) store_lanes(scores + static_cast<size_t>(g) * stride, sums[g]);
}

constexpr size_t kValueTile = 64;  // positions whose values stay in the first-level cache for all of their dimensions

// Adds to out (queries, head_dim) the values (count, head_dim) of one tile, weighted for kQueries queries.
template <int kQueries>
inline void add_tile(const float* weights, size_t stride, const float* values, size_t head_dim, size_t count,
                     float* out) {
  for (size_t d = 0; d < head_dim; d += kLanes) {
    Lanes sums[kQueries];
#pragma GCC unroll 8
    for (int g = 0; g < kQueries; ++g) sums[g] = load_lanes(out + static_cast<size_t>(g) * head_dim + d);
    for (size_t t = 0; t < count; ++t) {
      prefetch(values + (count + t) * head_dim + d);  // the same place in the next tile
      const Lanes value = load_lanes(values + t * head_dim + d);
#pragma GCC unroll 8
      for (int g = 0; g < kQueries; ++g) sums[g] += weights[static_cast<size_t>(g) * stride + t] * value;
    }
#pragma GCC unroll 8
    for (int g = 0; g < kQueries; ++g) store_lanes(out + static_cast<size_t>(g) * head_dim + d, sums[g]);
  }
}

// Sums of the values of positions first .. end - 1, weighted for kQueries queries; weights begin with that of `first`.
// A ring of values (capacity, head_dim) is read in two parts where it wraps.
template <int kQueries>
inline void weighted_sums(const float* weights, size_t stride, const Attend& a, float* out) {
  const size_t count = a.end - a.first;
  std::memset(out, 0, kQueries * a.head_dim * sizeof(float));
  for (size_t t = 0, n; t < count; t += n) {
    const size_t place = (a.first + t) % a.capacity;
    n = std::min({kValueTile, count - t, a.capacity - place});
    add_tile<kQueries>(weights + t, stride, a.values + place * a.head_dim, a.head_dim, n, out);
  }
}

// Turns the scores of one query into shares; the sink's own share is not stored. Whole blocks are read and written.
inline void softmax(float* scores, size_t blocks, float sink) {
  Lanes largest_lanes = load_lanes(scores);
  for (size_t b = 1; b < blocks; ++b) {
    const Lanes block = load_lanes(scores + b * kKeyBlock);
    largest_lanes = block > largest_lanes ? block : largest_lanes;
  }
  float largest = sink;
  for (size_t i = 0; i < kKeyBlock; ++i) largest = std::max(largest, largest_lanes[i]);
  Lanes sum_lanes = {};
  for (size_t b = 0; b < blocks; ++b) {
    float* block = scores + b * kKeyBlock;
    // A masked score is about -3e38: its exponential is flushed to zero, not clamped.
    for (size_t i = 0; i < kKeyBlock; ++i) {
      const float x = block[i] - largest;
      block[i] = x < -80.0f ? 0.0f : exponential(x);
    }
    sum_lanes += load_lanes(block);
  }
  float total = exponential(sink - largest);
  for (size_t i = 0; i < kKeyBlock; ++i) total += sum_lanes[i];
  const float share = 1.0f / total;
  for (size_t b = 0; b < blocks; ++b) store_lanes(scores + b * kKeyBlock, load_lanes(scores + b * kKeyBlock) * share);
}

template <int kQueries>
inline void attend_queries(const Attend& a, const float* q, const float* sinks, float* out) {
  const size_t first_block = a.first / kKeyBlock, blocks = (a.end + kKeyBlock - 1) / kKeyBlock - first_block;
  const size_t stride = blocks * kKeyBlock, start = first_block * kKeyBlock;
  for (size_t b = 0; b < blocks; ++b)
    block_scores<kQueries>(q, a.keys + (first_block + b) * kKeyBlock % a.capacity * a.head_dim, a.head_dim,
                           a.scores + b * kKeyBlock, stride);
  for (size_t g = 0; g < kQueries; ++g) {
    float* scores = a.scores + g * stride;
    for (size_t t = start; t < a.first; ++t) scores[t - start] = -3e38f;
    for (size_t t = a.end; t < start + stride; ++t) scores[t - start] = -3e38f;
    softmax(scores, blocks, sinks[g]);
  }
  // Values beyond `end` are not read, because a cache may hold anything there.
  weighted_sums<kQueries>(a.scores + (a.first - start), stride, a, out);
}

inline void attend(const Attend& a) {
  size_t g = 0;
  for (; g + 8 <= a.queries; g += 8) attend_queries<8>(a, a.q + g * a.head_dim, a.sinks + g, a.out + g * a.head_dim);
  for (; g + 4 <= a.queries; g += 4) attend_queries<4>(a, a.q + g * a.head_dim, a.sinks + g, a.out + g * a.head_dim);
  for (; g < a.queries; ++g) attend_queries<1>(a, a.q + g * a.head_dim, a.sinks + g, a.out + g * a.head_dim);
}

}  // namespace
}  // namespace gpt_oss
