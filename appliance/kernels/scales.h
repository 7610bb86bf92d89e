// The 16 scales of a block as floats (AVX-512). Internal linkage on purpose: every path compiles its own copy.
#pragma once

#include <immintrin.h>
#include <cstdint>

namespace gpt_oss {
namespace {

// E8M0: the exponent of a float.
inline __m512 mxfp4_scales(const uint8_t* scales) {
  const __m512i e8m0 = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(scales)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(e8m0, 23));
}

// bfloat16: the upper half of a float.
inline __m512 int8_scales(const uint8_t* scales) {
  const __m256i upper = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(upper), 16));
}

}  // namespace
}  // namespace gpt_oss
