// Vectors of 16 floats that the compiler turns into each path's own instructions. Internal linkage on purpose: every
// path compiles its own copy.
#pragma once

#include <cstddef>
#include <cstring>

namespace gpt_oss {
namespace {

constexpr size_t kLanes = 16;
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));

inline Lanes load_lanes(const float* from) {
  Lanes value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
inline void store_lanes(float* to, Lanes value) { std::memcpy(to, &value, sizeof value); }

}  // namespace
}  // namespace gpt_oss
