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

#include "paths.h"

#include <algorithm>
#include <cstring>
#include <immintrin.h>

namespace gpt_oss {
namespace {

// Blocks that are unpacked at a time, so that both groups' stay in the first-level cache while all rows pass, and for which
// activations have one scale.
constexpr size_t kSlice = 8;
constexpr int kStreamRows = 12;  // at most, that multiply weights as they come: one stream of memory, one group at a time
constexpr int kPassRows = 7;     // of more, that pass unpacked weights together: their sums and totals are in registers

// Asks for the line that stands so many bytes on. Every line is asked for: processors that fetch neighbours by themselves
// are not to be relied on.
template <size_t kAhead>
inline void prefetch_line(const uint8_t* at) {
  _mm_prefetch(reinterpret_cast<const char*>(at + kAhead), _MM_HINT_T0);
}

// Two neighbouring activations of 16 bits, in every lane.
template <typename Activation>
inline __m512i pair_of(const Activation* x) {
  static_assert(sizeof *x == 2);
  int32_t bits;
  std::memcpy(&bits, x, sizeof bits);
  return _mm512_set1_epi32(bits);
}

// Totals in the units of a slice's activations, and back.
template <typename Weights>
inline __m512 in_units(__m512 total, const float* scale) {
  return Weights::kScaledActivations ? _mm512_mul_ps(total, _mm512_set1_ps(1.0f / *scale)) : total;
}
template <typename Weights>
inline __m512 from_units(__m512 total, const float* scale) {
  return Weights::kScaledActivations ? _mm512_mul_ps(total, _mm512_set1_ps(*scale)) : total;
}

// out[32 * t + r]: one group with kRows tokens, rows (kRows, inner), scales[t * blocks + slice].
template <typename Weights, int kRows, typename Activation>
[[gnu::noinline]] void group_product(const uint8_t* group, size_t blocks, const Activation* rows, const float* scales,
                                     float* out) {
  const size_t inner = blocks * kBlock;
  const uint8_t* line = group + Weights::kLayout.codes_at(blocks);
  __m512 total[kRows];
  for (int i = 0; i < kRows; ++i) total[i] = _mm512_setzero_ps();
  for (size_t at = 0; at < blocks; at += kSlice, ++scales) {
    for (int i = 0; i < kRows; ++i) total[i] = in_units<Weights>(total[i], scales + static_cast<size_t>(i) * blocks);
    const size_t end = std::min(blocks, at + kSlice);
    for (size_t block = at; block < end; ++block, group += Weights::kLayout.scale_bytes, rows += kBlock) {
      typename Weights::Sum sum[kRows];
      for (int i = 0; i < kRows; ++i) sum[i] = Weights::zero();
      for (int k = 0; k < 16; k += Weights::kPairs, line += kLineBytes) {
        __m512i pairs[Weights::kPairs];
        prefetch_line<8192>(line);
        Weights::pairs(line, pairs);
        for (int p = 0; p < Weights::kPairs; ++p)
          for (int i = 0; i < kRows; ++i)
            sum[i] = Weights::multiply(sum[i], pairs[p], pair_of(rows + static_cast<size_t>(i) * inner + 2 * (k + p)));
      }
      const __m512 scale = Weights::scale(group);
      for (int i = 0; i < kRows; ++i) total[i] = Weights::add(sum[i], scale, total[i]);
    }
    for (int i = 0; i < kRows; ++i) total[i] = from_units<Weights>(total[i], scales + static_cast<size_t>(i) * blocks);
  }
  for (int i = 0; i < kRows; ++i) _mm512_storeu_ps(out + 32 * i, total[i]);
}

// Neighbouring blocks of two groups, unpacked.
struct Slice {
  __m512i pairs[2][kSlice][16];
  __m512 scales[2][kSlice];

