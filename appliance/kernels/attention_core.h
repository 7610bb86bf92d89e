// Attention of one token over the keys and values of one key/value head, in vectors that the compiler turns into each
// path's own instructions. Internal linkage on purpose: every path compiles its own copy.
#pragma once

#include "cache_layout.h"
#include "elementwise.h"
#include "paths.h"
#include "vectors.h"

namespace gpt_oss {
namespace {

// Fetches a line ahead of time, while others are computed with.
inline void prefetch(const void* at) { __builtin_prefetch(at); }

// The sums that stay in registers: so many queries together, with so many keys or dimensions (kWideLanes).
constexpr size_t kTogether = kVectorLanes / 2;
constexpr size_t kWideLanes = kVectorLanes == 16 ? 32 : 16;
constexpr size_t kBlockVectors = kKeyBlock / kVectorLanes;

// How many of kQueries queries are computed together.
template <size_t kQueries>
constexpr size_t kPart = kQueries < kTogether ? kQueries : kTogether;

// Vector v of a line of keys; of the dimensions that the line holds, the one of that number.
inline Vector key_vector(const float* line, size_t, size_t v) { return load_vector(line + v * kVectorLanes); }
inline Vector key_vector(const Bfloat16* line, size_t dimension, size_t v) {
  return load_halves(line + 2 * v * kVectorLanes, dimension != 0);
}

// Scores of kQueries of all queries (head_dim, all) with the keys of kBlocks blocks, while later lines are fetched.
template <size_t kQueries, size_t kBlocks, bool kFetch, typename Item>
inline void some_scores(const float* q, size_t all, const Item* const* blocks, size_t head_dim, float* scores,
                        size_t stride) {
  constexpr size_t kVectors = kBlocks * kBlockVectors;
  constexpr size_t kDims = kLineBytes / sizeof(Item) / kKeyBlock;                // dimensions in a line
  const size_t ahead = 2 * head_dim * kKeyBlock * sizeof(float) / sizeof(Item);  // the same time for every item
  Vector sums[kQueries][kVectors] = {};
  for (size_t d = 0; d < head_dim; d += kDims) {
#pragma GCC unroll 2
    for (size_t b = 0; kFetch && b < kBlocks; ++b) prefetch(blocks[b] + d * kKeyBlock + ahead);
#pragma GCC unroll 2
    for (size_t i = 0; i < kDims; ++i) {
      Vector keys[kVectors];
#pragma GCC unroll 4
      for (size_t v = 0; v < kVectors; ++v)
        keys[v] = key_vector(blocks[v / kBlockVectors] + d * kKeyBlock, i, v % kBlockVectors);
#pragma GCC unroll 8
      for (size_t g = 0; g < kQueries; ++g)
#pragma GCC unroll 4
        for (size_t v = 0; v < kVectors; ++v) sums[g][v] += q[(d + i) * all + g] * keys[v];
    }
  }
#pragma GCC unroll 8
  for (size_t g = 0; g < kQueries; ++g)
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) store_vector(scores + g * stride + v * kVectorLanes, sums[g][v]);
}

// Scores of all queries (head_dim, kQueries) with the keys of kBlocks blocks.
template <size_t kQueries, size_t kBlocks, typename Item>
inline void block_scores(const float* q, const Item* const* blocks, size_t head_dim, float* scores, size_t stride) {
  constexpr size_t kFew = kPart<kQueries>;
  some_scores<kFew, kBlocks, true>(q, kQueries, blocks, head_dim, scores, stride);
  for (size_t g = kFew; g < kQueries; g += kFew)
    some_scores<kFew, kBlocks, false>(q + g, kQueries, blocks, head_dim, scores + g * stride, stride);
}

// Scores of the queries (kQueries, head_dim) with the keys of neighbouring blocks. `turned` has room for the queries.
template <size_t kQueries, typename Item>
inline void all_scores(const Attend<Item>& a, const float* q, size_t first, size_t blocks, float* turned,
                       size_t stride) {
  for (size_t d = 0; d < a.head_dim; ++d)
    for (size_t g = 0; g < kQueries; ++g) turned[d * kQueries + g] = q[g * a.head_dim + d];
  const auto keys_of = [&](size_t b) { return a.keys + (first + b) * kKeyBlock % a.capacity * a.head_dim; };
  size_t b = 0;
  if constexpr (kWideLanes == 2 * kKeyBlock)
    for (; b + 2 <= blocks; b += 2) {
      const Item* two[] = {keys_of(b), keys_of(b + 1)};
      block_scores<kQueries, 2>(turned, two, a.head_dim, a.scores + b * kKeyBlock, stride);
    }
  for (; b < blocks; ++b) {
    const Item* one[] = {keys_of(b)};
    block_scores<kQueries, 1>(turned, one, a.head_dim, a.scores + b * kKeyBlock, stride);
  }
}

constexpr size_t kValueTile = 64;  // positions whose values stay in the first-level cache for all of their dimensions

// The shares of `count` positions for each query, `stride` apart.
struct Shares {
  const float* first;
  size_t stride, count;
};

// Adds kVectors vectors of every position's value to those of out (queries, head_dim). value_of(t, v) gives them.
template <size_t kQueries, size_t kVectors, typename ValueOf>
inline void add_values(const Shares& shares, size_t head_dim, float* out, const ValueOf& value_of) {
  Vector sums[kQueries][kVectors];
#pragma GCC unroll 8
  for (size_t g = 0; g < kQueries; ++g)
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) sums[g][v] = load_vector(out + g * head_dim + v * kVectorLanes);
  for (size_t t = 0; t < shares.count; ++t) {
    Vector value[kVectors];
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) value[v] = value_of(t, v);
#pragma GCC unroll 8
    for (size_t g = 0; g < kQueries; ++g)
#pragma GCC unroll 4
      for (size_t v = 0; v < kVectors; ++v) sums[g][v] += shares.first[g * shares.stride + t] * value[v];
  }
