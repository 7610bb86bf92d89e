// Where a key or value stands in the caches of one key/value head, for each type of number that a cache may hold.
// attention.h gives the order of the positions. Internal linkage on purpose: every path compiles its own copy.
//
// Keys are stored in blocks of 16 positions. A line of a block holds one dimension of 16 float keys, or two dimensions
// of 16 bfloat16 keys: one in the lower halves of its words, the next in the upper halves. A line of a value holds 16
// neighbouring floats, or 32 bfloat16: the first 16 in the lower halves, the others in the upper halves. So a shift or
// a mask of a line gives floats in their order.
#pragma once

#include "paths.h"

namespace gpt_oss {
namespace {

template <typename Item>
struct CacheLayout;

template <>
struct CacheLayout<float> {
  // Where dimension d of a block's key stands in the block.
  static size_t key_at(size_t d, size_t key) { return d * kKeyBlock + key; }
  // Where dimension d stands in a value.
  static size_t value_at(size_t d, size_t) { return d; }
  static float stored(float x) { return x; }
};

template <>
struct CacheLayout<Bfloat16> {
  static constexpr size_t kLineItems = kLineBytes / sizeof(Bfloat16);

  // The dimensions of a value that fill whole lines. The others, 16 or none, stand in their own order.
  static size_t in_lines(size_t head_dim) { return head_dim / kLineItems * kLineItems; }

  static size_t key_at(size_t d, size_t key) { return d / 2 * kLineItems + 2 * key + d % 2; }
  static size_t value_at(size_t d, size_t head_dim) {
    if (d >= in_lines(head_dim)) return d;
    const size_t at = d % kLineItems, half = kLineItems / 2;
    return d - at + 2 * (at % half) + at / half;
  }
  static Bfloat16 stored(float x) { return to_bfloat16(x); }
};

}  // namespace
}  // namespace gpt_oss
