// The AVX-512 VNNI products, shared by the VNNI path and by the few-token cases of those that multiply in bfloat16.
// Internal linkage on purpose: each of them compiles its own copy.
#pragma once

#include "paths.h"
#include "scales.h"

#include <immintrin.h>

namespace gpt_oss {
namespace {

// Asks for the lines that stand kAhead bytes on. Every line is asked for: processors that fetch neighbours by themselves
// are not to be relied on.
template <int kLines, size_t kAhead = 8192>
inline void prefetch_lines(const uint8_t* at) {
  for (int line = 0; line < kLines; ++line)
    _mm_prefetch(reinterpret_cast<const char*>(at + kAhead + kLineBytes * line), _MM_HINT_T0);
}

// kGroups groups of 16 rows that lie `step` bytes apart, block by block.
template <int kCount, int kGroups>
inline void vnni_mxfp4_groups_product(const uint8_t* group, ptrdiff_t step, size_t blocks, const QuantisedRow* rows,
                                      float* out) {
  const __m512i table = _mm512_broadcast_i32x4(
      _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
  const __m512i nibble = _mm512_set1_epi8(15);
  const uint8_t* block = group + kMxfp4.codes_at(blocks);
  __m512 total[kGroups][kCount];
  for (int g = 0; g < kGroups; ++g)
    for (int t = 0; t < kCount; ++t) total[g][t] = _mm512_setzero_ps();
  for (size_t b = 0; b < blocks; ++b, group += kMxfp4.scale_bytes, block += kMxfp4.code_bytes) {
    __m512i high[kGroups][kCount], low[kGroups][kCount];
    for (int g = 0; g < kGroups; ++g) {
      prefetch_lines<4>(block + g * step);
      for (int t = 0; t < kCount; ++t) {
        high[g][t] = _mm512_setzero_si512();
        low[g][t] = _mm512_set1_epi32(-kCodeOffset * rows[t].sum[b]);
      }
    }
    for (int j = 0; j < 4; ++j) {
      __m512i even[kGroups], odd[kGroups];
      for (int g = 0; g < kGroups; ++g) {
        const __m512i codes = _mm512_loadu_si512(block + g * step + j * 64);
        even[g] = _mm512_shuffle_epi8(table, _mm512_and_si512(codes, nibble));
        odd[g] = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(codes, 4), nibble));
      }
      for (int t = 0; t < kCount; ++t) {
        const int32_t* x = reinterpret_cast<const int32_t*>(rows[t].values) + b * 16 + 2 * j;
        for (int g = 0; g < kGroups; ++g) {
          high[g][t] = _mm512_dpbusd_epi32(high[g][t], even[g], _mm512_set1_epi32(x[0]));
          low[g][t] = _mm512_dpbusd_epi32(low[g][t], even[g], _mm512_set1_epi32(x[8]));
          high[g][t] = _mm512_dpbusd_epi32(high[g][t], odd[g], _mm512_set1_epi32(x[1]));
          low[g][t] = _mm512_dpbusd_epi32(low[g][t], odd[g], _mm512_set1_epi32(x[9]));
        }
      }
    }
    for (int g = 0; g < kGroups; ++g) {
      const __m512 weight_scale = mxfp4_scales(group + g * step);
      for (int t = 0; t < kCount; ++t) {
        const __m512 scale = _mm512_mul_ps(weight_scale, _mm512_set1_ps(0.5f * rows[t].scale[b]));
        const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(high[g][t], 7), low[g][t]);
        total[g][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, total[g][t]);
      }
    }
  }
  for (int g = 0; g < kGroups; ++g)
    for (int t = 0; t < kCount; ++t) _mm512_storeu_ps(out + t * 32 + g * kGroupRows, total[g][t]);
}

