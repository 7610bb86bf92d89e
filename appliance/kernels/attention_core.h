// Attention of one token over the keys and values of one key/value head, in vectors that the compiler turns into each
// path's own instructions. Internal linkage on purpose: every path compiles its own copy.
#pragma once

#include "cache_layout.h"
#include "elementwise.h"
#include "paths.h"
#include "vectors.h"

namespace gpt_oss {
namespace {

// Fetches a line into the second-level cache, while others are computed with. What is fetched here is needed many lines
// later, and the first level has room for few reads in flight.
inline void prefetch(const void* at) { __builtin_prefetch(at, 0, 2); }

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

// Blocks of keys, and the lines to fetch while they are computed with: one for each line of keys.
template <size_t kBlocks, typename Item>
struct Blocks {
  const Item* keys[kBlocks];
  const Item* fetched[kBlocks];
};

// Scores of kQueries of all queries (head_dim, all) with the keys of kBlocks blocks.
template <size_t kQueries, bool kFetch, size_t kBlocks, typename Item>
inline void some_scores(const float* q, size_t all, const Blocks<kBlocks, Item>& blocks, size_t head_dim, float* scores,
                        size_t stride) {
  constexpr size_t kVectors = kBlocks * kBlockVectors;
  constexpr size_t kDims = kLineBytes / sizeof(Item) / kKeyBlock;  // dimensions in a line
  Vector sums[kQueries][kVectors] = {};
  for (size_t d = 0; d < head_dim; d += kDims) {
#pragma GCC unroll 2
    for (size_t b = 0; kFetch && b < kBlocks; ++b) prefetch(blocks.fetched[b] + d * kKeyBlock);
#pragma GCC unroll 2
    for (size_t i = 0; i < kDims; ++i) {
      Vector keys[kVectors];
#pragma GCC unroll 4
      for (size_t v = 0; v < kVectors; ++v)
        keys[v] = key_vector(blocks.keys[v / kBlockVectors] + d * kKeyBlock, i, v % kBlockVectors);
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

// Scores of kQueries of all queries (head_dim, all) with the keys of kBlocks blocks, as many queries at a time as have
// room in registers.
template <size_t kQueries, size_t kBlocks, typename Item>
inline void block_scores(const float* q, size_t all, const Blocks<kBlocks, Item>& blocks, size_t head_dim,
                         float* scores, size_t stride) {
  constexpr size_t kFew = kPart<kQueries>;
  some_scores<kFew, true>(q, all, blocks, head_dim, scores, stride);
  for (size_t g = kFew; g < kQueries; g += kFew)
    some_scores<kFew, false>(q + g, all, blocks, head_dim, scores + g * stride, stride);
}

// Scores of kQueries queries with the keys of neighbouring blocks. The values of the same positions are fetched.
template <size_t kQueries, typename Item>
inline void all_scores(const Attend<Item>& a, const float* q, size_t first, size_t blocks, size_t stride) {
  const auto items_before = [&](size_t b) { return (first + b) * kKeyBlock % a.capacity * a.head_dim; };
  size_t b = 0;
  if constexpr (kWideLanes == 2 * kKeyBlock)
    for (; b + 2 <= blocks; b += 2) {
      const size_t one = items_before(b), other = items_before(b + 1);
      const Blocks<2, Item> two{{a.keys + one, a.keys + other}, {a.values + one, a.values + other}};
      block_scores<kQueries>(q, a.queries, two, a.head_dim, a.scores + b * kKeyBlock, stride);
    }
  for (; b < blocks; ++b) {
    const Blocks<1, Item> one{{a.keys + items_before(b)}, {a.values + items_before(b)}};
    block_scores<kQueries>(q, a.queries, one, a.head_dim, a.scores + b * kKeyBlock, stride);
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

// Adds to out (queries, head_dim) the values of one tile, weighted for kQueries queries. Meanwhile as many items from
// `fetched` on are fetched.
template <size_t kQueries, bool kFetch, typename Item>
inline void add_tile(const Shares& shares, const Item* values, const Item* fetched, size_t head_dim, float* out) {
  constexpr size_t kVectors = kWideLanes / kVectorLanes, kLineItems = kLineBytes / sizeof(Item);
  size_t d = 0;
  for (; d + kUnit <= head_dim; d += kUnit)
#pragma GCC unroll 2
    for (size_t part = 0; part < kUnit / kWideLanes; ++part)
      add_values<kQueries, kVectors>(shares, head_dim, out + d + part * kWideLanes, [&](size_t t, size_t v) {
        const size_t at = t * head_dim + d;
        if (kFetch && part == 0 && v == 0)
          for (size_t i = 0; i < kUnit; i += kLineItems) prefetch(fetched + at + i);
        return unit_vector(values + at, part * kVectors + v);
      });
  if (d < head_dim)
    add_values<kQueries, kBlockVectors>(shares, head_dim, out + d,
                                        [&](size_t t, size_t v) { return rest_vector(values + t * head_dim + d, v); });
}

// Adds to out the values of positions first .. end - 1, weighted for kQueries queries; weights begin with that of
// `first`. A ring of values (capacity, head_dim) is read in two parts where it wraps. The keys of later positions are
// fetched.
template <size_t kQueries, typename Item>
inline void add_weighted(const float* weights, size_t stride, const Attend<Item>& a, float* out) {
  constexpr size_t kFew = kPart<kQueries>;
  const size_t count = a.end - a.first;
  for (size_t t = 0, n; t < count; t += n) {
    const size_t place = (a.first + t) % a.capacity;
    n = std::min({kValueTile, count - t, a.capacity - place});
    const Item* values = a.values + place * a.head_dim;
    const Item* fetched = a.keys + (a.first + t + a.ahead) % a.capacity * a.head_dim;
    add_tile<kFew, true>({weights + t, stride, n}, values, fetched, a.head_dim, out);
    for (size_t g = kFew; g < kQueries; g += kFew)
      add_tile<kFew, false>({weights + t + g * stride, stride, n}, values, fetched, a.head_dim, out + g * a.head_dim);
  }
}

// The largest of some blocks of scores and of `largest`.
inline float largest_of(const float* scores, size_t blocks, float largest) {
  Vector lanes[kBlockVectors];  // one for each place in a block
  for (size_t v = 0; v < kBlockVectors; ++v) lanes[v] = load_vector(scores + v * kVectorLanes);
  for (const float *block = scores + kKeyBlock, *end = scores + blocks * kKeyBlock; block < end; block += kKeyBlock)
#pragma GCC unroll 4
    for (size_t v = 0; v < kBlockVectors; ++v) {
      const Vector next = load_vector(block + v * kVectorLanes);
      lanes[v] = next > lanes[v] ? next : lanes[v];
    }
  for (size_t i = 0; i < kKeyBlock; ++i) largest = std::max(largest, lanes[i / kVectorLanes][i % kVectorLanes]);
  return largest;
}

// Turns the scores of one query into exponentials, relative to `largest`, and returns their sum. Whole blocks are read
// and written.
inline float exponentials(float* scores, size_t blocks, float largest) {
  Vector lanes[kBlockVectors] = {};
  for (float *block = scores, *end = scores + blocks * kKeyBlock; block < end; block += kKeyBlock) {
    // A masked score is about -3e38: its exponential is flushed to zero, not clamped.
    for (size_t i = 0; i < kKeyBlock; ++i) {
      const float x = block[i] - largest;
      block[i] = x < -80.0f ? 0.0f : exponential(x);
    }
#pragma GCC unroll 4
    for (size_t v = 0; v < kBlockVectors; ++v) lanes[v] += load_vector(block + v * kVectorLanes);
  }
  float sum = 0.0f;
  for (size_t i = 0; i < kKeyBlock; ++i) sum += lanes[i / kVectorLanes][i % kVectorLanes];
  return sum;
}

// The same for query `g` of the sums so far, which become relative to the largest score of all.
inline void add_exponentials(float* scores, size_t blocks, const AttendedSums& sums, size_t g, size_t head_dim) {
  const float largest = largest_of(scores, blocks, sums.largest[g]);
  const float kept = exponential(sums.largest[g] - largest);
  sums.totals[g] = sums.totals[g] * kept + exponentials(scores, blocks, largest);
  sums.largest[g] = largest;
  for (size_t i = g * head_dim; i < (g + 1) * head_dim; ++i) sums.values[i] *= kept;
}

template <size_t kQueries, typename Item>
inline void attend_queries(const Attend<Item>& a, size_t query) {
  const size_t first_block = a.first / kKeyBlock, blocks = (a.end + kKeyBlock - 1) / kKeyBlock - first_block;
  const size_t stride = blocks * kKeyBlock, start = first_block * kKeyBlock;
  all_scores<kQueries>(a, a.q + query, first_block, blocks, stride);
  for (size_t g = 0; g < kQueries; ++g) {
    float* const scores = a.scores + g * stride;
    for (size_t t = start; t < a.first; ++t) scores[t - start] = -3e38f;
    for (size_t t = a.end; t < start + stride; ++t) scores[t - start] = -3e38f;
    add_exponentials(scores, blocks, a.sums, query + g, a.head_dim);
  }
  // Values beyond `end` are not read, because a cache may hold anything there.
  add_weighted<kQueries>(a.scores + (a.first - start), stride, a, a.sums.values + query * a.head_dim);
}

template <typename Item>
void attend(const Attend<Item>& a) {
  size_t query = 0;
  for (; query + 8 <= a.queries; query += 8) attend_queries<8>(a, query);
  for (; query + 4 <= a.queries; query += 4) attend_queries<4>(a, query);
  for (; query < a.queries; ++query) attend_queries<1>(a, query);
}

}  // namespace
}  // namespace gpt_oss
