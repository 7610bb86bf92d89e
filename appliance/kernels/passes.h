// The order in which products go through weights and tokens. Internal linkage on purpose: every path compiles its own
// copy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace gpt_oss {
namespace {

constexpr size_t kAhead = 4096;  // bytes that are fetched ahead in each stream of weights

// Fetches a line of weights ahead of the stream. Every line is fetched, because not every processor fetches neighbours
// by itself.
inline void prefetch_line(const uint8_t* at, size_t ahead = kAhead) { __builtin_prefetch(at + ahead); }

// How far ahead to fetch in each of kGroups groups that are multiplied side by side, `left` bytes before their ends. The
// next thing that is multiplied is as many groups on, so what lies behind a group is passed over.
template <size_t kGroups>
constexpr size_t ahead_in_groups(size_t left, size_t group_bytes) {
  return left > kAhead ? kAhead : kAhead + (kGroups - 1) * group_bytes;
}

// Neighbouring activations, two of 16 bits or four of 8, as one lane of a product.
template <typename Activation>
inline int32_t lane_of(const Activation* x) {
  int32_t bits;
  std::memcpy(&bits, x, sizeof bits);
  return bits;
}

// Calls product(n, first) with n (1 .. kMost) as a compile-time constant.
template <int kMost, typename Product>
inline void with_count(size_t n, size_t first, const Product& product) {
  if constexpr (kMost > 1)
    if (n < kMost) return with_count<kMost - 1>(n, first, product);
  product(std::integral_constant<int, kMost>{}, first);
}

// Calls product(n, first) for n tokens from `first` on, until all `count` tokens have passed: in passes of at most
// kMost tokens and of nearly equal size.
template <int kMost, typename Product>
inline void in_passes(size_t count, const Product& product) {
  const size_t passes = (count + kMost - 1) / kMost;
  for (size_t pass = 0; pass < passes; ++pass) {
    const size_t first = count * pass / passes, end = count * (pass + 1) / passes;
    with_count<kMost>(end - first, first, product);
  }
}

}  // namespace
}  // namespace gpt_oss
