// AVX-512 with bfloat16 products: one 512-bit lane a row, two products a lane and instruction. MXFP4 to bf16 is exact.
// Few tokens take the VNNI product, as on AMX.
#include "attention_core.h"
#include "bf16_tiles.h"
#include "elementwise.h"
#include "logits_core.h"
#include "vnni.h"

#include <cpuid.h>

namespace gpt_oss {
namespace {

bool supported() {
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512vnni"))
    return false;
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 5));  // AVX512_BF16
}

inline __m512bh pair_of(const uint16_t* x) {
  int32_t bits;
  std::memcpy(&bits, x, sizeof bits);
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(bits));
}

// How weights become pairs of bfloat16 numbers: 16 vectors a block, one for each k = 2p, 2p + 1, exact but for a scale that
// the sum of a block is multiplied with. `pairs` makes kPairs of them from one line of codes.
struct Mxfp4Weights {
  static constexpr GroupLayout kLayout = kMxfp4;
  static constexpr int kPairs = 4;
  static void pairs(const uint8_t* line, __m512i* out) {
    const __m512i table = _mm512_load_si512(kCodeBits), word = _mm512_loadu_si512(line);
    out[0] = _mm512_permutexvar_epi16(word, table);
    out[1] = _mm512_permutexvar_epi16(_mm512_srli_epi16(word, 4), table);
    out[2] = _mm512_permutexvar_epi16(_mm512_srli_epi16(word, 8), table);
    out[3] = _mm512_permutexvar_epi16(_mm512_srli_epi16(word, 12), table);
  }
  static __m512 scale(const uint8_t* scales) { return mxfp4_scales(scales); }
};

struct Int8Weights {
  static constexpr GroupLayout kLayout = kInt8;
  static constexpr int kPairs = 2;
  // Whole numbers below 128 have 7 bits: the upper half of the float is the number in bfloat16.
  static void pairs(const uint8_t* line, __m512i* out) {
    const __m512i byte = _mm512_set1_epi32(255), offset = _mm512_set1_epi32(kInt8Offset);
    const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u)), word = _mm512_loadu_si512(line);
    const auto number = [&](__m512i shifted) {
      return _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_and_si512(shifted, byte), offset)));
    };
    const auto pair = [&](__m512i even, __m512i odd) {
      return _mm512_or_si512(_mm512_srli_epi32(number(even), 16), _mm512_and_si512(number(odd), upper));
    };
    out[0] = pair(word, _mm512_srli_epi32(word, 8));
    out[1] = pair(_mm512_srli_epi32(word, 16), _mm512_srli_epi32(word, 24));
  }
  static __m512 scale(const uint8_t* scales) { return int8_scales(scales); }
};

struct Bf16Weights {
  static constexpr GroupLayout kLayout = kBf16;
  static constexpr int kPairs = 1;
  static void pairs(const uint8_t* line, __m512i* out) { *out = _mm512_loadu_si512(line); }
  static __m512 scale(const uint8_t*) { return _mm512_set1_ps(1.0f); }
};

// Neighbouring blocks of two groups, unpacked as they are multiplied.
template <typename Weights>
struct PackedBlocks {
  static constexpr int kPairs = Weights::kPairs, kLines = 16 / kPairs;
  const uint8_t *scales[2], *codes[2];

  PackedBlocks(const uint8_t* first, const uint8_t* second, size_t blocks, size_t at) {
    const uint8_t* groups[2] = {first, second};
    for (int g = 0; g < 2; ++g) {
      scales[g] = groups[g] + at * Weights::kLayout.scale_bytes;
      codes[g] = groups[g] + Weights::kLayout.codes_at(blocks) + at * Weights::kLayout.code_bytes;
    }
  }
  void pairs(int group, size_t block, int line, __m512i* out) const {
    const uint8_t* at = codes[group] + (block * kLines + static_cast<size_t>(line)) * kLineBytes;
    prefetch_lines<1, 4096>(at);
    Weights::pairs(at, out);
  }
  __m512 scale(int group, size_t block) const {
    return Weights::scale(scales[group] + block * Weights::kLayout.scale_bytes);
  }
};

constexpr size_t kSlice = 8;  // blocks unpacked at a time: both groups' stay in the first-level cache while all rows pass

// A slice of them, unpacked before.
template <typename Weights>
struct UnpackedBlocks {
  static constexpr int kPairs = 1, kLines = 16;
  const PackedBlocks<Weights>& packed;
  const __m512i (*tiles)[kSlice][16];

