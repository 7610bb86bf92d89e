// AVX2 with AVX-VNNI, which desktop and laptop processors have: one instruction multiplies and adds.
#include "avx2_path.h"

#include <cpuid.h>

namespace gpt_oss {
namespace {

bool supported() {
  unsigned a, b, c, d;
  return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 4));  // AVX_VNNI
}

}  // namespace

const Path& avxvnni_path() {
  static constexpr Path path = path_of("avxvnni", supported, {&kExact<Mxfp4Bytes>, &kBytes<Mxfp4Bytes>},
                                       {&kExact<Int8Bytes>, &kBytes<Int8Bytes>});
  return path;
}

}  // namespace gpt_oss
