// Products of packed weights with activations of one or two bytes (AVX-512 VNNI): a 32-bit lane of a vector for each
// weight row, and four products of bytes per lane and instruction. Internal linkage on purpose: every path compiles its own
// copy.
//
// A kind of weights defines how it is made unsigned (byte_rows.h), and:
//   kLayout          where a group stores them
//   kVectors         the number of vectors of fours in a line of codes; fours(line, out) makes them
//   ordered(x)       16 activations in the order of such vectors
//   scale(scales)    the scales of a block's rows
#pragma once

#include "byte_rows.h"
#include "passes.h"
#include "paths.h"
#include "scales.h"

#include <immintrin.h>
#include <algorithm>

namespace gpt_oss {
namespace {

// 16 whole numbers, byte by byte, in the order of the weights.
template <typename Weights, int kBytes>
inline void store_bytes(__m512i numbers, size_t half, WholeBlock<kBytes>* to) {
  numbers = Weights::ordered(numbers);
  for (int byte = kBytes - 1; byte >= 0; --byte) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to->values[byte]) + half, _mm512_cvtepi32_epi8(numbers));
    // What is left after the lowest byte, as a signed number, is taken away.
    numbers = _mm512_srai_epi32(_mm512_add_epi32(numbers, _mm512_set1_epi32(128)), 8);
  }
}

template <typename Weights, int kBytes>
void convert_to_bytes(const float* x, size_t blocks, uint8_t* out) {
  for (auto* to = reinterpret_cast<WholeBlock<kBytes>*>(out); blocks; --blocks, ++to, x += kBlock) {
    const __m512 low = _mm512_loadu_ps(x), high = _mm512_loadu_ps(x + 16);
    const float largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
    const WholeScale block = whole_scale(largest, kMost<kBytes>);
    const __m512 factor = _mm512_set1_ps(block.factor);
    const __m512i first = _mm512_cvtps_epi32(_mm512_mul_ps(low, factor));
    const __m512i second = _mm512_cvtps_epi32(_mm512_mul_ps(high, factor));
    store_bytes<Weights, kBytes>(first, 0, to);
    store_bytes<Weights, kBytes>(second, 1, to);
    finish<Weights>(block, _mm512_reduce_add_epi32(_mm512_add_epi32(first, second)), to);
  }
}

struct Mxfp4Bytes : UnsignedMxfp4 {
  static constexpr GroupLayout kLayout = kMxfp4;
  static constexpr int kVectors = 2;
  static __m512i ordered(__m512i x) {
    return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15), x);
  }
  static void fours(const uint8_t* line, __m512i* out) {
    const __m512i table = _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(kUnsignedE2m1)));
    const __m512i nibble = _mm512_set1_epi8(15), word = _mm512_loadu_si512(line);
    out[0] = _mm512_shuffle_epi8(table, _mm512_and_si512(word, nibble));
    out[1] = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(word, 4), nibble));
  }
  static __m512 scale(const uint8_t* scales) { return mxfp4_scales(scales); }
};

struct Int8Bytes : UnsignedInt8 {
  static constexpr GroupLayout kLayout = kInt8;
  static constexpr int kVectors = 1;
  static __m512i ordered(__m512i x) { return x; }
  static void fours(const uint8_t* line, __m512i* out) { *out = _mm512_loadu_si512(line); }
  static __m512 scale(const uint8_t* scales) { return int8_scales(scales); }
};

// GCC moves sums between registers unless they have this type throughout.
using Sum = __v16si;

// The whole number whose bytes' sums these are, highest first.
template <int kBytes>
inline __m512i joined(const Sum* sums) {
  __m512i whole = reinterpret_cast<__m512i>(sums[0]);
  for (int byte = 1; byte < kBytes; ++byte)
    whole = _mm512_add_epi32(_mm512_slli_epi32(whole, 8), reinterpret_cast<__m512i>(sums[byte]));
  return whole;
}