#pragma GCC unroll 8
  for (size_t g = 0; g < kQueries; ++g)
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) store_vector(out + g * head_dim + v * kVectorLanes, sums[g][v]);
}

constexpr size_t kUnit = CacheLayout<Bfloat16>::kLineItems;  // dimensions of a value that are computed with in a row

// Vector v of a unit of a value, and of the half unit that a value may end with.
inline Vector unit_vector(const float* unit, size_t v) { return load_vector(unit + v * kVectorLanes); }
inline Vector unit_vector(const Bfloat16* unit, size_t v) {
  return load_halves(unit + 2 * (v % kBlockVectors) * kVectorLanes, v >= kBlockVectors);
}
inline Vector rest_vector(const float* rest, size_t v) { return load_vector(rest + v * kVectorLanes); }
inline Vector rest_vector(const Bfloat16* rest, size_t v) {
  Bfloat16 words[2 * kVectorLanes] = {};
  for (size_t i = 0; i < kVectorLanes; ++i) words[2 * i] = rest[v * kVectorLanes + i];
  return load_halves(words, false);
}

// Adds to out (queries, head_dim) the values of one tile, weighted for kQueries queries, while the next is fetched.
template <size_t kQueries, bool kFetch, typename Item>
inline void add_tile(const Shares& shares, const Item* values, size_t head_dim, float* out) {
  constexpr size_t kVectors = kWideLanes / kVectorLanes, kLineItems = kLineBytes / sizeof(Item);
  size_t d = 0;
  for (; d + kUnit <= head_dim; d += kUnit)
#pragma GCC unroll 2
    for (size_t part = 0; part < kUnit / kWideLanes; ++part)
      add_values<kQueries, kVectors>(shares, head_dim, out + d + part * kWideLanes, [&](size_t t, size_t v) {
        const Item* unit = values + t * head_dim + d;
        if (kFetch && part == 0 && v == 0)  // the same place in the next tile
          for (size_t i = 0; i < kUnit; i += kLineItems) prefetch(unit + shares.count * head_dim + i);
        return unit_vector(unit, part * kVectors + v);
      });
  if (d < head_dim)
    add_values<kQueries, kBlockVectors>(shares, head_dim, out + d,
                                        [&](size_t t, size_t v) { return rest_vector(values + t * head_dim + d, v); });
}