  template <typename Weights>
  void unpack(const uint8_t* group, size_t blocks, size_t first, size_t count, int which) {
    const uint8_t* line = group + Weights::kLayout.codes_at(blocks) + first * Weights::kLayout.code_bytes;
    for (size_t b = 0; b < count; ++b) {
      for (int k = 0; k < 16; k += Weights::kPairs, line += kLineBytes) {
        prefetch_line<4096>(line);
        Weights::pairs(line, pairs[which][b] + k);
      }
      scales[which][b] = Weights::scale(group + (first + b) * Weights::kLayout.scale_bytes);
    }
  }
};

// Adds the products of a slice with kRows tokens to out (kRows, 32); rows and scales as above, from the slice on. Not inlined:
// it needs every register. That totals are read here, and not a slice's own added in the end, makes it 8 % quicker (Zen 5).
template <typename Weights, int kRows, typename Activation>
[[gnu::noinline]] void add_slice(const Slice& slice, size_t count, const Activation* rows, const float* scales, size_t blocks,
                                 float* out) {
  const size_t inner = blocks * kBlock;
  __m512 low[kRows], high[kRows];
  for (int i = 0; i < kRows; ++i) {
    low[i] = in_units<Weights>(_mm512_loadu_ps(out + 32 * i), scales + static_cast<size_t>(i) * blocks);
    high[i] = in_units<Weights>(_mm512_loadu_ps(out + 32 * i + 16), scales + static_cast<size_t>(i) * blocks);
  }
  for (size_t block = 0; block < count; ++block, rows += kBlock) {
    typename Weights::Sum first[kRows], second[kRows];
    for (int i = 0; i < kRows; ++i) first[i] = second[i] = Weights::zero();
    for (int k = 0; k < 16; ++k)
      for (int i = 0; i < kRows; ++i) {
        const __m512i x = pair_of(rows + static_cast<size_t>(i) * inner + 2 * k);
        first[i] = Weights::multiply(first[i], slice.pairs[0][block][k], x);
        second[i] = Weights::multiply(second[i], slice.pairs[1][block][k], x);
      }
    for (int i = 0; i < kRows; ++i) {
      low[i] = Weights::add(first[i], slice.scales[0][block], low[i]);
      high[i] = Weights::add(second[i], slice.scales[1][block], high[i]);
    }
  }
  for (int i = 0; i < kRows; ++i) {
    _mm512_storeu_ps(out + 32 * i, from_units<Weights>(low[i], scales + static_cast<size_t>(i) * blocks));
    _mm512_storeu_ps(out + 32 * i + 16, from_units<Weights>(high[i], scales + static_cast<size_t>(i) * blocks));
  }
}

// The two for a number of rows known only now, 1 .. kMost.
template <typename Weights, int kMost, typename... Arguments>
inline void group_product_of(size_t count, const Arguments&... arguments) {
  if constexpr (kMost > 1)
    if (count < kMost) return group_product_of<Weights, kMost - 1>(count, arguments...);
  group_product<Weights, kMost>(arguments...);
}
template <typename Weights, int kMost, typename... Arguments>
inline void add_slice_of(size_t count, const Arguments&... arguments) {
  if constexpr (kMost > 1)
    if (count < kMost) return add_slice_of<Weights, kMost - 1>(count, arguments...);
  add_slice<Weights, kMost>(arguments...);
}

// out (count, 32) of two groups with rows (count, inner).
template <typename Weights, typename Activation>
void matrix_product(const uint8_t* first, const uint8_t* second, size_t blocks, const Activation* rows, const float* scales,
                    size_t count, float* out) {
  if (count <= kStreamRows) {
    group_product_of<Weights, kStreamRows>(count, first, blocks, rows, scales, out);
    return group_product_of<Weights, kStreamRows>(count, second, blocks, rows, scales, out + kGroupRows);
  }
  thread_local Slice slice;
  const size_t passes = (count + kPassRows - 1) / kPassRows;
  std::memset(out, 0, count * 32 * sizeof(float));
  for (size_t at = 0; at < blocks; at += kSlice, rows += kSlice * kBlock, ++scales) {
    const size_t n = std::min(kSlice, blocks - at);
    slice.unpack<Weights>(first, blocks, at, n, 0);
    slice.unpack<Weights>(second, blocks, at, n, 1);
    for (size_t pass = 0; pass < passes; ++pass) {  // of nearly equal size
      const size_t t = count * pass / passes, end = count * (pass + 1) / passes;
      add_slice_of<Weights, kPassRows>(end - t, slice, n, rows + t * blocks * kBlock, scales + t * blocks, blocks,
                                       out + t * 32);
    }
  }
}

}  // namespace
}  // namespace gpt_oss
