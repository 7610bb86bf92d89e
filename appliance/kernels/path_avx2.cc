// AVX2: what most processors of the last ten years have.
#include "attention_core.h"
#include "avx2.h"
#include "elementwise.h"
#include "logits_core.h"

namespace gpt_oss {
namespace {

bool supported() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

}  // namespace

const Path& avx2_path() {
  static const Path path{"avx2",
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
