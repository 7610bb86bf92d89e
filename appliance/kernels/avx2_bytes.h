// The 256-bit products of packed weights with activations of one or two bytes, with AVX-VNNI or without: a 32-bit lane
// for each of 8 weight rows. Internal linkage on purpose: each path compiles its own copy.
//
// A kind of weights defines how it is made unsigned (byte_rows.h), and:
//   kLayout         where a group stores them
//   kFours          the number of vectors of fours in half a line of codes; fours(half, out) makes them
//   ordered(x)      8 activations in the order of such vectors
//   scales(scales)  the scales of 8 rows
#pragma once

#include "avx2.h"
#include "byte_rows.h"

namespace gpt_oss {
namespace {

struct Mxfp4Bytes : UnsignedMxfp4 {
  static constexpr GroupLayout kLayout = kMxfp4;
  static constexpr int kFours = 2;
  static __m256i ordered(__m256i x) {
    return _mm256_permutevar8x32_epi32(x, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  }
  static void fours(const uint8_t* half, __m256i* out) {
    const __m256i table = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(kUnsignedE2m1)));
    const __m256i nibble = _mm256_set1_epi8(15), word = load(half);
    out[0] = _mm256_shuffle_epi8(table, _mm256_and_si256(word, nibble));
    out[1] = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(word, 4), nibble));
  }
  static __m256 scales(const uint8_t* scales) { return mxfp4_scales(scales); }
};

struct Int8Bytes : UnsignedInt8 {
  static constexpr GroupLayout kLayout = kInt8;
  static constexpr int kFours = 1;
  static __m256i ordered(__m256i x) { return x; }
  static void fours(const uint8_t* half, __m256i* out) { *out = load(half); }
  static __m256 scales(const uint8_t* scales) { return int8_scales(scales); }
};

// Adds the products of kCount fours of bytes to a sum.
#ifdef __AVXVNNI__
template <int kCount>
inline __m256i add_fours(__m256i sum, const __m256i* fours, const int8_t* values) {
  for (int v = 0; v < kCount; ++v)
    sum = _mm256_dpbusd_avx_epi32(sum, fours[v], _mm256_set1_epi32(lane_of(values + 4 * v)));
  return sum;
}
constexpr int kFoursTogether = 2;
#else
// Pairs are first summed in 16 bits: with MXFP4 4 * 2 * 24 * 127 fits.
template <int kCount>
inline __m256i add_fours(__m256i sum, const __m256i* fours, const int8_t* values) {
  __m256i twos = _mm256_maddubs_epi16(fours[0], _mm256_set1_epi32(lane_of(values)));
  for (int v = 1; v < kCount; ++v)
    twos = _mm256_add_epi16(twos, _mm256_maddubs_epi16(fours[v], _mm256_set1_epi32(lane_of(values + 4 * v))));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(twos, _mm256_set1_epi16(1)));
}
constexpr int kFoursTogether = 4;
#endif

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

// A block as whole numbers up to `most` in four vectors, and their sum.
struct WholeNumbers {
  __m256i numbers[4];
  WholeScale scale;
  int32_t sum;
  WholeNumbers(const float* x, float most) : scale(whole_scale(largest_of_block(x), most)) {
    __m256i all = _mm256_setzero_si256();
    for (size_t i = 0; i < 4; ++i) {
      numbers[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), _mm256_set1_ps(scale.factor)));
      all = _mm256_add_epi32(all, numbers[i]);
    }
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    sum = _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
  }
};

template <typename Weights, int kBytes>
void convert_to_bytes(const float* x, size_t blocks, uint8_t* out) {
  for (auto* to = reinterpret_cast<WholeBlock<kBytes>*>(out); blocks; --blocks, ++to, x += kBlock) {
    WholeNumbers whole(x, kMost<kBytes>);
    for (__m256i& eight : whole.numbers) eight = Weights::ordered(eight);
    for (int byte = kBytes - 1; byte >= 0; --byte) {
      __m256i lowest[4];
      for (size_t i = 0; i < 4; ++i) {
        lowest[i] = _mm256_srai_epi32(_mm256_slli_epi32(whole.numbers[i], 24), 24);
        whole.numbers[i] = _mm256_srai_epi32(_mm256_sub_epi32(whole.numbers[i], lowest[i]), 8);
      }
      // The pack instructions work on halves of vectors: four numbers of each come first, then the other four.
      const __m256i packed =
          _mm256_packs_epi16(_mm256_packs_epi32(lowest[0], lowest[1]), _mm256_packs_epi32(lowest[2], lowest[3]));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to->values[byte]),
                          _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
    }
    finish<Weights>(whole.scale, whole.sum, to);
  }
}

