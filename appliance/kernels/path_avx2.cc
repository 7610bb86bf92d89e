// AVX2: the 16 rows of a group are two vectors of 8; u8 x s8 products through 16-bit sums, which cannot saturate
// (2 * 24 * 127 < 2^15).
#include "attention_core.h"
#include "elementwise.h"
#include "logits_core.h"
#include "paths.h"

#include <immintrin.h>
#include <type_traits>

namespace gpt_oss {
namespace {

bool supported() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

inline __m256 scales_of(const uint8_t* e8m0) {
  const __m256i e = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(e8m0)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(e, 23));
}

// Position of each of 8 neighbouring activations in the order the MXFP4 products read them.
constexpr size_t kInterleave[8] = {0, 2, 4, 6, 1, 3, 5, 7};

// Whole numbers of 15 bits: for 8-bit weights in the order of x, for MXFP4 a block's upper and lower bytes, 128 * high + low,
// each interleaved.
void quantise(const float* x, size_t blocks, bool mxfp4, int16_t* values, float* scale, int32_t* sums) {
  for (size_t b = 0; b < blocks; ++b, x += kBlock, values += kBlock) {
    float largest = 0.0f;
    for (size_t i = 0; i < kBlock; ++i) largest = std::max(largest, std::fabs(x[i]));
    const WholeScale block = whole_scale(largest, 127 * 128);
    int8_t halves[2][kBlock];
    int32_t sum = 0;
    for (size_t i = 0; i < kBlock; ++i) {
      const int32_t q = static_cast<int32_t>(x[i] * block.factor + (x[i] < 0.0f ? -0.5f : 0.5f)), high = (q + 64) >> 7;
      const size_t at = i / 8 * 8 + kInterleave[i % 8];
      halves[0][at] = static_cast<int8_t>(high);
      halves[1][at] = static_cast<int8_t>(q - 128 * high);
      values[i] = static_cast<int16_t>(q);
      sum += q;
    }
    if (mxfp4) std::memcpy(values, halves, sizeof halves);
    scale[b] = mxfp4 ? 0.5f * block.scale : block.scale;  // these products multiply with twice each weight
    sums[b] = sum;
  }
}

// The rows from `row` on.
ExactRows rest_of(const ExactRows& rows, size_t row, size_t blocks) {
  return {rows.x + row * blocks * kBlock, rows.values + row * blocks * kBlock, rows.scale + row * blocks,
          rows.sum + row * blocks, rows.count - row};
}

template <int kCount>
void mxfp4_group_product(const uint8_t* group, size_t blocks, const ExactRows& rows, float* out) {
  const size_t inner = blocks * kBlock;
  const __m256i table = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
  const __m256i nibble = _mm256_set1_epi8(15);
  const __m256i ones = _mm256_set1_epi16(1), high_weight = _mm256_set1_epi16(128);
  __m256 total[kCount][2];
  for (size_t t = 0; t < kCount; ++t) total[t][0] = total[t][1] = _mm256_setzero_ps();
  const uint8_t* block = group + kMxfp4.codes_at(blocks);
  for (size_t b = 0; b < blocks; ++b, group += kMxfp4.scale_bytes, block += kMxfp4.code_bytes) {
    for (int half = 0; half < 2; ++half) {
      __m256i sum[kCount];
      for (size_t t = 0; t < kCount; ++t) sum[t] = _mm256_set1_epi32(-kCodeOffset * rows.sum[t * blocks + b]);
      for (int j = 0; j < 4; ++j) {
        const __m256i codes =
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + j * 64 + half * 32));
        const __m256i weights[2] = {
            _mm256_shuffle_epi8(table, _mm256_and_si256(codes, nibble)),
            _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(codes, 4), nibble))};
        for (size_t t = 0; t < kCount; ++t) {
          const int32_t* x = reinterpret_cast<const int32_t*>(rows.values + t * inner) + b * 16 + 2 * j;
          for (int i = 0; i < 2; ++i) {
            const __m256i high = _mm256_maddubs_epi16(weights[i], _mm256_set1_epi32(x[i]));
            const __m256i low = _mm256_maddubs_epi16(weights[i], _mm256_set1_epi32(x[8 + i]));
            sum[t] = _mm256_add_epi32(sum[t], _mm256_madd_epi16(high, high_weight));
            sum[t] = _mm256_add_epi32(sum[t], _mm256_madd_epi16(low, ones));
          }
        }
      }
      const __m256 weight_scale = scales_of(group + half * 8);
      for (size_t t = 0; t < kCount; ++t) {
        const __m256 scale = _mm256_mul_ps(weight_scale, _mm256_set1_ps(rows.scale[t * blocks + b]));
        total[t][half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[t]), scale, total[t][half]);
      }
    }
  }
  for (size_t t = 0; t < kCount; ++t) {
    _mm256_storeu_ps(out + t * 32, total[t][0]);
    _mm256_storeu_ps(out + t * 32 + 8, total[t][1]);
  }
}

