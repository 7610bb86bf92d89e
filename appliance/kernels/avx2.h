// The 256-bit products, with AVX-VNNI or without. The 16 rows of a group are two vectors of 8 lanes; each 32-bit lane
// multiplies two weights of a row with two activations, all of 16 bits. Internal linkage on purpose: each path compiles
// its own copy.
#pragma once

#include "elementwise.h"
#include "passes.h"
#include "paths.h"

#include <immintrin.h>

namespace gpt_oss {
namespace {

// The largest magnitude of a block.
inline float largest_of_block(const float* x) {
  const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  __m256 largest = _mm256_setzero_ps();
  for (size_t i = 0; i < kBlock; i += 8)
    largest = _mm256_max_ps(largest, _mm256_and_ps(magnitude, _mm256_loadu_ps(x + i)));
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(largest), _mm256_extractf128_ps(largest, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

// Converts x to whole numbers of 16 bits in the same order, with one scale per block. MXFP4 products multiply with
// twice each weight; the scale makes up for it.
inline void quantise(const float* x, size_t blocks, bool mxfp4, int16_t* values, float* scale) {
  for (size_t b = 0; b < blocks; ++b, x += kBlock, values += kBlock) {
    const WholeScale block = whole_scale(largest_of_block(x), 32767.0f);
    const __m256 factor = _mm256_set1_ps(block.factor);
    for (size_t i = 0; i < kBlock; i += 8) {
      const __m256i numbers = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), factor));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(values + i),
                       _mm_packs_epi32(_mm256_castsi256_si128(numbers), _mm256_extracti128_si256(numbers, 1)));
    }
    scale[b] = mxfp4 ? 0.5f * block.scale : block.scale;
  }
}

inline __m256i load(const uint8_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }

// A kind of weights has kPairs vectors in half a line of codes, each with a pair of 16-bit numbers for each of 8 rows,
// and the scales of the rows.
struct Mxfp4Weights {
  static constexpr GroupLayout kLayout = kMxfp4;
  static constexpr int kPairs = 4;
  static void pairs(const uint8_t* line, __m256i* out) {
    const __m256i table =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12));
    const __m256i nibble = _mm256_set1_epi8(15), word = load(line);
    const __m256i even = _mm256_shuffle_epi8(table, _mm256_and_si256(word, nibble));
    const __m256i odd = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(word, 4), nibble));
    out[0] = _mm256_srai_epi16(_mm256_slli_epi16(even, 8), 8);
    out[1] = _mm256_srai_epi16(_mm256_slli_epi16(odd, 8), 8);
    out[2] = _mm256_srai_epi16(even, 8);
    out[3] = _mm256_srai_epi16(odd, 8);
  }
  static __m256 scales(const uint8_t* e8m0) {
    const __m256i e = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(e8m0)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(e, 23));
  }
};

struct Int8Weights {
  static constexpr GroupLayout kLayout = kInt8;
  static constexpr int kPairs = 2;
  static void pairs(const uint8_t* line, __m256i* out) {
    const __m256i word = load(line), offset = _mm256_set1_epi16(kInt8Offset);
    // Two of the four bytes of each row, widened to 16 bits.
    const __m256i lower =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1));
    const __m256i upper =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1));
    out[0] = _mm256_sub_epi16(_mm256_shuffle_epi8(word, lower), offset);
    out[1] = _mm256_sub_epi16(_mm256_shuffle_epi8(word, upper), offset);
  }
  static __m256 scales(const uint8_t* bf16) {
    const __m256i upper = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bf16)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(upper, 16));
  }
};

// Adds the products of every lane's two pairs to the sum.
inline __m256i add_products(__m256i sum, __m256i weights, __m256i activations) {
#ifdef __AVXVNNI__
  return _mm256_dpwssd_avx_epi32(sum, weights, activations);
#else
  sum = _mm256_add_epi32(sum, _mm256_madd_epi16(weights, activations));
  __asm__("" : "+x"(sum));  // now: GCC would keep the products for later, which takes registers
  return sum;
#endif
}

// The most tokens that pass a group's weights together: their sums are in registers, their totals in the cache.
constexpr int kPassRows = 8;

// out[32 * t + r]: one group with kRows tokens. Not inlined: it needs every register.
template <typename Weights, int kRows>
[[gnu::noinline]] void group_product(const uint8_t* group, size_t blocks, const int16_t* values, const float* scales,
                                     float* out) {
  const size_t inner = blocks * kBlock;
  const uint8_t* line = group + Weights::kLayout.codes_at(blocks);
  __m256 total[kRows][2];
  for (int i = 0; i < kRows; ++i) total[i][0] = total[i][1] = _mm256_setzero_ps();
  for (size_t b = 0; b < blocks; ++b, group += Weights::kLayout.scale_bytes, line += Weights::kLayout.code_bytes) {
    for (int half = 0; half < 2; ++half) {
      __m256i sum[kRows];
      for (int i = 0; i < kRows; ++i) sum[i] = _mm256_setzero_si256();
      for (int k = 0; k < 16; k += Weights::kPairs) {
        const uint8_t* from = line + k / Weights::kPairs * static_cast<int>(kLineBytes);
        __m256i pairs[Weights::kPairs];
        if (half == 0) prefetch_line(from);
        Weights::pairs(from + 32 * half, pairs);
        for (int p = 0; p < Weights::kPairs; ++p) {
          for (int i = 0; i < kRows; ++i) {
            const int16_t* pair = values + static_cast<size_t>(i) * inner + b * kBlock + 2 * static_cast<size_t>(k + p);
            sum[i] = add_products(sum[i], pairs[p], _mm256_set1_epi32(lane_of(pair)));
          }
        }
      }
      const __m256 of_weights = Weights::scales(group + half * (Weights::kLayout.scale_bytes / 2));
      for (int i = 0; i < kRows; ++i) {
        const __m256 scale = _mm256_mul_ps(of_weights, _mm256_set1_ps(scales[static_cast<size_t>(i) * blocks + b]));
        total[i][half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[i]), scale, total[i][half]);
      }
    }
  }
  for (int i = 0; i < kRows; ++i) {
    _mm256_storeu_ps(out + i * 32, total[i][0]);
    _mm256_storeu_ps(out + i * 32 + 8, total[i][1]);
  }
}

template <typename Weights>
void product(const uint8_t* first, const uint8_t* second, size_t blocks, const ExactRows& rows, float* out) {
  for (const uint8_t* group : {first, second}) {
    in_passes<kPassRows>(rows.count, [&](auto n, size_t t) {
      group_product<Weights, n>(group, blocks, rows.values + t * blocks * kBlock, rows.scale + t * blocks,
                                out + 32 * t);
    });
    out += kGroupRows;
  }
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

inline void bf16_product(const uint8_t* first, const uint8_t* second, size_t blocks, const ExactRows& rows,
                         float* out) {
  in_passes<4>(rows.count, [&](auto n, size_t t) {
    bf16_group_product<n>(first, blocks, rows.x + t * blocks * kBlock, out + t * 32);
    bf16_group_product<n>(second, blocks, rows.x + t * blocks * kBlock, out + t * 32 + kGroupRows);
  });
}

}  // namespace
}  // namespace gpt_oss
