// AVX2, which most processors of the last ten years have.
#include "avx2_pairs.h"
#include "avx2_path.h"

namespace gpt_oss {

const Path& avx2_path() {
  static constexpr Path path =
      path_of("avx2", has_avx2, {&kPairs<Mxfp4Pairs>, &kBytes<Mxfp4Bytes>}, {&kPairs<Int8Pairs>});
  return path;
}

}  // namespace gpt_oss