// u8 x s8 pairs of 8-bit weights could exceed 16 bits, so both sides are widened first.
void int8_group_product(const uint8_t* group, size_t blocks, const ExactRows& row, float* out) {
  __m256 total[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  const uint8_t* block = group + kInt8.codes_at(blocks);
  for (size_t b = 0; b < blocks; ++b, group += kInt8.scale_bytes, block += kInt8.code_bytes) {
    for (int half = 0; half < 2; ++half) {
      // 8 rows: lanes 0..3 and 4..7 of the 32-bit sums come from the two 16-byte halves.
      __m256i low = _mm256_setzero_si256(), high = _mm256_setzero_si256();
      for (int j = 0; j < 8; ++j) {
        const __m128i* bytes = reinterpret_cast<const __m128i*>(block + j * 64 + half * 32);
        int64_t four;
        std::memcpy(&four, row.values + b * kBlock + 4 * j, sizeof four);
        const __m256i x = _mm256_set1_epi64x(four);
        low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128(bytes)), x));
        high = _mm256_add_epi32(high, _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128(bytes + 1)), x));
      }
      // Pairs of 32-bit sums belong to one row; hadd leaves rows 0 1 4 5 | 2 3 6 7 in 64-bit quarters.
      __m256i sum = _mm256_permute4x64_epi64(_mm256_hadd_epi32(low, high), _MM_SHUFFLE(3, 1, 2, 0));
      sum = _mm256_add_epi32(sum, _mm256_set1_epi32(-kInt8Offset * row.sum[b]));
      const __m256 weight_scale =
          _mm256_castsi256_ps(_mm256_slli_epi32(
          _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(group + half * 16))), 16));
      total[half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum),
                                    _mm256_mul_ps(weight_scale, _mm256_set1_ps(row.scale[b])), total[half]);
    }
  }
  _mm256_storeu_ps(out, total[0]);
  _mm256_storeu_ps(out + 8, total[1]);
}

void int8_product(const uint8_t* first, const uint8_t* second, size_t blocks, const ExactRows& rows, float* out) {
  for (size_t t = 0; t < rows.count; ++t) {
    const ExactRows row = rest_of(rows, t, blocks);
    int8_group_product(first, blocks, row, out + t * 32);
    int8_group_product(second, blocks, row, out + t * 32 + 16);
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

// Calls product<n>(row) for n rows from each on, as many together as registers allow.
template <typename Product>
void in_fours(size_t count, const Product& product) {
  size_t row = 0;
  for (; row + 4 <= count; row += 4) product(std::integral_constant<int, 4>{}, row);
  for (; row < count; ++row) product(std::integral_constant<int, 1>{}, row);
}

void bf16_product(const uint8_t* first, const uint8_t* second, size_t blocks, const ExactRows& rows, float* out) {
  in_fours(rows.count, [&](auto n, size_t row) {
    bf16_group_product<n>(first, blocks, rows.x + row * blocks * kBlock, out + row * 32);
    bf16_group_product<n>(second, blocks, rows.x + row * blocks * kBlock, out + row * 32 + 16);
  });
}

void mxfp4_product(const uint8_t* first, const uint8_t* second, size_t blocks, const ExactRows& rows, float* out) {
  in_fours(rows.count, [&](auto n, size_t row) {
    mxfp4_group_product<n>(first, blocks, rest_of(rows, row, blocks), out + row * 32);
    mxfp4_group_product<n>(second, blocks, rest_of(rows, row, blocks), out + row * 32 + 16);
  });
}

}  // namespace

const Path& avx2_path() {
  static const Path path{"avx2",
                         supported,
                         swiglu,
                         quantise,
                         to_bf16,
                         attend,
                         summarise,
                         mxfp4_product,
                         int8_product,
                         bf16_product};
  return path;
}

}  // namespace gpt_oss
