// The products of bfloat16 weights with unrounded activations (AVX-512). Internal linkage on purpose: every path compiles
// its own copy.
#pragma once

#include "elementwise.h"
#include "passes.h"
#include "paths.h"

#include <immintrin.h>

namespace gpt_oss {
namespace {

template <int kCount>
inline void bf16_group_product(const uint8_t* group, size_t blocks, const float* x, float* out) {
  const size_t inner = blocks * kBlock;
  const __m512i odd = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  __m512 total[kCount], other[kCount];  // two sums per token, so that additions overlap
  for (int t = 0; t < kCount; ++t) total[t] = other[t] = _mm512_setzero_ps();
  for (size_t k = 0; k < inner; k += 2, group += 64) {
    prefetch_line(group);
    const __m512i pair = _mm512_loadu_si512(group);
    const __m512 first = _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16));
    const __m512 second = _mm512_castsi512_ps(_mm512_and_si512(pair, odd));
    for (int t = 0; t < kCount; ++t) {
      const float* row = x + static_cast<size_t>(t) * inner + k;
      total[t] = _mm512_fmadd_ps(first, _mm512_set1_ps(row[0]), total[t]);
      other[t] = _mm512_fmadd_ps(second, _mm512_set1_ps(row[1]), other[t]);
    }
  }
  for (int t = 0; t < kCount; ++t) _mm512_storeu_ps(out + t * 32, _mm512_add_ps(total[t], other[t]));
}

inline void bf16_product(const uint8_t* first, const uint8_t* second, size_t blocks, const uint8_t* rows, size_t count,
                         float* out) {
  in_passes<kMaxRows>(count, [&](auto n, size_t t) {
    const float* x = reinterpret_cast<const float*>(rows) + t * blocks * kBlock;
    bf16_group_product<n>(first, blocks, x, out + t * 32);
    bf16_group_product<n>(second, blocks, x, out + t * 32 + kGroupRows);
  });
}

constexpr Form kBf16Exact{32, kFloatBlock, copy_floats, bf16_product};

}  // namespace
}  // namespace gpt_oss