  UnpackedBlocks(const PackedBlocks<Weights>& from, size_t blocks, __m512i (*to)[kSlice][16]) : packed(from), tiles(to) {
    for (int g = 0; g < 2; ++g)
      for (size_t b = 0; b < blocks; ++b)
        for (int line = 0; line < from.kLines; ++line) from.pairs(g, b, line, to[g][b] + line * from.kPairs);
  }
  void pairs(int group, size_t block, int line, __m512i* out) const { *out = tiles[group][block][line]; }
  __m512 scale(int group, size_t block) const { return packed.scale(group, block); }
};

// The sums of a block from nothing, then once times the scale: however many rows share a call, each gets the same bits; and
// the sums of several blocks are on their way at a time, which few rows need.
template <int kRows, typename Blocks>
inline void add_blocks(const Blocks& from, size_t blocks, const uint16_t* rows, size_t inner, float* totals, size_t stride) {
  for (size_t block = 0; block < blocks; ++block, rows += kBlock) {
    __m512 low[kRows], high[kRows];
    for (int i = 0; i < kRows; ++i) low[i] = high[i] = _mm512_setzero_ps();
    for (int line = 0; line < from.kLines; ++line) {
      __m512i first[from.kPairs], second[from.kPairs];
      from.pairs(0, block, line, first);
      from.pairs(1, block, line, second);
      for (int p = 0; p < from.kPairs; ++p) {
        const __m512bh a = reinterpret_cast<__m512bh>(first[p]), b = reinterpret_cast<__m512bh>(second[p]);
        for (int i = 0; i < kRows; ++i) {
          const __m512bh x = pair_of(rows + static_cast<size_t>(i) * inner + 2 * (line * from.kPairs + p));
          low[i] = _mm512_dpbf16_ps(low[i], a, x);
          high[i] = _mm512_dpbf16_ps(high[i], b, x);
        }
      }
    }
    const __m512 first_scale = from.scale(0, block), second_scale = from.scale(1, block);
    for (int i = 0; i < kRows; ++i) {
      float* to = totals + static_cast<size_t>(i) * stride;
      _mm512_storeu_ps(to, _mm512_fmadd_ps(low[i], first_scale, _mm512_loadu_ps(to)));
      _mm512_storeu_ps(to + kGroupRows, _mm512_fmadd_ps(high[i], second_scale, _mm512_loadu_ps(to + kGroupRows)));
    }
  }
}

constexpr size_t kPassRows = 8;   // that pass the weights together,
constexpr size_t kLastRows = 12;  // or up to so many of the last: 24 sums, two weights and an activation are in registers

// add_blocks for a number of rows known only now, 1 .. kMost.
template <size_t kMost, typename... Arguments>
inline void add_blocks_of(size_t count, const Arguments&... arguments) {
  if constexpr (kMost > 1)
    if (count < kMost) return add_blocks_of<kMost - 1>(count, arguments...);
  add_blocks<kMost>(arguments...);
}

template <typename Weights>
void matrix_product(const uint8_t* first, const uint8_t* second, size_t blocks, const uint16_t* rows, size_t count,
                    float* out, size_t stride) {
  const size_t inner = blocks * kBlock;
  for (size_t t = 0; t < count; ++t) std::memset(out + t * stride, 0, 2 * kGroupRows * sizeof(float));
  if (count <= kLastRows)  // one pass: nothing to unpack for another
    return add_blocks_of<kLastRows>(count, PackedBlocks<Weights>(first, second, blocks, 0), blocks, rows, inner, out, stride);
  thread_local __m512i tiles[2][kSlice][16];
  for (size_t at = 0; at < blocks; at += kSlice, rows += kSlice * kBlock) {
    const size_t n = std::min(kSlice, blocks - at);
    const PackedBlocks<Weights> packed(first, second, blocks, at);
    const UnpackedBlocks<Weights> unpacked(packed, n, tiles);
    size_t t = 0;
    for (; t + kLastRows < count; t += kPassRows)
      add_blocks<kPassRows>(unpacked, n, rows + t * inner, inner, out + t * stride, stride);
    if (t < count)
      add_blocks_of<kLastRows>(count - t, unpacked, n, rows + t * inner, inner, out + t * stride, stride);
  }
}

}  // namespace

const Path& avx512bf16_path() {
  static const Path path{"avx512bf16",
                         supported,
                         swiglu,
                         quantise,
                         to_bf16,
                         attend,
                         summarise,
                         vnni_mxfp4_product,
                         vnni_int8_product,
                         vnni_bf16_product,
                         matrix_product<Mxfp4Weights>,
                         matrix_product<Int8Weights>,
                         matrix_product<Bf16Weights>};
  return path;
}

}  // namespace gpt_oss
