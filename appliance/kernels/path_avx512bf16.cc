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

// Up to 8 rows at a time: 16 sums, two weights and one activation stay in registers.
template <int kRows>
inline void few_rows(const uint16_t* first, const uint16_t* second, size_t inner, const uint16_t* rows, float* out,
                     size_t stride) {
  __m512 low[kRows], high[kRows];
  for (int i = 0; i < kRows; ++i) low[i] = high[i] = _mm512_setzero_ps();
  for (size_t p = 0; p < inner / 2; ++p) {
    const __m512bh a = reinterpret_cast<__m512bh>(_mm512_loadu_si512(first + p * 32));
    const __m512bh b = reinterpret_cast<__m512bh>(_mm512_loadu_si512(second + p * 32));
    for (int i = 0; i < kRows; ++i) {
      const __m512bh x = pair_of(rows + static_cast<size_t>(i) * inner + 2 * p);
      low[i] = _mm512_dpbf16_ps(low[i], a, x);
      high[i] = _mm512_dpbf16_ps(high[i], b, x);
    }
  }
  for (int i = 0; i < kRows; ++i) {
    _mm512_storeu_ps(out + static_cast<size_t>(i) * stride, low[i]);
    _mm512_storeu_ps(out + static_cast<size_t>(i) * stride + kGroupRows, high[i]);
  }
}

void tile_product(const uint16_t* first, const uint16_t* second, size_t blocks, const uint16_t* rows, size_t count,
                  float* out, size_t stride) {
  const size_t inner = blocks * kBlock;
  for (; count >= 8; count -= 8, rows += 8 * inner, out += 8 * stride)
    few_rows<8>(first, second, inner, rows, out, stride);
  switch (count) {
    case 1: return few_rows<1>(first, second, inner, rows, out, stride);
    case 2: return few_rows<2>(first, second, inner, rows, out, stride);
    case 3: return few_rows<3>(first, second, inner, rows, out, stride);
    case 4: return few_rows<4>(first, second, inner, rows, out, stride);
    case 5: return few_rows<5>(first, second, inner, rows, out, stride);
    case 6: return few_rows<6>(first, second, inner, rows, out, stride);
    case 7: return few_rows<7>(first, second, inner, rows, out, stride);
    default: return;
  }
}

// The same sums in the same order, without unpacked weights in between: quicker while an expert has few rows.
template <int kRows>
inline void few_packed_rows(const uint8_t* group, size_t blocks, const uint16_t* rows, float* out, size_t stride) {
  const __m512i table = _mm512_load_si512(kCodeBits);
  const size_t inner = blocks * kBlock;
  __m512 sums[kRows];
  for (int i = 0; i < kRows; ++i) sums[i] = _mm512_setzero_ps();
  const uint8_t* block = group + kMxfp4.codes_at(blocks);
  for (size_t b = 0; b < blocks; ++b, group += kMxfp4.scale_bytes, block += kMxfp4.code_bytes, rows += kBlock) {
    prefetch_lines<4>(block);
    const __m512i exponents = exponents_of(group);
    for (int j = 0; j < 4; ++j) {
      const __m512i codes = _mm512_loadu_si512(block + j * 64);
      const __m512i pairs[4] = {codes, _mm512_srli_epi16(codes, 4), _mm512_srli_epi16(codes, 8),
                                _mm512_srli_epi16(codes, 12)};
      for (int p = 0; p < 4; ++p) {
        const __m512bh weights = reinterpret_cast<__m512bh>(pair_row(pairs[p], table, exponents));
        for (int i = 0; i < kRows; ++i)
          sums[i] = _mm512_dpbf16_ps(sums[i], weights, pair_of(rows + static_cast<size_t>(i) * inner + 8 * j + 2 * p));
      }
    }
  }
  for (int i = 0; i < kRows; ++i) _mm512_storeu_ps(out + static_cast<size_t>(i) * stride, sums[i]);
}

template <int kRows>
inline void few_packed_rows(const uint8_t* first, const uint8_t* second, size_t blocks, const uint16_t* rows,
                            float* out, size_t stride) {
  few_packed_rows<kRows>(first, blocks, rows, out, stride);
  few_packed_rows<kRows>(second, blocks, rows, out + kGroupRows, stride);
}

void packed_product(const uint8_t* first, const uint8_t* second, size_t blocks, const uint16_t* rows, size_t count,
                    float* out, size_t stride) {
  switch (count) {
    case 1: return few_packed_rows<1>(first, second, blocks, rows, out, stride);
    case 2: return few_packed_rows<2>(first, second, blocks, rows, out, stride);
    case 3: return few_packed_rows<3>(first, second, blocks, rows, out, stride);
    case 4: return few_packed_rows<4>(first, second, blocks, rows, out, stride);
    case 5: return few_packed_rows<5>(first, second, blocks, rows, out, stride);
    case 6: return few_packed_rows<6>(first, second, blocks, rows, out, stride);
    case 7: return few_packed_rows<7>(first, second, blocks, rows, out, stride);
    case 8: return few_packed_rows<8>(first, second, blocks, rows, out, stride);
    case 9: return few_packed_rows<9>(first, second, blocks, rows, out, stride);
    case 10: return few_packed_rows<10>(first, second, blocks, rows, out, stride);
    case 11: return few_packed_rows<11>(first, second, blocks, rows, out, stride);
    case 12: return few_packed_rows<12>(first, second, blocks, rows, out, stride);
    case 13: return few_packed_rows<13>(first, second, blocks, rows, out, stride);
    case 14: return few_packed_rows<14>(first, second, blocks, rows, out, stride);
    case 15: return few_packed_rows<15>(first, second, blocks, rows, out, stride);
    case 16: return few_packed_rows<16>(first, second, blocks, rows, out, stride);
    default: return;
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
                         unpack_mxfp4,
                         unpack_int8,
                         tile_product,
                         1,
                         packed_product};
  return path;
}

}  // namespace gpt_oss
