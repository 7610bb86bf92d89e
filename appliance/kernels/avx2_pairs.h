// The products of packed weights with 16-bit activations on AVX2 without AVX-VNNI: a 32-bit lane for each of 8 weight rows,
// and two products of 16 bits per lane. Products of bytes are summed in 16 bits there, which takes a step more than
// 16-bit products, and 8-bit weights do not fit into it. Internal linkage on purpose.
//
// A kind of weights defines what avx2_bytes.h asks for, and:
//   kPairs         the number of vectors of pairs in half a line of codes; pairs(half, out) makes them, unsigned
//   in_pairs(x)    8 activations in the order of such vectors
#pragma once

#include "avx2.h"
#include "avx2_bytes.h"

namespace gpt_oss {
namespace {

// The even and the odd bytes as numbers of 16 bits.
inline void widen(__m256i bytes, __m256i* even, __m256i* odd) {
  *even = _mm256_and_si256(bytes, _mm256_set1_epi16(255));
  *odd = _mm256_srli_epi16(bytes, 8);
}

struct Mxfp4Pairs : Mxfp4Bytes {
  static constexpr int kPairs = 4;
  static __m256i in_pairs(__m256i x) { return x; }
  static void pairs(const uint8_t* half, __m256i* out) {
    __m256i bytes[2];  // k = 8j + 0, 4, 1, 5, and 2, 6, 3, 7
    fours(half, bytes);
    widen(bytes[0], &out[0], &out[2]);
    widen(bytes[1], &out[1], &out[3]);
  }
};

struct Int8Pairs : Int8Bytes {
  static constexpr int kPairs = 2;
  static __m256i in_pairs(__m256i x) { return _mm256_shuffle_epi32(x, _MM_SHUFFLE(3, 1, 2, 0)); }
  static void pairs(const uint8_t* half, __m256i* out) { widen(load(half), &out[0], &out[1]); }
};

struct PairBlock {
  int16_t values[kBlock];  // in the order of the weights
  float scale;
  int32_t start;  // as in WholeBlock
};

template <typename Weights>
void convert_to_pairs(const float* x, size_t blocks, uint8_t* out) {
  for (auto* to = reinterpret_cast<PairBlock*>(out); blocks; --blocks, ++to, x += kBlock) {
    const WholeNumbers whole(x, 32767.0f);
    for (size_t i = 0; i < 4; ++i) {
      const __m256i ordered = Weights::in_pairs(whole.numbers[i]);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to->values + 8 * i),
                       _mm_packs_epi32(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1)));
    }
    finish<Weights>(whole.scale, whole.sum, to);
  }
}

inline __m256i add_pairs(__m256i sum, __m256i weights, __m256i activations) {
  sum = _mm256_add_epi32(sum, _mm256_madd_epi16(weights, activations));
  __asm__("" : "+x"(sum));  // now: GCC would keep the products for later, which takes registers
  return sum;
}

// out (kRows, 32): two or four neighbouring groups with kRows tokens, rows (kRows, blocks). Not inlined: it needs every register.
template <typename Weights, int kGroups, int kRows>
[[gnu::noinline]] void pair_group_product(const uint8_t* group, size_t blocks, const PairBlock* rows, float* out) {
  constexpr GroupLayout kLayout = Weights::kLayout;
  constexpr int kHalves = 2 * kGroups;
  const size_t next = kLayout.bytes(blocks);
  const uint8_t* line = group + kLayout.codes_at(blocks);
  __m256 total[kRows][kHalves];
  for (int i = 0; i < kRows; ++i)
    for (int half = 0; half < kHalves; ++half) total[i][half] = _mm256_setzero_ps();
  for (size_t b = 0; b < blocks; ++b, ++rows, group += kLayout.scale_bytes, line += kLayout.code_bytes) {
    const size_t ahead = ahead_in_groups<kGroups>((blocks - b) * kLayout.code_bytes, next);
    for (int half = 0; half < kHalves; ++half) {
      const size_t at = static_cast<size_t>(half / 2) * next;
      const PairBlock* from_rows = rows;
      __asm__("" : "+r"(from_rows));  // as in byte_group_product
      const auto of_row = [&](int i) -> const PairBlock& { return from_rows[static_cast<size_t>(i) * blocks]; };
      __m256i sum[kRows];
      for (int i = 0; i < kRows; ++i) sum[i] = _mm256_set1_epi32(of_row(i).start);
      for (int k = 0; k < 16; k += Weights::kPairs) {
        const uint8_t* from = line + at + k / Weights::kPairs * static_cast<int>(kLineBytes);
        __m256i pairs[Weights::kPairs];
        if (half % 2 == 0) prefetch_line(from, ahead);
        Weights::pairs(from + 32 * (half % 2), pairs);
        for (int p = 0; p < Weights::kPairs; ++p)
          for (int i = 0; i < kRows; ++i)
            sum[i] = add_pairs(sum[i], pairs[p], _mm256_set1_epi32(lane_of(of_row(i).values + 2 * (k + p))));
      }
      const __m256 of_weights = Weights::scales(group + at + half % 2 * (kLayout.scale_bytes / 2));
      for (int i = 0; i < kRows; ++i) {
        const __m256 scale = _mm256_mul_ps(of_weights, _mm256_set1_ps(of_row(i).scale));
        total[i][half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[i]), scale, total[i][half]);
      }
    }
  }
  for (int i = 0; i < kRows; ++i)
    for (int half = 0; half < kHalves; ++half) _mm256_storeu_ps(out + i * 32 + 8 * half, total[i][half]);
}

template <typename Weights>
void pair_product(const uint8_t* first, const uint8_t*, size_t blocks, const uint8_t* rows, size_t count, float* out) {
  constexpr int kTogether = 8;
  const auto* from = reinterpret_cast<const PairBlock*>(rows);
  in_passes<kTogether>(count, [&](auto n, size_t t) {
    pair_group_product<Weights, 2, n>(first, blocks, from + t * blocks, out + 32 * t);
  });
}

template <typename Weights>
void pair_four(const uint8_t* first, size_t blocks, const uint8_t* row, float* out) {
  pair_group_product<Weights, 4, 1>(first, blocks, reinterpret_cast<const PairBlock*>(row), out);
}

template <typename Weights>
constexpr Form kPairs{16, sizeof(PairBlock), convert_to_pairs<Weights>, pair_product<Weights>, pair_four<Weights>};

}  // namespace
}  // namespace gpt_oss
