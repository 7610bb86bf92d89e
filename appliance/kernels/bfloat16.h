// bfloat16, the upper half of a float, and how a float is rounded to it. Internal linkage on purpose: every path
// compiles its own copy.
#pragma once

#include <cstdint>
#include <cstring>

namespace gpt_oss {

struct Bfloat16 {
  uint16_t bits;
};

namespace {

// Rounds to nearest, ties to even. Beyond the largest bfloat16 it gives infinity. NaN stays NaN.
inline Bfloat16 to_bfloat16(float x) {
  constexpr uint32_t kQuietNan = 0x7fc00000;
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t nearest = bits + 0x7fff + ((bits >> 16) & 1);
  return {static_cast<uint16_t>((x != x ? kQuietNan : nearest) >> 16)};
}

}  // namespace
}  // namespace gpt_oss
