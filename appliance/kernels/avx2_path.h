// What the paths of 256 bits are made of, with AVX-VNNI or without. Internal linkage on purpose: each path compiles its own
// copy.
#pragma once

#include "attention_core.h"
#include "avx2.h"
#include "avx2_bytes.h"
#include "elementwise.h"
#include "logits_core.h"

namespace gpt_oss {
namespace {

inline bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

// A constant: every processor asks for the table, also one that could not run code of this file to make it.
constexpr Path path_of(const char* name, bool (*supported)()) {
  return {name,
          supported,
          swiglu,
          quantise,
          attend,
          summarise,
          product<Mxfp4Weights>,
          product<Int8Weights>,
          bf16_product,
          &kMxfp4Prompt,
          kInt8PromptIfAny};
}

}  // namespace
}  // namespace gpt_oss
