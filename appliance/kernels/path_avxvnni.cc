// AVX2 with AVX-VNNI, which processors for desktops and laptops have: products and their sum in one instruction.
#include "attention_core.h"
#include "avx2.h"
#include "elementwise.h"
#include "logits_core.h"

#include <cpuid.h>

namespace gpt_oss {
namespace {

bool supported() {
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return false;
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 4));  // AVX_VNNI
}

}  // namespace

const Path& avxvnni_path() {
  static const Path path{"avxvnni",
                         supported,
                         swiglu,
                         quantise,
                         to_bf16,
                         attend,
                         summarise,
                         product<Mxfp4Weights>,
                         product<Int8Weights>,
                         bf16_product};
  return path;
}

}  // namespace gpt_oss
