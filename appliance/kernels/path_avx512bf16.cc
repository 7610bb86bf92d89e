// AVX-512 with bfloat16 products, which prompts use if the weights are bfloat16; everything else is as in AVX-512 VNNI.
#include "attention_core.h"
#include "elementwise.h"
#include "logits_core.h"
#include "vnni.h"
#include "vnni_bytes.h"

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

// Unrounded bfloat16 weights with activations rounded to bfloat16.
struct Bf16Weights {
  static constexpr GroupLayout kLayout = kBf16;
  static constexpr int kPairs = 1;
  static constexpr bool kScaledActivations = false;
  static void pairs(const uint8_t* line, __m512i* out) { *out = _mm512_loadu_si512(line); }
  using Sum = __m512;
  static Sum zero() { return _mm512_setzero_ps(); }
  static Sum multiply(Sum sum, __m512i weights, __m512i activations) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(weights), reinterpret_cast<__m512bh>(activations));
  }
  static __m512 scale(const uint8_t*) { return _mm512_setzero_ps(); }  // they have none
  static __m512 add(Sum sum, __m512, __m512 total) { return _mm512_add_ps(sum, total); }
};

void prompt_product(const uint8_t* first, const uint8_t* second, size_t blocks, const uint8_t* rows, size_t count,
                    float* out) {
  matrix_product<Bf16Weights>(first, second, blocks, reinterpret_cast<const uint16_t*>(rows), nullptr, count, out);
}

constexpr PromptForm kBf16Prompt{16, kBlock * sizeof(uint16_t), convert_to_bf16, prompt_product};

}  // namespace

const Path& avx512bf16_path() {
  static const Path path{"avx512bf16",  supported,    swiglu,       quantise,      attend,       summarise,
                         mxfp4_product, int8_product, bf16_product, &kMxfp4Prompt, &kInt8Prompt, &kBf16Prompt};
  return path;
}

}  // namespace gpt_oss