// out (kRows, 32): one group, or two or four neighbouring ones, with kRows tokens, rows (kRows, blocks). Not inlined, because it
// needs every register.
template <typename Weights, int kBytes, int kGroups, int kRows>
[[gnu::noinline]] void byte_group_product(const uint8_t* group, size_t blocks, const WholeBlock<kBytes>* rows,
                                          float* out) {
  const size_t next = Weights::kLayout.bytes(blocks);
  const uint8_t* line = group + Weights::kLayout.codes_at(blocks);
  __m512 total[kRows][kGroups];
  for (int i = 0; i < kRows; ++i)
    for (int g = 0; g < kGroups; ++g) total[i][g] = _mm512_setzero_ps();
  for (size_t block = 0; block < blocks; ++block, ++rows, group += Weights::kLayout.scale_bytes) {
    const auto of_row = [&](int i) -> const WholeBlock<kBytes>& { return rows[static_cast<size_t>(i) * blocks]; };
    const size_t ahead = ahead_in_groups<kGroups>((blocks - block) * Weights::kLayout.code_bytes, next);
    Sum sum[kRows][kGroups][kBytes];
    for (int i = 0; i < kRows; ++i)
      for (int g = 0; g < kGroups; ++g)
        for (int byte = 0; byte < kBytes; ++byte)
          sum[i][g][byte] = reinterpret_cast<Sum>(_mm512_set1_epi32(byte == kBytes - 1 ? of_row(i).start : 0));
    for (int k = 0; k < 8; k += Weights::kVectors, line += kLineBytes) {
      __m512i fours[kGroups][Weights::kVectors];
      for (int g = 0; g < kGroups; ++g) {
        prefetch_line(line + static_cast<size_t>(g) * next, ahead);
        Weights::fours(line + static_cast<size_t>(g) * next, fours[g]);
      }
      for (int v = 0; v < Weights::kVectors; ++v) {
        for (int i = 0; i < kRows; ++i) {
          for (int byte = 0; byte < kBytes; ++byte) {
            __m512i four = _mm512_set1_epi32(lane_of(of_row(i).values[byte] + 4 * (k + v)));
            if constexpr (kGroups > 1) __asm__("" : "+v"(four));  // loaded once for both groups
            for (int g = 0; g < kGroups; ++g) {
              const __m512i before = reinterpret_cast<__m512i>(sum[i][g][byte]);
              sum[i][g][byte] = reinterpret_cast<Sum>(_mm512_dpbusd_epi32(before, fours[g][v], four));
            }
          }
        }
      }
    }
    __m512 of_weights[kGroups];
    for (int g = 0; g < kGroups; ++g) of_weights[g] = Weights::scale(group + static_cast<size_t>(g) * next);
    for (int i = 0; i < kRows; ++i) {
      for (int g = 0; g < kGroups; ++g) {
        const __m512 scale = _mm512_mul_ps(of_weights[g], _mm512_set1_ps(of_row(i).scale));
        total[i][g] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(joined<kBytes>(sum[i][g])), scale, total[i][g]);
      }
    }
  }
  for (int i = 0; i < kRows; ++i)
    for (int g = 0; g < kGroups; ++g) _mm512_storeu_ps(out + 32 * i + 16 * g, total[i][g]);
}

// With one byte: the first pass takes weights as they come from memory, one group after the other, with as many tokens
// as registers hold, which gives memory time. The other passes find both groups, which are neighbours, in the cache and
// take them together: then loads of activations are the limit, and this halves them.
template <typename Weights>
void prompt_product(const uint8_t* first, const uint8_t* second, size_t blocks, const uint8_t* rows, size_t count,
                    float* out) {
  constexpr int kStreaming = 12, kTogether = 5;
  const size_t streaming = std::min<size_t>(count, kStreaming);
  const auto* from = reinterpret_cast<const WholeBlock<1>*>(rows);
  for (const uint8_t* group : {first, second})
    in_passes<kStreaming>(streaming, [&](auto n, size_t) {
      byte_group_product<Weights, 1, 1, n>(group, blocks, from, out + (group == first ? 0 : kGroupRows));
    });
  in_passes<kTogether>(count - streaming, [&](auto n, size_t t) {
    byte_group_product<Weights, 1, 2, n>(first, blocks, from + (streaming + t) * blocks, out + 32 * (streaming + t));
  });
}

}  // namespace
}  // namespace gpt_oss
