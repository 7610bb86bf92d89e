// The 256-bit products of packed weights with a prompt's activations in 8 bits, with AVX-VNNI or without: a 32-bit lane
// for each of 8 weight rows, four products per lane. Internal linkage on purpose: each path compiles its own copy.
//
// A kind of weights defines what avx2.h asks for, how it is made unsigned (byte_rows.h), and:
//   kFours        the number of vectors of fours in half a line; fours(half, out) makes them
//   ordered(x)    8 activations in the order of such vectors
#pragma once

#include "avx2.h"
#include "byte_rows.h"

namespace gpt_oss {
namespace {

struct Mxfp4Bytes : Mxfp4Weights, UnsignedMxfp4 {
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
};

struct Int8Bytes : Int8Weights, UnsignedInt8 {
  static constexpr int kFours = 1;
  static __m256i ordered(__m256i x) { return x; }
  static void fours(const uint8_t* half, __m256i* out) { *out = load(half); }
};

inline __m256i four_activations(const int8_t* values) { return _mm256_set1_epi32(lane_of(values)); }

// Adds to the sum the products of kFoursTogether vectors of fours, each with four activations of a token.
#ifdef __AVXVNNI__
constexpr int kFoursTogether = 2;
inline __m256i add_fours(__m256i sum, const __m256i* fours, const int8_t* values) {
  for (int v = 0; v < kFoursTogether; ++v)
    sum = _mm256_dpbusd_avx_epi32(sum, fours[v], four_activations(values + 4 * v));
  return sum;
}
#else
constexpr int kFoursTogether = 4;  // pairs are first summed in 16 bits: 4 * 2 * 24 * 127 fits
inline __m256i add_fours(__m256i sum, const __m256i* fours, const int8_t* values) {
  __m256i twos = _mm256_setzero_si256();
  for (int v = 0; v < kFoursTogether; ++v)
    twos = _mm256_add_epi16(twos, _mm256_maddubs_epi16(fours[v], four_activations(values + 4 * v)));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(twos, _mm256_set1_epi16(1)));
}
#endif

template <typename Weights>
void convert_to_bytes(const float* x, size_t blocks, uint8_t* out) {
  for (ByteBlock* to = reinterpret_cast<ByteBlock*>(out); blocks; --blocks, ++to, x += kBlock) {
    const WholeScale block = whole_scale(largest_of_block(x), kMostInByte);
    __m256i numbers[4], sum = _mm256_setzero_si256();
    for (size_t i = 0; i < 4; ++i) {
      numbers[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), _mm256_set1_ps(block.factor)));
      sum = _mm256_add_epi32(sum, numbers[i]);
      numbers[i] = Weights::ordered(numbers[i]);
    }
    // The pack instructions work on halves of vectors: four numbers of each come first, then the other four.
    const __m256i packed =
        _mm256_packs_epi16(_mm256_packs_epi32(numbers[0], numbers[1]), _mm256_packs_epi32(numbers[2], numbers[3]));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to->values),
                        _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1));
    to->finish<Weights>(block, _mm_cvtsi128_si32(four));
  }
}

// out[32 * t + r]: one group with kRows tokens, rows (kRows, blocks). Not inlined: it needs every register.
template <typename Weights, int kRows>
[[gnu::noinline]] void byte_group_product(const uint8_t* group, size_t blocks, const ByteBlock* rows, float* out) {
  const uint8_t* line = group + Weights::kLayout.codes_at(blocks);
  __m256 total[kRows][2];
  for (int i = 0; i < kRows; ++i) total[i][0] = total[i][1] = _mm256_setzero_ps();
  for (size_t b = 0; b < blocks;
       ++b, ++rows, group += Weights::kLayout.scale_bytes, line += Weights::kLayout.code_bytes) {
    for (int half = 0; half < 2; ++half) {
      const ByteBlock* from_rows = rows;
      // Without this GCC keeps what the first half has read for the second, which takes registers.
      __asm__("" : "+r"(from_rows));
      const auto of_row = [&](int i) -> const ByteBlock& { return from_rows[static_cast<size_t>(i) * blocks]; };
      __m256i sum[kRows];
      for (int i = 0; i < kRows; ++i) sum[i] = _mm256_set1_epi32(of_row(i).start);
      for (int k = 0; k < 8; k += kFoursTogether) {
        __m256i fours[kFoursTogether];
        for (int v = 0; v < kFoursTogether; v += Weights::kFours) {
          const uint8_t* from = line + (k + v) / Weights::kFours * static_cast<int>(kLineBytes);
          if (half == 0) prefetch_line(from);
          Weights::fours(from + 32 * half, fours + v);
        }
        for (int i = 0; i < kRows; ++i) sum[i] = add_fours(sum[i], fours, of_row(i).values + 4 * k);
      }
      const __m256 of_weights = Weights::scales(group + half * (Weights::kLayout.scale_bytes / 2));
      for (int i = 0; i < kRows; ++i) {
        const __m256 scale = _mm256_mul_ps(of_weights, _mm256_set1_ps(of_row(i).scale));
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
void byte_product(const uint8_t* first, const uint8_t* second, size_t blocks, const uint8_t* rows, size_t count,
                  float* out) {
  for (const uint8_t* group : {first, second}) {
    in_passes<kPassRows>(count, [&](auto n, size_t t) {
      byte_group_product<Weights, n>(group, blocks, reinterpret_cast<const ByteBlock*>(rows) + t * blocks,
                                     out + 32 * t);
    });
    out += kGroupRows;
  }
}

constexpr PromptForm kMxfp4Prompt{8, sizeof(ByteBlock), convert_to_bytes<Mxfp4Bytes>, byte_product<Mxfp4Bytes>};
#ifdef __AVXVNNI__
constexpr PromptForm kInt8Prompt{8, sizeof(ByteBlock), convert_to_bytes<Int8Bytes>, byte_product<Int8Bytes>};
constexpr const PromptForm* kInt8PromptIfAny = &kInt8Prompt;
#else
constexpr const PromptForm* kInt8PromptIfAny = nullptr;  // two products of 8 bits with 7 do not fit into 16
#endif

}  // namespace
}  // namespace gpt_oss
