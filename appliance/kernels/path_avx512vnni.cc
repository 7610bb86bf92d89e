// AVX-512 VNNI: a 32-bit lane of a vector for each weight row, with two products of 16 bits per lane and instruction,
// or four of 8 bits for prompts.
#include "attention_core.h"
#include "elementwise.h"
#include "logits_core.h"
#include "vnni.h"
#include "vnni_bytes.h"

namespace gpt_oss {
namespace {

bool supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vnni");
}

}  // namespace

const Path& vnni_path() {
  static const Path path{"avx512vnni",  supported,    swiglu,       quantise,      attend,      summarise,
                         mxfp4_product, int8_product, bf16_product, &kMxfp4Prompt, &kInt8Prompt};
  return path;
}

}  // namespace gpt_oss