// out (kRows, 32): one group, or two or four neighbouring ones, with kRows tokens, rows (kRows, blocks). Not inlined: it needs
// every register.
template <typename Weights, int kBytes, int kGroups, int kRows>
[[gnu::noinline]] void byte_group_product(const uint8_t* group, size_t blocks, const WholeBlock<kBytes>* rows,
                                          float* out) {
  constexpr int kHalves = 2 * kGroups;
  const size_t next = Weights::kLayout.bytes(blocks);
  const uint8_t* line = group + Weights::kLayout.codes_at(blocks);
  __m256 total[kRows][kHalves];
  for (int i = 0; i < kRows; ++i)
    for (int half = 0; half < kHalves; ++half) total[i][half] = _mm256_setzero_ps();
  for (size_t b = 0; b < blocks;
       ++b, ++rows, group += Weights::kLayout.scale_bytes, line += Weights::kLayout.code_bytes) {
    const size_t ahead = ahead_in_groups<kGroups>((blocks - b) * Weights::kLayout.code_bytes, next);
    for (int half = 0; half < kHalves; ++half) {
      const WholeBlock<kBytes>* from_rows = rows;
      // Without this GCC keeps what the first half has read for the second, which takes registers.
      __asm__("" : "+r"(from_rows));
      const auto of_row = [&](int i) -> const WholeBlock<kBytes>& {
        return from_rows[static_cast<size_t>(i) * blocks];
      };
      const size_t at = static_cast<size_t>(half / 2) * next;
      __m256i sum[kRows][kBytes];
      for (int i = 0; i < kRows; ++i)
        for (int byte = 0; byte < kBytes; ++byte)
          sum[i][byte] = byte == kBytes - 1 ? _mm256_set1_epi32(of_row(i).start) : _mm256_setzero_si256();
      for (int k = 0; k < 8; k += kFoursTogether) {
        __m256i fours[kFoursTogether];
        for (int v = 0; v < kFoursTogether; v += Weights::kFours) {
          const uint8_t* from = line + at + (k + v) / Weights::kFours * static_cast<int>(kLineBytes);
          if (half % 2 == 0) prefetch_line(from, ahead);
          Weights::fours(from + 32 * (half % 2), fours + v);
        }
        for (int i = 0; i < kRows; ++i)
          for (int byte = 0; byte < kBytes; ++byte)
            sum[i][byte] = add_fours<kFoursTogether>(sum[i][byte], fours, of_row(i).values[byte] + 4 * k);
      }
      const __m256 of_weights = Weights::scales(group + at + half % 2 * (Weights::kLayout.scale_bytes / 2));
      for (int i = 0; i < kRows; ++i) {
        __m256i whole = sum[i][0];
        for (int byte = 1; byte < kBytes; ++byte) whole = _mm256_add_epi32(_mm256_slli_epi32(whole, 8), sum[i][byte]);
        const __m256 scale = _mm256_mul_ps(of_weights, _mm256_set1_ps(of_row(i).scale));
        total[i][half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(whole), scale, total[i][half]);
      }
    }
  }
  for (int i = 0; i < kRows; ++i)
    for (int half = 0; half < kHalves; ++half) _mm256_storeu_ps(out + i * 32 + 8 * half, total[i][half]);
}

template <typename Weights>
void prompt_product(const uint8_t* first, const uint8_t* second, size_t blocks, const uint8_t* rows, size_t count,
                    float* out) {
  constexpr int kTogether = 8;
  const auto* from = reinterpret_cast<const WholeBlock<1>*>(rows);
  for (const uint8_t* group : {first, second}) {
    in_passes<kTogether>(count, [&](auto n, size_t t) {
      byte_group_product<Weights, 1, 1, n>(group, blocks, from + t * blocks, out + 32 * t);
    });
    out += kGroupRows;
  }
}

}  // namespace
}  // namespace gpt_oss
