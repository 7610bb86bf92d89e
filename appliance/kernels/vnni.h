// The products that every AVX-512 path has: those of whole numbers, and those of bfloat16 weights with unrounded
// activations. Internal linkage on purpose: every path compiles its own copy.
#pragma once

#include "elementwise.h"
#include "matrix_product.h"
#include "passes.h"
#include "paths.h"
#include "scales.h"

#include <immintrin.h>

namespace gpt_oss {
namespace {

// Converts x to whole numbers of 16 bits in the same order, with one scale per slice. MXFP4 products multiply with
// twice each weight; the scale makes up for it. The magnitude of a block's sum is below 2^24 with MXFP4, so a float
// holds it exactly, and below 2^27 with 8-bit weights.
inline void quantise(const float* x, size_t blocks, bool mxfp4, int16_t* values, float* scale) {
  for (size_t at = 0; at < blocks; at += kSlice, ++scale) {
    const size_t count = std::min(kSlice, blocks - at) * kBlock;
    __m512 largest = _mm512_setzero_ps();
    for (size_t i = 0; i < count; i += 16) largest = _mm512_max_ps(largest, _mm512_abs_ps(_mm512_loadu_ps(x + i)));
    const WholeScale slice = whole_scale(_mm512_reduce_max_ps(largest), 32767.0f);
    const __m512 factor = _mm512_set1_ps(slice.factor);
    for (size_t i = 0; i < count; i += 16) {
      const __m512i numbers = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), factor));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(values + i), _mm512_cvtsepi32_epi16(numbers));
    }
    *scale = mxfp4 ? 0.5f * slice.scale : slice.scale;
    x += count, values += count;
  }
}

// The common part of products of whole numbers. GCC moves sums between registers unless they have this type throughout.
struct WholeNumbers {
  static constexpr bool kScaledActivations = true;
  using Sum = __v16si;
  static Sum zero() { return reinterpret_cast<Sum>(_mm512_setzero_si512()); }
  static Sum multiply(Sum sum, __m512i weights, __m512i activations) {
    return reinterpret_cast<Sum>(_mm512_dpwssd_epi32(reinterpret_cast<__m512i>(sum), weights, activations));
  }
  static __m512 add(Sum sum, __m512 scale, __m512 total) {
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(reinterpret_cast<__m512i>(sum)), scale, total);
  }
};

// Twice each E2M1 value. The low 5 bits of a word choose from the permutation's table, so the table has each value
// twice.
alignas(64) constexpr int16_t kTwiceE2m1[32] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12,
                                                0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

struct Mxfp4Weights : WholeNumbers {
  static constexpr GroupLayout kLayout = kMxfp4;
  static constexpr int kPairs = 4;
  static void pairs(const uint8_t* line, __m512i* out) {
    const __m512i table = _mm512_load_si512(kTwiceE2m1), word = _mm512_loadu_si512(line);
    out[0] = _mm512_permutexvar_epi16(word, table);
    out[1] = _mm512_permutexvar_epi16(_mm512_srli_epi16(word, 4), table);
    out[2] = _mm512_permutexvar_epi16(_mm512_srli_epi16(word, 8), table);
    out[3] = _mm512_permutexvar_epi16(_mm512_srli_epi16(word, 12), table);
  }
  static __m512 scale(const uint8_t* scales) { return mxfp4_scales(scales); }
};

struct Int8Weights : WholeNumbers {
  static constexpr GroupLayout kLayout = kInt8;
  static constexpr int kPairs = 2;
  static void pairs(const uint8_t* line, __m512i* out) {
    const __m512i word = _mm512_loadu_si512(line), offset = _mm512_set1_epi16(kInt8Offset);
    // Two of the four bytes of each row, widened to 16 bits.
    const __m512i lower =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1));
    const __m512i upper =
        _mm512_broadcast_i32x4(_mm_setr_epi8(2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1));
    out[0] = _mm512_sub_epi16(_mm512_shuffle_epi8(word, lower), offset);
    out[1] = _mm512_sub_epi16(_mm512_shuffle_epi8(word, upper), offset);
  }
  static __m512 scale(const uint8_t* scales) { return int8_scales(scales); }
};

inline void mxfp4_product(const uint8_t* first, const uint8_t* second, size_t blocks, const ExactRows& rows,
                          float* out) {
  matrix_product<Mxfp4Weights>(first, second, blocks, rows.values, rows.scale, rows.count, out);
}

inline void int8_product(const uint8_t* first, const uint8_t* second, size_t blocks, const ExactRows& rows,
                         float* out) {
  matrix_product<Int8Weights>(first, second, blocks, rows.values, rows.scale, rows.count, out);
}

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

inline void bf16_product(const uint8_t* first, const uint8_t* second, size_t blocks, const ExactRows& rows,
                         float* out) {
  in_passes<kMaxRows>(rows.count, [&](auto n, size_t t) {
    bf16_group_product<n>(first, blocks, rows.x + t * blocks * kBlock, out + t * 32);
    bf16_group_product<n>(second, blocks, rows.x + t * blocks * kBlock, out + t * 32 + kGroupRows);
  });
}

}  // namespace
}  // namespace gpt_oss
