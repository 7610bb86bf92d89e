// The common parts of the 256-bit paths, with AVX-VNNI or without. Internal linkage on purpose: each path compiles its
// own copy.
#pragma once

#include "attention_core.h"
#include "avx2.h"
#include "byte_forms.h"
#include "elementwise.h"
#include "logits_core.h"

namespace gpt_oss {
namespace {

inline bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

// A constant, because every processor reads the table, also one that cannot run code of this file.
constexpr Path path_of(const char* name, bool (*supported)(), const Forms& mxfp4, const Forms& int8) {
  return {name, supported, swiglu, attend<float>, attend<Bfloat16>, summarise, mxfp4, int8, {&kBf16Exact}};
}

}  // namespace
}  // namespace gpt_oss
