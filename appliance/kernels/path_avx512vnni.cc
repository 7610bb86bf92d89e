// AVX-512 VNNI: a 32-bit lane of a vector for each weight row, with four products of bytes per lane and instruction.
#include "attention_core.h"
#include "bf16_products.h"
#include "byte_forms.h"
#include "elementwise.h"
#include "logits_core.h"

namespace gpt_oss {
namespace {

bool supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vnni");
}

}  // namespace

const Path& vnni_path() {
  static const Path path{"avx512vnni",
                         supported,
                         swiglu,
                         attend<float>,
                         attend<Bfloat16>,
                         summarise,
                         {&kExact<Mxfp4Bytes>, &kBytes<Mxfp4Bytes>},
                         {&kExact<Int8Bytes>, &kBytes<Int8Bytes>},
                         {&kBf16Exact}};
  return path;
}

}  // namespace gpt_oss
