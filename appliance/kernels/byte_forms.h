// The forms of activations of one or two bytes, by the byte_group_product, convert_to_bytes and prompt_product of the path
// that includes this. Internal linkage on purpose: every path compiles its own copy.
#pragma once

#if defined(__AVX512F__)
#include "vnni_bytes.h"
#else
#include "avx2_bytes.h"
#endif

namespace gpt_oss {
namespace {

// With two bytes, groups side by side: several streams of memory keep more reads in flight, and sums of one group do not
// wait for those of another. One token leaves registers for four groups.
template <typename Weights>
void exact_four(const uint8_t* first, size_t blocks, const uint8_t* row, float* out) {
  byte_group_product<Weights, 2, 4, 1>(first, blocks, reinterpret_cast<const WholeBlock<2>*>(row), out);
}

template <typename Weights>
void exact_product(const uint8_t* first, const uint8_t*, size_t blocks, const uint8_t* rows, size_t count, float* out) {
  constexpr int kTogether = 4;
  const auto* from = reinterpret_cast<const WholeBlock<2>*>(rows);
  in_passes<kTogether>(count, [&](auto n, size_t t) {
    byte_group_product<Weights, 2, 2, n>(first, blocks, from + t * blocks, out + 32 * t);
  });
}

template <typename Weights>
constexpr Form kExact{16, sizeof(WholeBlock<2>), convert_to_bytes<Weights, 2>, exact_product<Weights>,
                      exact_four<Weights>};
template <typename Weights>
constexpr Form kBytes{8, sizeof(WholeBlock<1>), convert_to_bytes<Weights, 1>, prompt_product<Weights>};

}  // namespace
}  // namespace gpt_oss
