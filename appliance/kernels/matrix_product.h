// Products of packed weights with any number of tokens (AVX-512). Weights become vectors of pairs, a pair for each of
// 16 rows; a product instruction multiplies them with a pair of one token's activations and adds to its sums. Internal
// linkage on purpose: every path compiles its own copy.
//
// A kind of weights defines:
//   kLayout                 where a group stores them
//   kPairs                  the number of vectors of pairs in a line of codes; pairs(line, out) makes them
//   Sum                     the type of a block's sums, with zero() and multiply(sum, weights, activations)
//   scale(scales)           the scales of a block's rows
//   add(sum, scale, total)  the total plus a block's sums
//   kScaledActivations      whether activations have scales, one per slice
//
// Each token gets the same bits however many tokens share a call: every block is summed from zero and scaled once, and
// totals are in the units of a slice's activations while that slice is added.
#pragma once

#include "passes.h"
#include "paths.h"

#include <immintrin.h>
#include <algorithm>

namespace gpt_oss {
namespace {

constexpr size_t kSlice = 8;  // blocks of activations that share one scale

// The most tokens that pass a group's weights together: their sums and totals are in registers. The first pass streams
// the weights from memory, the others find them in the cache. Each pass unpacks them anew, in units of the processor
// that the products leave idle; unpacking them once for all passes takes longer (measured with 16 to 256 tokens on Zen
// 5).
constexpr int kPassRows = 12;

// out[32 * t + r]: one group with kRows tokens, rows (kRows, inner), scales[t * blocks + slice]. Not inlined, because
// it needs every register.
template <typename Weights, int kRows, typename Activation>
[[gnu::noinline]] void group_product(const uint8_t* group, size_t blocks, const Activation* rows, const float* scales,
                                     float* out) {
  const size_t inner = blocks * kBlock;
  const uint8_t* line = group + Weights::kLayout.codes_at(blocks);
  __m512 total[kRows];
  for (int i = 0; i < kRows; ++i) total[i] = _mm512_setzero_ps();
  for (size_t at = 0; at < blocks; at += kSlice, ++scales) {
    if constexpr (Weights::kScaledActivations)
      for (int i = 0; i < kRows; ++i)
        total[i] = _mm512_mul_ps(total[i], _mm512_set1_ps(1.0f / scales[static_cast<size_t>(i) * blocks]));
    const size_t end = std::min(blocks, at + kSlice);
    for (size_t block = at; block < end; ++block, group += Weights::kLayout.scale_bytes, rows += kBlock) {
      typename Weights::Sum sum[kRows];
      for (int i = 0; i < kRows; ++i) sum[i] = Weights::zero();
      for (int k = 0; k < 16; k += Weights::kPairs, line += kLineBytes) {
        __m512i pairs[Weights::kPairs];
        prefetch_line(line);
        Weights::pairs(line, pairs);
        for (int p = 0; p < Weights::kPairs; ++p)
          for (int i = 0; i < kRows; ++i)
            sum[i] = Weights::multiply(sum[i], pairs[p],
                                       _mm512_set1_epi32(lane_of(rows + static_cast<size_t>(i) * inner + 2 * (k + p))));
      }
      const __m512 scale = Weights::scale(group);
      for (int i = 0; i < kRows; ++i) total[i] = Weights::add(sum[i], scale, total[i]);
    }
    if constexpr (Weights::kScaledActivations)
      for (int i = 0; i < kRows; ++i)
        total[i] = _mm512_mul_ps(total[i], _mm512_set1_ps(scales[static_cast<size_t>(i) * blocks]));
  }
  for (int i = 0; i < kRows; ++i) _mm512_storeu_ps(out + 32 * i, total[i]);
}

// out (count, 32): two groups with rows (count, inner), one stream of memory after the other. `scales` may be null if
// the activations have none.
template <typename Weights, typename Activation>
void matrix_product(const uint8_t* first, const uint8_t* second, size_t blocks, const Activation* rows,
                    const float* scales, size_t count, float* out) {
  for (const uint8_t* group : {first, second}) {
    in_passes<kPassRows>(count, [&](auto n, size_t t) {
      group_product<Weights, n>(group, blocks, rows + t * blocks * kBlock,
                                Weights::kScaledActivations ? scales + t * blocks : nullptr, out + 32 * t);
    });
    out += kGroupRows;
  }
}

}  // namespace
}  // namespace gpt_oss
