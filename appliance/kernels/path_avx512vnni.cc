// AVX-512 VNNI: one 512-bit lane a row, four products a lane and instruction.
#include "attention_core.h"
#include "elementwise.h"
#include "logits_core.h"
#include "vnni.h"

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
                         quantise,
                         to_bf16,
                         attend,
                         summarise,
                         vnni_mxfp4_product,
                         vnni_int8_product,
                         vnni_bf16_product};
  return path;
}

}  // namespace gpt_oss
