// Element-wise steps, written so that the compiler vectorises them for each path. Internal linkage on purpose: every
// path compiles its own copy.
#pragma once

#include "bfloat16.h"
#include "paths.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace gpt_oss {
namespace {

// exp(x) for |x| < 80, relative error below 2e-7: 2^n * polynomial on [-ln2/2, ln2/2].
inline float exponential(float x) {
  x = std::min(80.0f, std::max(-80.0f, x));
  const float n = std::floor(x * 1.44269504f + 0.5f);
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

inline void swiglu(const SwiGlu& form, const float* sums, const float* biases, size_t count, float* out,
                   size_t stride) {
  const float alpha = form.alpha, limit = form.limit;
  for (; count; --count, sums += 2 * kGroupRows, out += stride) {
    float results[kGroupRows];  // separate from everything that is read, so that the loop vectorises
    for (size_t i = 0; i < kGroupRows; ++i) {
      const float gate = std::min(sums[i] + biases[i], limit);
      const float up = std::min(std::max(sums[kGroupRows + i] + biases[kGroupRows + i], -limit), limit);
      results[i] = gate / (1.0f + exponential(-alpha * gate)) * (up + 1.0f);
    }
    std::memcpy(out, results, sizeof results);
  }
}

// Turns numbers up to `largest` into whole numbers up to `most`: multiply by the factor, and later by the scale.
struct WholeScale {
  float factor, scale;
};
inline WholeScale whole_scale(float largest, float most) {
  constexpr float kNothing = 1e-15f;  // counts as zero: dividing totals by such a scale could overflow
  return largest > kNothing ? WholeScale{most / largest, largest / most} : WholeScale{0.0f, 1.0f};
}

// A row as it is.
inline void copy_floats(const float* x, size_t blocks, uint8_t* out) {
  std::memcpy(out, x, blocks * kBlock * sizeof(float));
}
constexpr size_t kFloatBlock = kBlock * sizeof(float);

// Converts a row to bfloat16, rounded to nearest even.
inline void convert_to_bf16(const float* x, size_t blocks, uint8_t* out) {
  Bfloat16* to = reinterpret_cast<Bfloat16*>(out);
  for (size_t i = 0; i < blocks * kBlock; ++i) to[i] = to_bfloat16(x[i]);
}

}  // namespace
}  // namespace gpt_oss
