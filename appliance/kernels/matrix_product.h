// Products of packed weights with any number of tokens (AVX-512): weights become vectors of pairs, a pair for each of 16
// rows; a product instruction multiplies them with a pair of one token's activations and adds to its sums. Internal linkage
// on purpose: every path compiles its own copy.
//
// A kind of weights says how:
//   kLayout                 where a group keeps them
//   kPairs                  vectors of pairs in a line of codes; pairs(line, out) makes them
//   Sum                     what a block is summed in: zero(), multiply(sum, weights, activations)
//   scale(scales)           of a block's rows
//   add(sum, scale, total)  the total with a block's sums added
//   kScaledActivations      whether activations have scales, one a slice
//
// However many tokens share a call, each gets the same bits: a block is summed from nothing and scaled once, and while a slice
// is added totals are in its activations' units.
#pragma once

#include "passes.h"
#include "paths.h"

#include <immintrin.h>
#include <algorithm>

namespace gpt_oss {
namespace {

constexpr size_t kSlice = 8;  // blocks for which activations have one scale

// Tokens that pass a group's weights together, at most: their sums and totals are in registers. The first to pass stream them
// from memory, the others find them in the cache. All unpack them anew, in units of the processor that products leave idle:
// to unpack them once for all takes longer (measured with 16 to 256 tokens on Zen 5).
constexpr int kPassRows = 12;

// out[32 * t + r]: one group with kRows tokens, rows (kRows, inner), scales[t * blocks + slice]. Not inlined: it needs every
// register.
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

// out (count, 32): two groups with rows (count, inner), one stream of memory after the other. `scales` may be null where
// activations have none.
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
