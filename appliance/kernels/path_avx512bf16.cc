// AVX-512 with bfloat16 products, which prompts use if the weights are bfloat16; everything else is as in AVX-512 VNNI.
#include "attention_core.h"
#include "bf16_products.h"
#include "byte_forms.h"
#include "elementwise.h"
#include "logits_core.h"

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

// The most tokens that pass a group's weights together: their sums and totals are in registers.
constexpr int kPassRows = 12;

// out[32 * t + r]: one group of unrounded bfloat16 weights with kRows tokens rounded to bfloat16, rows (kRows, inner).
// Every block is summed from zero. Not inlined, because it needs every register.
template <int kRows>
[[gnu::noinline]] void group_product(const uint8_t* line, size_t blocks, const uint16_t* rows, float* out) {
  const size_t inner = blocks * kBlock;
  __m512 total[kRows];
  for (int i = 0; i < kRows; ++i) total[i] = _mm512_setzero_ps();
  for (size_t block = 0; block < blocks; ++block, rows += kBlock) {
    __m512 sum[kRows];
    for (int i = 0; i < kRows; ++i) sum[i] = _mm512_setzero_ps();
    for (size_t k = 0; k < kBlock; k += 2, line += kLineBytes) {
      prefetch_line(line);
      const __m512bh weights = reinterpret_cast<__m512bh>(_mm512_loadu_si512(line));
      for (int i = 0; i < kRows; ++i) {
        const __m512i pair = _mm512_set1_epi32(lane_of(rows + static_cast<size_t>(i) * inner + k));
        sum[i] = _mm512_dpbf16_ps(sum[i], weights, reinterpret_cast<__m512bh>(pair));
      }
    }
    for (int i = 0; i < kRows; ++i) total[i] = _mm512_add_ps(sum[i], total[i]);
  }
  for (int i = 0; i < kRows; ++i) _mm512_storeu_ps(out + 32 * i, total[i]);
}

void bf16_prompt_product(const uint8_t* first, const uint8_t* second, size_t blocks, const uint8_t* rows, size_t count,
                         float* out) {
  const auto* from = reinterpret_cast<const uint16_t*>(rows);
  for (const uint8_t* group : {first, second}) {
    in_passes<kPassRows>(
        count, [&](auto n, size_t t) { group_product<n>(group, blocks, from + t * blocks * kBlock, out + 32 * t); });
    out += kGroupRows;
  }
}

constexpr Form kBf16Prompt{16, kBlock * sizeof(uint16_t), convert_to_bf16, bf16_prompt_product};

}  // namespace

const Path& avx512bf16_path() {
  static const Path path{"avx512bf16",
                         supported,
                         swiglu,
                         attend<float>,
                         attend<Bfloat16>,
                         summarise,
                         {&kExact<Mxfp4Bytes>, &kBytes<Mxfp4Bytes>},
                         {&kExact<Int8Bytes>, &kBytes<Int8Bytes>},
                         {&kBf16Exact, &kBf16Prompt}};
  return path;
}

}  // namespace gpt_oss
