// What the 256-bit products share, and those of bfloat16 weights with unrounded activations. The 16 rows of a group are
// two vectors of 8 lanes. Internal linkage on purpose: each path compiles its own copy.
#pragma once

#include "elementwise.h"
#include "passes.h"
#include "paths.h"

#include <immintrin.h>

namespace gpt_oss {
namespace {

inline __m256i load(const uint8_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }

// The scales of 8 rows as floats. E8M0: the exponent of a float.
inline __m256 mxfp4_scales(const uint8_t* scales) {
  const __m256i e8m0 = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(scales)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(e8m0, 23));
}

// bfloat16: the upper half of a float.
inline __m256 int8_scales(const uint8_t* scales) {
  const __m256i upper = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(scales)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(upper, 16));
}

template <int kCount>
void bf16_group_product(const uint8_t* group, size_t blocks, const float* x, float* out) {
  const size_t inner = blocks * kBlock;
  const __m256i odd = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  __m256 total[kCount][2];
  for (size_t t = 0; t < kCount; ++t) total[t][0] = total[t][1] = _mm256_setzero_ps();
  for (size_t k = 0; k < inner; k += 2, group += 64) {
    for (int half = 0; half < 2; ++half) {
      const __m256i pair = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(group + half * 32));
      const __m256 first = _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16));
      const __m256 second = _mm256_castsi256_ps(_mm256_and_si256(pair, odd));
      for (size_t t = 0; t < kCount; ++t) {
        total[t][half] = _mm256_fmadd_ps(first, _mm256_broadcast_ss(x + t * inner + k), total[t][half]);
        total[t][half] = _mm256_fmadd_ps(second, _mm256_broadcast_ss(x + t * inner + k + 1), total[t][half]);
      }
    }
  }
  for (size_t t = 0; t < kCount; ++t) {
    _mm256_storeu_ps(out + t * 32, total[t][0]);
    _mm256_storeu_ps(out + t * 32 + 8, total[t][1]);
  }
}

inline void bf16_product(const uint8_t* first, const uint8_t* second, size_t blocks, const uint8_t* rows, size_t count,
                         float* out) {
  in_passes<4>(count, [&](auto n, size_t t) {
    const float* x = reinterpret_cast<const float*>(rows) + t * blocks * kBlock;
    bf16_group_product<n>(first, blocks, x, out + t * 32);
    bf16_group_product<n>(second, blocks, x, out + t * 32 + kGroupRows);
  });
}

constexpr Form kBf16Exact{32, kFloatBlock, copy_floats, bf16_product};

}  // namespace
}  // namespace gpt_oss