// Sums of the values of positions first .. end - 1, weighted for kQueries queries; weights begin with that of `first`.
// A ring of values (capacity, head_dim) is read in two parts where it wraps.
template <size_t kQueries, typename Item>
inline void weighted_sums(const float* weights, size_t stride, const Attend<Item>& a, float* out) {
  constexpr size_t kFew = kPart<kQueries>;
  const size_t count = a.end - a.first;
  std::memset(out, 0, kQueries * a.head_dim * sizeof(float));
  for (size_t t = 0, n; t < count; t += n) {
    const size_t place = (a.first + t) % a.capacity;
    n = std::min({kValueTile, count - t, a.capacity - place});
    const Item* values = a.values + place * a.head_dim;
    add_tile<kFew, true>({weights + t, stride, n}, values, a.head_dim, out);
    for (size_t g = kFew; g < kQueries; g += kFew)
      add_tile<kFew, false>({weights + t + g * stride, stride, n}, values, a.head_dim, out + g * a.head_dim);
  }
}

// Turns the scores of one query into shares; the sink's own share is not stored. Whole blocks are read and written.
inline void softmax(float* scores, size_t blocks, float sink) {
  float* const end = scores + blocks * kKeyBlock;
  Vector vectors[kBlockVectors];  // a lane for each place in a block: first their largest scores, then their sums
  for (size_t v = 0; v < kBlockVectors; ++v) vectors[v] = load_vector(scores + v * kVectorLanes);
  for (const float* block = scores + kKeyBlock; block < end; block += kKeyBlock)
#pragma GCC unroll 4
    for (size_t v = 0; v < kBlockVectors; ++v) {
      const Vector next = load_vector(block + v * kVectorLanes);
      vectors[v] = next > vectors[v] ? next : vectors[v];
    }
  float largest = sink;
  for (size_t i = 0; i < kKeyBlock; ++i) largest = std::max(largest, vectors[i / kVectorLanes][i % kVectorLanes]);
  for (size_t v = 0; v < kBlockVectors; ++v) vectors[v] = Vector{};
  for (float* block = scores; block < end; block += kKeyBlock) {
    // A masked score is about -3e38: its exponential is flushed to zero, not clamped.
    for (size_t i = 0; i < kKeyBlock; ++i) {
      const float x = block[i] - largest;
      block[i] = x < -80.0f ? 0.0f : exponential(x);
    }
#pragma GCC unroll 4
    for (size_t v = 0; v < kBlockVectors; ++v) vectors[v] += load_vector(block + v * kVectorLanes);
  }
  float total = exponential(sink - largest);
  for (size_t i = 0; i < kKeyBlock; ++i) total += vectors[i / kVectorLanes][i % kVectorLanes];
  const float share = 1.0f / total;
  for (float* score = scores; score < end; score += kVectorLanes) store_vector(score, load_vector(score) * share);
}

template <size_t kQueries, typename Item>
inline void attend_queries(const Attend<Item>& a, const float* q, const float* sinks, float* out) {
  const size_t first_block = a.first / kKeyBlock, blocks = (a.end + kKeyBlock - 1) / kKeyBlock - first_block;
  const size_t stride = blocks * kKeyBlock, start = first_block * kKeyBlock;
  all_scores<kQueries>(a, q, first_block, blocks, a.scores + kQueries * stride, stride);
  for (size_t g = 0; g < kQueries; ++g) {
    float* scores = a.scores + g * stride;
    for (size_t t = start; t < a.first; ++t) scores[t - start] = -3e38f;
    for (size_t t = a.end; t < start + stride; ++t) scores[t - start] = -3e38f;
    softmax(scores, blocks, sinks[g]);
  }
  // Values beyond `end` are not read, because a cache may hold anything there.
  weighted_sums<kQueries>(a.scores + (a.first - start), stride, a, out);
}

template <typename Item>
void attend(const Attend<Item>& a) {
  size_t g = 0;
  for (; g + 8 <= a.queries; g += 8) attend_queries<8>(a, a.q + g * a.head_dim, a.sinks + g, a.out + g * a.head_dim);
  for (; g + 4 <= a.queries; g += 4) attend_queries<4>(a, a.q + g * a.head_dim, a.sinks + g, a.out + g * a.head_dim);
  for (; g < a.queries; ++g) attend_queries<1>(a, a.q + g * a.head_dim, a.sinks + g, a.out + g * a.head_dim);
}

}  // namespace
}  // namespace gpt_oss
