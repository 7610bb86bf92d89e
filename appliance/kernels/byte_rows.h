// Activations as whole numbers of one or two bytes: of a prompt, and of decoded tokens. Products multiply bytes, so numbers
// of two bytes are multiplied byte by byte and added up, which gives the same whole number as 16-bit products. Internal
// linkage on purpose: every path compiles its own copy.
#pragma once

#include "elementwise.h"
#include "paths.h"

namespace gpt_oss {
namespace {

// The largest whole number of so many bytes, each of which is a number from -127 to 127.
template <int kBytes>
constexpr float kMost = kBytes == 1 ? 127.0f : 127.0f * 256.0f + 127.0f;

// Products of 8 bits need unsigned numbers on one side: the weights. kOffset is added to each weight to make it
// unsigned; with kTwice it is added to twice the weight.
struct UnsignedMxfp4 {
  static constexpr int kOffset = 12;
  static constexpr bool kTwice = true;
};
struct UnsignedInt8 {
  static constexpr int kOffset = kInt8Offset;
  static constexpr bool kTwice = false;
};

// Each E2M1 code as an unsigned number: twice its value, plus UnsignedMxfp4::kOffset.
alignas(16) constexpr uint8_t kUnsignedE2m1[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

// A block of activations.
template <int kBytes>
struct WholeBlock {
  int8_t values[kBytes][kBlock];  // the highest bytes first, each in the order of the weights
  float scale;
  // Where a block's sum starts: minus the offset times the sum of the values, because the weights' offset adds as much.
  int32_t start;
};

// Sets a block's scale, which makes up for twice the weights, and its start. A NaN does not stay one.
template <typename Weights, typename Block>
inline void finish(const WholeScale& scale, int32_t sum_of_values, Block* block) {
  constexpr uint32_t kOffset = Weights::kOffset;
  block->scale = Weights::kTwice ? 0.5f * scale.scale : scale.scale;
  block->start = static_cast<int32_t>(0u - kOffset * static_cast<uint32_t>(sum_of_values));
}

}  // namespace
}  // namespace gpt_oss
