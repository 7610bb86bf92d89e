// The AVX-512 VNNI product, shared by the VNNI path and by the AMX path's few-token case.
#pragma once

#include "paths.h"

#include <immintrin.h>

namespace gpt_oss {

template <int kCount>
inline void vnni_mxfp4_group_product(const uint8_t* group, size_t blocks, const QuantisedRow* rows, float* out) {
  const __m512i table = _mm512_broadcast_i32x4(
      _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
  const __m512i nibble = _mm512_set1_epi8(15);
  __m512 total[kCount];
  for (int t = 0; t < kCount; ++t) total[t] = _mm512_setzero_ps();
  for (size_t b = 0; b < blocks; ++b, group += kGroupBlockBytes) {
    _mm_prefetch(reinterpret_cast<const char*>(group + 4096), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(group + 4096 + 64), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(group + 4096 + 128), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(group + 4096 + 192), _MM_HINT_T0);
    __m512i high[kCount], low[kCount];
    for (int t = 0; t < kCount; ++t) {
      high[t] = _mm512_setzero_si512();
      low[t] = _mm512_set1_epi32(-kCodeOffset * rows[t].sum[b]);
    }
    for (int j = 0; j < 4; ++j) {
      const __m512i codes = _mm512_loadu_si512(group + 16 + j * 64);
      const __m512i even = _mm512_shuffle_epi8(table, _mm512_and_si512(codes, nibble));
      const __m512i odd = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(codes, 4), nibble));
      for (int t = 0; t < kCount; ++t) {
        const int32_t* x = reinterpret_cast<const int32_t*>(rows[t].values) + b * 16 + 2 * j;
        high[t] = _mm512_dpbusd_epi32(high[t], even, _mm512_set1_epi32(x[0]));
        low[t] = _mm512_dpbusd_epi32(low[t], even, _mm512_set1_epi32(x[8]));
        high[t] = _mm512_dpbusd_epi32(high[t], odd, _mm512_set1_epi32(x[1]));
        low[t] = _mm512_dpbusd_epi32(low[t], odd, _mm512_set1_epi32(x[9]));
      }
    }
    const __m512i e8m0 = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(group)));
    const __m512 weight_scale = _mm512_castsi512_ps(_mm512_slli_epi32(e8m0, 23));
    for (int t = 0; t < kCount; ++t) {
      const __m512 scale = _mm512_mul_ps(weight_scale, _mm512_set1_ps(0.5f * rows[t].scale[b]));
      total[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(high[t], 7), low[t])), scale, total[t]);
    }
  }
  for (int t = 0; t < kCount; ++t) _mm512_storeu_ps(out + t * 32, total[t]);
}

template <int kCount>
inline void vnni_int8_group_product(const uint8_t* group, size_t blocks, const QuantisedRow* rows, float* out) {
  __m512 total[kCount];
  for (int t = 0; t < kCount; ++t) total[t] = _mm512_setzero_ps();
  for (size_t b = 0; b < blocks; ++b, group += kInt8GroupBlockBytes) {
    for (int line = 0; line < 9; ++line)
      _mm_prefetch(reinterpret_cast<const char*>(group + 4096 + 64 * line), _MM_HINT_T0);
    __m512i high[kCount], low[kCount];
    for (int t = 0; t < kCount; ++t) {
      high[t] = _mm512_setzero_si512();
      low[t] = _mm512_set1_epi32(-kInt8Offset * rows[t].sum[b]);
    }
    for (int j = 0; j < 8; ++j) {
      const __m512i weights = _mm512_loadu_si512(group + 32 + j * 64);
      for (int t = 0; t < kCount; ++t) {
        const int32_t* x = reinterpret_cast<const int32_t*>(rows[t].values) + b * 16 + j;
        high[t] = _mm512_dpbusd_epi32(high[t], weights, _mm512_set1_epi32(x[0]));
        low[t] = _mm512_dpbusd_epi32(low[t], weights, _mm512_set1_epi32(x[8]));
      }
    }
    const __m512 weight_scale = _mm512_castsi512_ps(_mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(group))), 16));
    for (int t = 0; t < kCount; ++t) {
      const __m512 scale = _mm512_mul_ps(weight_scale, _mm512_set1_ps(rows[t].scale[b]));
      total[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(high[t], 7), low[t])), scale, total[t]);
    }
  }
  for (int t = 0; t < kCount; ++t) _mm512_storeu_ps(out + t * 32, total[t]);
}

template <int kCount>
inline void vnni_bf16_group_product(const uint8_t* group, size_t blocks, const float* const* rows, float* out) {
  const __m512i odd = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  __m512 total[kCount], other[kCount];  // two sums each, so that additions overlap
  for (int t = 0; t < kCount; ++t) total[t] = other[t] = _mm512_setzero_ps();
  for (size_t k = 0; k < blocks * kBlock; k += 2, group += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(group + 8192), _MM_HINT_T0);
    const __m512i pair = _mm512_loadu_si512(group);
    const __m512 first = _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16));
    const __m512 second = _mm512_castsi512_ps(_mm512_and_si512(pair, odd));
    for (int t = 0; t < kCount; ++t) {
      total[t] = _mm512_fmadd_ps(first, _mm512_set1_ps(rows[t][k]), total[t]);
      other[t] = _mm512_fmadd_ps(second, _mm512_set1_ps(rows[t][k + 1]), other[t]);
    }
  }
  for (int t = 0; t < kCount; ++t) _mm512_storeu_ps(out + t * 32, _mm512_add_ps(total[t], other[t]));
}

// Calls `group<count>` for both groups of a pair, count in 1 .. kMaxRows.
#define GPT_OSS_BY_COUNT(function, group, Rows)                                                                     \
  template <int kCount>                                                                                                \
  inline void function##_pair(const uint8_t* first, const uint8_t* second, size_t blocks, Rows rows,                   \
                              float* out) {                                                                            \
    group<kCount>(first, blocks, rows, out);                                                                           \
    group<kCount>(second, blocks, rows, out + kGroupRows);                                                             \
  }                                                                                                                    \
  inline void function(const uint8_t* first, const uint8_t* second, size_t blocks, Rows rows,                          \
                       size_t count, float* out) {                                                                     \
    switch (count) {                                                                                                   \
      case 1: return function##_pair<1>(first, second, blocks, rows, out);                                             \
      case 2: return function##_pair<2>(first, second, blocks, rows, out);                                             \
      case 3: return function##_pair<3>(first, second, blocks, rows, out);                                             \
      case 4: return function##_pair<4>(first, second, blocks, rows, out);                                             \
      case 5: return function##_pair<5>(first, second, blocks, rows, out);                                             \
      case 6: return function##_pair<6>(first, second, blocks, rows, out);                                             \
      case 7: return function##_pair<7>(first, second, blocks, rows, out);                                             \
      case 8: return function##_pair<8>(first, second, blocks, rows, out);                                             \
      default: return;                                                                                                 \
    }                                                                                                                  \
  }

GPT_OSS_BY_COUNT(vnni_mxfp4_product, vnni_mxfp4_group_product, const QuantisedRow*)
GPT_OSS_BY_COUNT(vnni_int8_product, vnni_int8_group_product, const QuantisedRow*)
GPT_OSS_BY_COUNT(vnni_bf16_product, vnni_bf16_group_product, const float* const*)

#undef GPT_OSS_BY_COUNT

}  // namespace gpt_oss
