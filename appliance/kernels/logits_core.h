// Summarises a part of the logits in one pass, while they are in the cache. Internal linkage on purpose: every path
// compiles its own copy.
#pragma once

#include "elementwise.h"
#include "lanes.h"
#include "paths.h"

#include <limits>

namespace gpt_oss {
namespace {

inline float largest_of(const float* x, size_t count) {
  float largest = -std::numeric_limits<float>::infinity();
  size_t i = 0;
  if (count >= kLanes) {
    Lanes lanes = load_lanes(x);
    for (i = kLanes; i + kLanes <= count; i += kLanes) {
      const Lanes next = load_lanes(x + i);
      lanes = next > lanes ? next : lanes;
    }
    for (size_t lane = 0; lane < kLanes; ++lane) largest = std::max(largest, lanes[lane]);
  }
  for (; i < count; ++i) largest = std::max(largest, x[i]);
  return largest;
}

inline void summarise(const float* x, size_t count, float* maxima, float* largest, float* sum) {
  *largest = -std::numeric_limits<float>::infinity();
  for (size_t at = 0; at < count; at += kLogitBlock) {
    *maxima = largest_of(x + at, std::min(kLogitBlock, count - at));
    *largest = std::max(*largest, *maxima++);
  }
  Lanes sums = {};
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    float powers[kLanes];
    for (size_t lane = 0; lane < kLanes; ++lane) powers[lane] = exponential(x[i + lane] - *largest);
    sums += load_lanes(powers);
  }
  *sum = 0.0f;
  for (size_t lane = 0; lane < kLanes; ++lane) *sum += sums[lane];
  for (; i < count; ++i) *sum += exponential(x[i] - *largest);
}

}  // namespace
}  // namespace gpt_oss
