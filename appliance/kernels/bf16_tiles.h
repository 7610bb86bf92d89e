// Packed weights as bfloat16 tiles for the matrix unit (AVX-512). A kind of weights has tile(group, blocks, b, ahead,
// room): block b of a group as a tile, whose row p has for each of the 16 rows of the group the pair k = 2p, 2p + 1.
// The tile is made in `room`, or lies in the group (kInPlace). What is `ahead` bytes further on is fetched. Internal
// linkage on purpose: every path compiles its own copy.
#pragma once

#include "passes.h"
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

struct Mxfp4Tiles {
  static constexpr GroupLayout kLayout = kMxfp4;
  static constexpr bool kInPlace = false;
  static const uint16_t* tile(const uint8_t* group, size_t blocks, size_t b, size_t ahead, uint16_t* room) {
    const __m512i table = _mm512_load_si512(kCodeBits), exponents = exponents_of(group + b * kMxfp4.scale_bytes);
    const uint8_t* line = group + kMxfp4.codes_at(blocks) + b * kMxfp4.code_bytes;
    for (int j = 0; j < 4; ++j, line += kLineBytes, room += 4 * kBlock) {
      prefetch_line(line, ahead);
      const __m512i codes = _mm512_loadu_si512(line);
      const __m512i pairs[4] = {codes, _mm512_srli_epi16(codes, 4), _mm512_srli_epi16(codes, 8),
                                _mm512_srli_epi16(codes, 12)};
      for (size_t p = 0; p < 4; ++p) _mm512_store_si512(room + p * kBlock, pair_row(pairs[p], table, exponents));
    }
    return room - 16 * kBlock;
  }

 private:
  // What a block's scales add to the bfloat16 bits of its numbers, in both halves of each word. The smallest scale,
  // 2^-127, is replaced by the next, because half of it has no exponent.
  static __m512i exponents_of(const uint8_t* scales) {
    const __m512i e8m0 = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(scales)));
    const __m512i least = _mm512_max_epi32(e8m0, _mm512_set1_epi32(1));
    const __m512i exponent = _mm512_slli_epi32(_mm512_sub_epi32(least, _mm512_set1_epi32(127)), 7);
    return _mm512_or_si512(_mm512_and_si512(exponent, _mm512_set1_epi32(0xffff)), _mm512_slli_epi32(exponent, 16));
  }
  // A row of a tile: the bf16 pairs whose codes are the low nibbles of `codes`' halves.
  static __m512i pair_row(__m512i codes, __m512i table, __m512i exponents) {
    // Only the low 5 bits of a word choose from the table, which repeats after 16 entries.
    const __mmask32 not_zero = _mm512_test_epi16_mask(codes, _mm512_set1_epi16(7));
    const __m512i bits = _mm512_permutexvar_epi16(codes, table);
    return _mm512_mask_add_epi16(bits, not_zero, bits, exponents);
  }
};

// 8-bit weights are rounded to bf16, which has 8 bits of mantissa.
struct Int8Tiles {
  static constexpr GroupLayout kLayout = kInt8;
  static constexpr bool kInPlace = false;
  static const uint16_t* tile(const uint8_t* group, size_t blocks, size_t b, size_t ahead, uint16_t* room) {
    const __m512 scales = int8_scales(group + b * kInt8.scale_bytes);
    const Half halves[2] = {Half(scales, 0), Half(scales, 1)};
    const uint8_t* line = group + kInt8.codes_at(blocks) + b * kInt8.code_bytes;
    for (int j = 0; j < 8; ++j, line += kLineBytes) {
      prefetch_line(line, ahead);
      const __m512i bytes = _mm512_loadu_si512(line);
      for (int pair = 0; pair < 2; ++pair, room += kBlock)
        _mm512_store_si512(room, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(halves[1].weights(bytes, pair),
                                                                               halves[0].weights(bytes, pair))));
    }
    return room - 16 * kBlock;
  }

 private:
  // Eight rows of a block. Word 2r + i is element i of a pair of row r.
  struct Half {
    __m512i first_bytes;  // where the first pair's bytes are in a line
    __m512 scales, offset;

    Half(__m512 of_rows, int half) {
      const __m512i word = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
      const __m512i row = _mm512_add_epi32(_mm512_srli_epi32(word, 1), _mm512_set1_epi32(8 * half));
      const __m512i byte = _mm512_add_epi32(_mm512_slli_epi32(row, 2), _mm512_and_si512(word, _mm512_set1_epi32(1)));
      first_bytes = _mm512_slli_epi32(byte, 8);
      scales = _mm512_permutexvar_ps(row, of_rows);
      offset = _mm512_mul_ps(scales, _mm512_set1_ps(-(kBase + kInt8Offset)));
    }
    // The second byte of a float between 2^15 and 2^16 counts whole numbers, so a byte of codes becomes a float by a
    // permutation. Every step is exact: bfloat16 scales leave room for nine more bits.
    __m512 weights(__m512i bytes, int pair) const {
      const __m512i places = _mm512_add_epi32(first_bytes, _mm512_set1_epi32(2 * pair << 8));
      const __m512i floats =
          _mm512_mask_permutexvar_epi8(_mm512_castps_si512(_mm512_set1_ps(kBase)), 0x2222222222222222, places, bytes);
      return _mm512_fmadd_ps(_mm512_castsi512_ps(floats), scales, offset);
    }
  };
  static constexpr float kBase = 32768.0f;
};

// bfloat16 weights are stored as tiles.
struct TilesInPlace {
  static constexpr GroupLayout kLayout = kBf16;
  static const uint16_t* tile(const uint8_t* group, size_t, size_t b, size_t, uint16_t*) {
    return reinterpret_cast<const uint16_t*>(group + b * kBf16.code_bytes);
  }
};
struct Bf16Tiles {
  static constexpr GroupLayout kLayout = kBf16;
  static constexpr bool kInPlace = true;
  static const uint16_t* tile(const uint8_t* group, size_t blocks, size_t b, size_t ahead, uint16_t* room) {
    const uint16_t* found = TilesInPlace::tile(group, blocks, b, ahead, room);
    for (size_t at = 0; at < kBf16.code_bytes; at += kLineBytes)
      prefetch_line(reinterpret_cast<const uint8_t*>(found) + at, ahead);
    return found;
  }
};

}  // namespace
}  // namespace gpt_oss
