// A prompt's activations in 8 bits. Internal linkage on purpose: every path compiles its own copy.
#pragma once

#include "elementwise.h"
#include "paths.h"

namespace gpt_oss {
namespace {

constexpr float kMostInByte = 127.0f;

// Products of 8 bits take unsigned numbers on one side: the weights, each with an offset. What that adds to a block's sum, the
// offset times the sum of the activations, is taken off at its start.
struct ByteBlock {
  int8_t values[kBlock];  // in the order of the weights
  float scale;
  int32_t start;

  // MXFP4 products multiply with twice each weight: the scale makes up for it. What is not a number is not kept such.
  void finish(const WholeScale& block, int32_t sum_of_values, int offset, bool twice) {
    scale = twice ? 0.5f * block.scale : block.scale;
    start = static_cast<int32_t>(0u - static_cast<uint32_t>(offset) * static_cast<uint32_t>(sum_of_values));
  }
};

// Twice each E2M1 value, plus 12.
alignas(16) constexpr uint8_t kUnsignedE2m1[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

}  // namespace
}  // namespace gpt_oss
