// Packed weights as bfloat16 tiles for the matrix unit (AVX-512).
// Internal linkage on purpose: every path compiles its own copy.
#pragma once

#include "paths.h"
#include "scales.h"

#include <immintrin.h>

namespace gpt_oss {
namespace {

// The bf16 bits of each code, in both halves of the permutation table.
alignas(64) constexpr uint16_t kCodeBits[32] = {0x0000, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0,
                                                0x0000, 0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0,
                                                0x0000, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0,
                                                0x0000, 0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0};

// What a block's scales add to the bfloat16 bits of its numbers, in both halves of each word. The smallest scale,
// 2^-127, is replaced by the next, because half of it has no exponent.
inline __m512i exponents_of(const uint8_t* scales) {
  const __m512i e8m0 = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(scales)));
  const __m512i least = _mm512_max_epi32(e8m0, _mm512_set1_epi32(1));
  const __m512i exponent = _mm512_slli_epi32(_mm512_sub_epi32(least, _mm512_set1_epi32(127)), 7);
  return _mm512_or_si512(_mm512_and_si512(exponent, _mm512_set1_epi32(0xffff)), _mm512_slli_epi32(exponent, 16));
}

// Row p of a tile: for each of the 16 rows of a group the bf16 pair whose codes are the low nibbles of `codes`' halves.
inline __m512i pair_row(__m512i codes, __m512i table, __m512i exponents) {
  // Only the low 5 bits of a word choose from the table, which repeats after 16 entries.
  const __mmask32 not_zero = _mm512_test_epi16_mask(codes, _mm512_set1_epi16(7));
  const __m512i bits = _mm512_permutexvar_epi16(codes, table);
  return _mm512_mask_add_epi16(bits, not_zero, bits, exponents);
}

// One group's block as a B tile: row p holds, for each of the 16 rows, the bf16 pair k = 2p, 2p + 1.
inline void unpack_block(const uint8_t* scales, const uint8_t* block, __m512i table, uint16_t* tile) {
  const __m512i exponents = exponents_of(scales);
  for (int j = 0; j < 4; ++j) {
    const __m512i codes = _mm512_loadu_si512(block + j * 64);
    const __m512i pairs[4] = {codes, _mm512_srli_epi16(codes, 4), _mm512_srli_epi16(codes, 8),
                              _mm512_srli_epi16(codes, 12)};
    for (int p = 0; p < 4; ++p) _mm512_store_si512(tile + (4 * j + p) * 32, pair_row(pairs[p], table, exponents));
  }
}

// The same for 8-bit weights. They are rounded to bf16, which has 8 bits of mantissa.
inline void unpack_int8_block(const uint8_t* scales, const uint8_t* block, uint16_t* tile) {
  const __m512 scale = int8_scales(scales);
  const __m512i byte = _mm512_set1_epi32(255), offset = _mm512_set1_epi32(kInt8Offset);
  for (int j = 0; j < 8; ++j) {
    const __m512i bytes = _mm512_loadu_si512(block + j * 64);
    __m512i bits[4];
    for (int i = 0; i < 4; ++i) {
      const __m512i q = _mm512_sub_epi32(_mm512_and_si512(_mm512_srli_epi32(bytes, 8 * i), byte), offset);
      const __m512i value = _mm512_castps_si512(_mm512_mul_ps(_mm512_cvtepi32_ps(q), scale));
      const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(value, 16), _mm512_set1_epi32(1));
      bits[i] = _mm512_srli_epi32(_mm512_add_epi32(value, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    }
    _mm512_store_si512(tile + 2 * j * 32, _mm512_or_si512(bits[0], _mm512_slli_epi32(bits[1], 16)));
    _mm512_store_si512(tile + (2 * j + 1) * 32, _mm512_or_si512(bits[2], _mm512_slli_epi32(bits[3], 16)));
  }
}

// Unpacks `count` of a group's blocks, from `at` on, to `tiles`, and returns `tiles`.
inline const uint16_t* unpack_mxfp4(const uint8_t* group, size_t blocks, size_t at, size_t count, uint16_t* tiles) {
  const __m512i table = _mm512_load_si512(kCodeBits);
  const uint8_t* codes = group + kMxfp4.codes_at(blocks);
  for (size_t i = 0, b = at; i < count; ++i, ++b)
    unpack_block(group + b * kMxfp4.scale_bytes, codes + b * kMxfp4.code_bytes, table, tiles + i * 512);
  return tiles;
}

inline const uint16_t* unpack_int8(const uint8_t* group, size_t blocks, size_t at, size_t count, uint16_t* tiles) {
  const uint8_t* codes = group + kInt8.codes_at(blocks);
  for (size_t i = 0, b = at; i < count; ++i, ++b)
    unpack_int8_block(group + b * kInt8.scale_bytes, codes + b * kInt8.code_bytes, tiles + i * 512);
  return tiles;
}

}  // namespace
}  // namespace gpt_oss
