// Vectors as wide as a path's registers. The compiler keeps wider ones in memory, which makes sums of products several
// times slower. Internal linkage on purpose: every path compiles its own copy.
#pragma once

#include "bfloat16.h"

#include <cstddef>
#include <cstdint>
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

// The lower or the upper numbers of kVectorLanes words, which hold two each.
inline Vector load_halves(const Bfloat16* from, bool upper) {
  typedef uint32_t Words __attribute__((vector_size(sizeof(Vector))));
  Words words;
  std::memcpy(&words, from, sizeof words);
  words = upper ? words & 0xffff0000u : words << 16;
  Vector value;
  std::memcpy(&value, &words, sizeof value);
  return value;
}

}  // namespace
}  // namespace gpt_oss
