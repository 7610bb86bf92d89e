// The order in which products go through weights and tokens. Internal linkage on purpose: every path compiles its own
// copy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace gpt_oss {
namespace {

// Fetches a line of weights ahead of the stream. Every line is fetched, because not every processor fetches neighbours
// by itself.
inline void prefetch_line(const uint8_t* at) {
  constexpr size_t kAhead = 8192;
  __builtin_prefetch(at + kAhead);
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
