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
// the sum of a block is multiplied with.
struct Mxfp4Weights {
  static constexpr GroupLayout kLayout = kMxfp4;
  static constexpr int kLines = 4;  // of a block's codes
  static void pairs(const uint8_t* codes, __m512i* out) {
    const __m512i table = _mm512_load_si512(kCodeBits);
    for (int j = 0; j < 4; ++j) {
      const __m512i word = _mm512_loadu_si512(codes + j * 64);
      out[4 * j] = _mm512_permutexvar_epi16(word, table);
      out[4 * j + 1] = _mm512_permutexvar_epi16(_mm512_srli_epi16(word, 4), table);
      out[4 * j + 2] = _mm512_permutexvar_epi16(_mm512_srli_epi16(word, 8), table);
      out[4 * j + 3] = _mm512_permutexvar_epi16(_mm512_srli_epi16(word, 12), table);
    }
  }
  static __m512 scale(const uint8_t* scales) { return mxfp4_scales(scales); }
};

struct Int8Weights {
  static constexpr GroupLayout kLayout = kInt8;
  static constexpr int kLines = 8;
  // Whole numbers below 128 have 7 bits: the upper half of the float is the number in bfloat16.
  static void pairs(const uint8_t* codes, __m512i* out) {
    const __m512i byte = _mm512_set1_epi32(255), offset = _mm512_set1_epi32(kInt8Offset);
    const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    for (int j = 0; j < 8; ++j) {
      const __m512i word = _mm512_loadu_si512(codes + j * 64);
      const auto number = [&](__m512i shifted) {
        return _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_and_si512(shifted, byte), offset)));
      };
      const auto pair = [&](__m512i even, __m512i odd) {
        return _mm512_or_si512(_mm512_srli_epi32(number(even), 16), _mm512_and_si512(number(odd), upper));
      };
      out[2 * j] = pair(word, _mm512_srli_epi32(word, 8));
      out[2 * j + 1] = pair(_mm512_srli_epi32(word, 16), _mm512_srli_epi32(word, 24));
    }
  }
  static __m512 scale(const uint8_t* scales) { return int8_scales(scales); }
};

struct Bf16Weights {
  static constexpr GroupLayout kLayout = kBf16;
  static constexpr int kLines = 16;
  static void pairs(const uint8_t* weights, __m512i* out) {
    for (int p = 0; p < 16; ++p) out[p] = _mm512_loadu_si512(weights + p * 64);
  }
  static __m512 scale(const uint8_t*) { return _mm512_set1_ps(1.0f); }
};

// The sums of a block from nothing, then once times the scale: however many rows share a call, each gets the same bits; and
// the sums of several blocks are on their way at a time, which few rows need.
template <int kRows>
inline void add_block(const __m512i* first, const __m512i* second, __m512 first_scale, __m512 second_scale,
                      const uint16_t* rows, size_t inner, float* totals, size_t stride) {
  __m512 low[kRows], high[kRows];
  for (int i = 0; i < kRows; ++i) low[i] = high[i] = _mm512_setzero_ps();
  for (int p = 0; p < 16; ++p) {
    const __m512bh a = reinterpret_cast<__m512bh>(first[p]), b = reinterpret_cast<__m512bh>(second[p]);
    for (int i = 0; i < kRows; ++i) {
      const __m512bh x = pair_of(rows + static_cast<size_t>(i) * inner + 2 * p);
      low[i] = _mm512_dpbf16_ps(low[i], a, x);
      high[i] = _mm512_dpbf16_ps(high[i], b, x);
    }
  }
  for (int i = 0; i < kRows; ++i) {
    float* to = totals + static_cast<size_t>(i) * stride;
    _mm512_storeu_ps(to, _mm512_fmadd_ps(low[i], first_scale, _mm512_loadu_ps(to)));
    _mm512_storeu_ps(to + kGroupRows, _mm512_fmadd_ps(high[i], second_scale, _mm512_loadu_ps(to + kGroupRows)));
  }
}

constexpr size_t kSlice = 8;  // blocks unpacked at a time: both groups' stay in the first-level cache while all rows pass

template <typename Weights, int kRows>
inline void add_slice(const __m512i (*tiles)[kSlice][16], const uint8_t* const* scales, size_t blocks, const uint16_t* rows,
                      size_t inner, float* totals, size_t stride) {
  for (size_t b = 0; b < blocks; ++b)
    add_block<kRows>(tiles[0][b], tiles[1][b], Weights::scale(scales[0] + b * Weights::kLayout.scale_bytes),
                     Weights::scale(scales[1] + b * Weights::kLayout.scale_bytes), rows + b * kBlock, inner, totals, stride);
}

constexpr size_t kPassRows = 8;   // that pass the weights together,
constexpr size_t kLastRows = 12;  // or up to so many of the last: 24 sums, two weights and an activation are in registers

// add_slice for a number of rows known only now, 1 .. kMost.
template <typename Weights, int kMost, typename... Arguments>
inline void add_slice_of(size_t count, const Arguments&... arguments) {
  if constexpr (kMost > 1)
    if (count < kMost) return add_slice_of<Weights, kMost - 1>(count, arguments...);
  add_slice<Weights, kMost>(arguments...);
}

template <typename Weights>
void matrix_product(const uint8_t* first, const uint8_t* second, size_t blocks, const uint16_t* rows, size_t count,
                    float* out, size_t stride) {
  constexpr GroupLayout kLayout = Weights::kLayout;
  const size_t inner = blocks * kBlock;
  thread_local __m512i tiles[2][kSlice][16];
  for (size_t t = 0; t < count; ++t) std::memset(out + t * stride, 0, 2 * kGroupRows * sizeof(float));
  for (size_t at = 0; at < blocks; at += kSlice, rows += kSlice * kBlock) {
    const size_t n = std::min(kSlice, blocks - at);
    const uint8_t* groups[2] = {first, second};
    const uint8_t* scales[2] = {first + at * kLayout.scale_bytes, second + at * kLayout.scale_bytes};
    for (int g = 0; g < 2; ++g)
      for (size_t b = 0; b < n; ++b) {
        const uint8_t* codes = groups[g] + kLayout.codes_at(blocks) + (at + b) * kLayout.code_bytes;
        prefetch_lines<Weights::kLines, 4096>(codes);
        Weights::pairs(codes, tiles[g][b]);
      }
    size_t t = 0;
    for (; t + kLastRows < count; t += kPassRows)
      add_slice<Weights, kPassRows>(tiles, scales, n, rows + t * inner, inner, out + t * stride, stride);
    if (t < count)
      add_slice_of<Weights, kLastRows>(count - t, tiles, scales, n, rows + t * inner, inner, out + t * stride, stride);
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