// Both groups at once for 2 and 3 rows, which then share what they load; for one row memory sets the pace, and a single
// stream is what it serves best; for more the registers would not hold the sums.
template <int kCount>
inline void vnni_mxfp4_pair(const uint8_t* first, const uint8_t* second, size_t blocks, const QuantisedRow* rows,
                            float* out) {
  if constexpr (kCount == 2 || kCount == 3)
    return vnni_mxfp4_groups_product<kCount, 2>(first, second - first, blocks, rows, out);
  vnni_mxfp4_groups_product<kCount, 1>(first, 0, blocks, rows, out);
  vnni_mxfp4_groups_product<kCount, 1>(second, 0, blocks, rows, out + kGroupRows);
}

template <int kCount>
inline void vnni_int8_group_product(const uint8_t* group, size_t blocks, const QuantisedRow* rows, float* out) {
  const uint8_t* block = group + kInt8.codes_at(blocks);
  __m512 total[kCount];
  for (int t = 0; t < kCount; ++t) total[t] = _mm512_setzero_ps();
  for (size_t b = 0; b < blocks; ++b, group += kInt8.scale_bytes, block += kInt8.code_bytes) {
    prefetch_lines<8>(block);
    __m512i high[kCount], low[kCount];
    for (int t = 0; t < kCount; ++t) {
      high[t] = _mm512_setzero_si512();
      low[t] = _mm512_set1_epi32(-kInt8Offset * rows[t].sum[b]);
    }
    for (int j = 0; j < 8; ++j) {
      const __m512i weights = _mm512_loadu_si512(block + j * 64);
      for (int t = 0; t < kCount; ++t) {
        const int32_t* x = reinterpret_cast<const int32_t*>(rows[t].values) + b * 16 + j;
        high[t] = _mm512_dpbusd_epi32(high[t], weights, _mm512_set1_epi32(x[0]));
        low[t] = _mm512_dpbusd_epi32(low[t], weights, _mm512_set1_epi32(x[8]));
      }
    }
    const __m512 weight_scale = int8_scales(group);
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
    prefetch_lines<1>(group);
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

template <int kCount>
inline void vnni_int8_pair(const uint8_t* first, const uint8_t* second, size_t blocks, const QuantisedRow* rows,
                           float* out) {
  vnni_int8_group_product<kCount>(first, blocks, rows, out);
  vnni_int8_group_product<kCount>(second, blocks, rows, out + kGroupRows);
}

template <int kCount>
inline void vnni_bf16_pair(const uint8_t* first, const uint8_t* second, size_t blocks, const float* const* rows,
                           float* out) {
  vnni_bf16_group_product<kCount>(first, blocks, rows, out);
  vnni_bf16_group_product<kCount>(second, blocks, rows, out + kGroupRows);
}

// The product of both groups of a pair for `count` rows, 1 .. kMaxRows.
#define GPT_OSS_BY_COUNT(function, pair, Rows)                                                                      \
  inline void function(const uint8_t* first, const uint8_t* second, size_t blocks, Rows rows,                          \
                       size_t count, float* out) {                                                                     \
    switch (count) {                                                                                                   \
      case 1: return pair<1>(first, second, blocks, rows, out);                                                        \
      case 2: return pair<2>(first, second, blocks, rows, out);                                                        \
      case 3: return pair<3>(first, second, blocks, rows, out);                                                        \
      case 4: return pair<4>(first, second, blocks, rows, out);                                                        \
      case 5: return pair<5>(first, second, blocks, rows, out);                                                        \
      case 6: return pair<6>(first, second, blocks, rows, out);                                                        \
      case 7: return pair<7>(first, second, blocks, rows, out);                                                        \
      case 8: return pair<8>(first, second, blocks, rows, out);                                                        \
      default: return;                                                                                                 \
    }                                                                                                                  \
  }

GPT_OSS_BY_COUNT(vnni_mxfp4_product, vnni_mxfp4_pair, const QuantisedRow*)
GPT_OSS_BY_COUNT(vnni_int8_product, vnni_int8_pair, const QuantisedRow*)
GPT_OSS_BY_COUNT(vnni_bf16_product, vnni_bf16_pair, const float* const*)

#undef GPT_OSS_BY_COUNT

}  // namespace
}  // namespace gpt_oss
