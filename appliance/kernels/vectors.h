// Vectors as wide as a path's registers. The compiler keeps wider ones in memory, which makes sums of products several
// times slower. Internal linkage on purpose: every path compiles its own copy.
#pragma once

#include <cstddef>
#include <cstring>

namespace gpt_oss {
namespace {

#if defined(__AVX512F__)
constexpr size_t kVectorLanes = 16;
#elif defined(__AVX2__)
constexpr size_t kVectorLanes = 8;
#else
constexpr size_t kVectorLanes = 4;  // of 128 bits, which every processor has
#endif
typedef float Vector __attribute__((vector_size(kVectorLanes * sizeof(float))));

inline Vector load_vector(const float* from) {
  Vector value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
inline void store_vector(float* to, Vector value) { std::memcpy(to, &value, sizeof value); }

}  // namespace
}  // namespace gpt_oss
