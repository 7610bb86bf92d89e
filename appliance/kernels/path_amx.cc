// AMX: bf16 tiles for the tokens of prompts (MXFP4 to bf16 is exact), and products of bytes for decoded tokens.
#include "attention_core.h"
#include "bf16_products.h"
#include "byte_forms.h"
#include "elementwise.h"
#include "logits_core.h"
#include "tile_product.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace gpt_oss {
namespace {

constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
constexpr int kTileData = 18;               // XFEATURE_XTILEDATA

bool supported() {
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vnni") || !__builtin_cpu_supports("avx512vbmi"))
    return false;
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & (1u << 5))) return false;  // AVX512_BF16
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const bool has_tile = d & (1u << 24), has_bf16 = d & (1u << 22);
  return has_tile && has_bf16 && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

constexpr Form prompt_form(decltype(Form::product) product) {
  return {16, kBlock * sizeof(uint16_t), convert_to_bf16, product, nullptr, kTileRows};
}
constexpr Form kMxfp4Prompt = prompt_form(tile_product<Mxfp4Tiles>), kInt8Prompt = prompt_form(tile_product<Int8Tiles>),
               kBf16Prompt = prompt_form(tile_product<Bf16Tiles>);

}  // namespace

const Path& amx_path() {
  static const Path path{"amx",
                         supported,
                         swiglu,
                         attend<float>,
                         attend<Bfloat16>,
                         summarise,
                         {&kExact<Mxfp4Bytes>, &kMxfp4Prompt},
                         {&kExact<Int8Bytes>, &kInt8Prompt},
                         {&kBf16Exact, &kBf16Prompt}};
  return path;
}

}  // namespace gpt_oss
