// The reference path: plain C++ for any machine, in float32, which does not round activations.
#include "attention_core.h"
#include "elementwise.h"
#include "logits_core.h"
#include "paths.h"

#include <cmath>
#include <cstring>

namespace gpt_oss {
namespace {

constexpr float kCode[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                             -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

void mxfp4_group_product(const uint8_t* group, size_t blocks, const float* x, float* out) {
  for (size_t r = 0; r < kGroupRows; ++r) out[r] = 0.0f;
  const uint8_t* codes = group + kMxfp4.codes_at(blocks);
  for (size_t b = 0; b < blocks; ++b, group += kMxfp4.scale_bytes, codes += kMxfp4.code_bytes, x += kBlock) {
    for (size_t r = 0; r < kGroupRows; ++r) {
      float sum = 0.0f;
      for (size_t j = 0; j < 4; ++j) {
        const uint8_t* word = codes + j * 64 + r * 4;  // codes of k = 0, 2, 4, 6, 1, 3, 5, 7
        for (size_t i = 0; i < 4; ++i) {
          const size_t k = 8 * j + (i < 2 ? 4 * i : 4 * i - 7);
          sum += kCode[word[i] & 15] * x[k] + kCode[word[i] >> 4] * x[k + 2];
        }
      }
      out[r] += sum * std::ldexp(1.0f, group[r] - 127);
    }
  }
}

template <typename GroupProduct>
void both_groups(const GroupProduct& product, const uint8_t* first, const uint8_t* second, size_t blocks,
                 const ExactRows& rows, float* out) {
  for (size_t t = 0; t < rows.count; ++t) {
    product(first, blocks, rows.x + t * blocks * kBlock, out + t * 32);
    product(second, blocks, rows.x + t * blocks * kBlock, out + t * 32 + 16);
  }
}

void mxfp4_product(const uint8_t* first, const uint8_t* second, size_t blocks, const ExactRows& rows, float* out) {
  both_groups(mxfp4_group_product, first, second, blocks, rows, out);
}

float bf16_to_float(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

void int8_group_product(const uint8_t* group, size_t blocks, const float* x, float* out) {
  for (size_t r = 0; r < kGroupRows; ++r) out[r] = 0.0f;
  const uint8_t* codes = group + kInt8.codes_at(blocks);
  for (size_t b = 0; b < blocks; ++b, group += kInt8.scale_bytes, codes += kInt8.code_bytes, x += kBlock) {
    const uint16_t* scales = reinterpret_cast<const uint16_t*>(group);
    for (size_t r = 0; r < kGroupRows; ++r) {
      float sum = 0.0f;
      for (size_t k = 0; k < kBlock; ++k)
        sum += static_cast<float>(codes[k / 4 * 64 + r * 4 + k % 4] - kInt8Offset) * x[k];
      out[r] += sum * bf16_to_float(scales[r]);
    }
  }
}

void int8_product(const uint8_t* first, const uint8_t* second, size_t blocks, const ExactRows& rows, float* out) {
  both_groups(int8_group_product, first, second, blocks, rows, out);
}

void bf16_group_product(const uint8_t* group, size_t blocks, const float* row, float* out) {
  const uint16_t* weights = reinterpret_cast<const uint16_t*>(group);
  for (size_t r = 0; r < kGroupRows; ++r) out[r] = 0.0f;
  for (size_t k = 0; k < blocks * kBlock; k += 2, weights += 32)
    for (size_t r = 0; r < kGroupRows; ++r)
      out[r] += bf16_to_float(weights[2 * r]) * row[k] + bf16_to_float(weights[2 * r + 1]) * row[k + 1];
}

void bf16_product(const uint8_t* first, const uint8_t* second, size_t blocks, const ExactRows& rows, float* out) {
  both_groups(bf16_group_product, first, second, blocks, rows, out);
}

bool supported() { return true; }

}  // namespace

const Path& portable_path() {
  static const Path path{"portable", supported,     swiglu,       nullptr,     attend,
                         summarise,  mxfp4_product, int8_product, bf16_product};
  return path;
}

}  // namespace gpt_oss
