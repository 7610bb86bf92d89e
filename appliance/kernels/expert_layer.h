// The mixture-of-experts layer of gpt-oss on packed MXFP4 weights.
#pragma once

#include "rows.h"

namespace gpt_oss {

struct ExpertShape {
  size_t experts, hidden, inner;  // hidden and inner are multiples of 32
  size_t gate_up_bytes() const { return 2 * inner / kGroupRows * kMxfp4.bytes(hidden / kBlock); }
  size_t down_bytes() const { return hidden / kGroupRows * kMxfp4.bytes(inner / kBlock); }
  size_t bytes() const { return experts * (gate_up_bytes() + down_bytes()); }
};

struct ExpertWeights {
  ExpertShape shape;
  const uint8_t* packed;      // all gate_up matrices, then all down matrices
  const float* gate_up_bias;  // (experts, 2 * inner), gate and up interleaved as published
  const float* down_bias;     // (experts, hidden)
};

struct ExpertForm {
  SwiGlu swiglu;
  size_t top_k;
  int prompt_bits;  // 8 or 16: prompts take the form for prompts if it has at least so many bits, otherwise the exact one
};

// Packs one expert's matrices from the checkpoint's layout: blocks (rows, inner / 32, 16), scales (rows, inner / 32).
// gate_up: group 2p has the gates of outputs 16p .. 16p + 15, group 2p + 1 their ups.
void pack_gate_up(const ExpertShape& shape, const uint8_t* blocks, const uint8_t* scales, uint8_t* out);
void pack_down(const ExpertShape& shape, const uint8_t* blocks, const uint8_t* scales, uint8_t* out);

// Packs the experts first .. last - 1 of a layer; `out` is the whole layer's buffer, so that threads can share the
// work.
void pack_experts(const ExpertShape& shape, const uint8_t* gate_up, const uint8_t* gate_up_scales, const uint8_t* down,
                  const uint8_t* down_scales, size_t first, size_t last, uint8_t* out);

// out (tokens, hidden): for each token the sum of softmax weight * expert(x) over its top_k experts.
// x (tokens, hidden); router_logits (tokens, experts).
void expert_layer(const Path& path, const ExpertWeights& weights, const ExpertForm& form, const float* x,
                  const float* router_logits, const Tokens& tokens, float* out, const RunPhases& run);

}  // namespace gpt_oss
