#include "expert_layer.h"

#include "rows.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <vector>

namespace gpt_oss {
namespace {

// Reorders the eight nibbles of a word: k0 .. k7 become k0 k2 k4 k6 k1 k3 k5 k7.
inline uint32_t shuffle_nibbles(uint32_t x) {
  x = (x & 0xf00ff00fu) | ((x & 0x00f000f0u) << 4) | ((x & 0x0f000f00u) >> 4);
  return (x & 0xff0000ffu) | ((x & 0x0000ff00u) << 8) | ((x & 0x00ff0000u) >> 8);
}

// Packs the 16 rows first, first + step, ..
void pack_group(const uint8_t* blocks, const uint8_t* scales, size_t block_count, size_t first, size_t step,
                uint8_t* out) {
  uint8_t* codes = out + kMxfp4.codes_at(block_count);
  std::memset(out, 0, kMxfp4.codes_at(block_count));
  for (size_t b = 0; b < block_count; ++b, out += kMxfp4.scale_bytes, codes += kMxfp4.code_bytes) {
    for (size_t r = 0; r < kGroupRows; ++r) {
      const size_t at = (first + r * step) * block_count + b;
      out[r] = scales[at];
      for (size_t j = 0; j < 4; ++j) {
        uint32_t word;
        std::memcpy(&word, blocks + at * 16 + j * 4, sizeof word);
        word = shuffle_nibbles(word);
        std::memcpy(codes + j * 64 + r * 4, &word, sizeof word);
      }
    }
  }
}

struct Assignment {
  size_t token;
  float weight;
};

// The work of one expert, and where its rows begin in the buffers.
struct Work {
  size_t expert;
  std::vector<Assignment> assignments;  // by token
  size_t exact;                         // how many of them use exact products; these come first
  size_t padded;                        // rows reserved for the others
  size_t row, exact_row, prompt_row;    // the first row of activations and results, of exact rows, of prompt rows
};

// `form` is for the tokens from `exact` on; it may be null if there are none.
std::vector<Work> route(const Form* form, const float* logits, size_t tokens, size_t exact, size_t experts,
                        size_t top_k) {
  std::vector<std::vector<Assignment>> per_expert(experts);
  std::vector<size_t> order(experts);
  for (size_t t = 0; t < tokens; ++t) {
    const float* row = logits + t * experts;
    std::iota(order.begin(), order.end(), size_t{0});
    std::partial_sort(order.begin(), order.begin() + static_cast<long>(top_k), order.end(),
                      [row](size_t a, size_t b) { return row[a] > row[b] || (row[a] == row[b] && a < b); });
    float total = 0.0f;
    for (size_t i = 0; i < top_k; ++i) total += std::exp(row[order[i]] - row[order[0]]);
    for (size_t i = 0; i < top_k; ++i)
      per_expert[order[i]].push_back({t, std::exp(row[order[i]] - row[order[0]]) / total});
  }
  std::vector<Work> work;
  size_t row = 0, exact_row = 0, prompt_row = 0;
  for (size_t e = 0; e < experts; ++e) {
    std::vector<Assignment>& all = per_expert[e];
    if (all.empty()) continue;
    const auto is_exact = [&](const Assignment& a) { return a.token < exact; };
    const size_t count = all.size(), few = static_cast<size_t>(std::count_if(all.begin(), all.end(), is_exact));
    const size_t padded = form ? form->padded(count - few) : 0;
    work.push_back({e, std::move(all), few, padded, row, exact_row, prompt_row});
    row += count, exact_row += few, prompt_row += padded;
  }
  return work;
}

}  // namespace

void pack_gate_up(const ExpertShape& shape, const uint8_t* blocks, const uint8_t* scales, uint8_t* out) {
  const size_t block_count = shape.hidden / kBlock, group = kMxfp4.bytes(block_count);
  for (size_t p = 0; p < shape.inner / kGroupRows; ++p) {
    pack_group(blocks, scales, block_count, 2 * kGroupRows * p, 2, out + 2 * p * group);
    pack_group(blocks, scales, block_count, 2 * kGroupRows * p + 1, 2, out + (2 * p + 1) * group);
  }
}

void pack_down(const ExpertShape& shape, const uint8_t* blocks, const uint8_t* scales, uint8_t* out) {
  const size_t block_count = shape.inner / kBlock, group = kMxfp4.bytes(block_count);
  for (size_t g = 0; g < shape.hidden / kGroupRows; ++g)
    pack_group(blocks, scales, block_count, g * kGroupRows, 1, out + g * group);
}

void pack_experts(const ExpertShape& shape, const uint8_t* gate_up, const uint8_t* gate_up_scales, const uint8_t* down,
                  const uint8_t* down_scales, size_t first, size_t last, uint8_t* out) {
  const size_t n = shape.hidden * shape.inner;
  for (size_t e = first; e < last; ++e) {
    pack_gate_up(shape, gate_up + e * n, gate_up_scales + e * n / 16, out + e * shape.gate_up_bytes());
    pack_down(shape, down + e * n / 2, down_scales + e * n / 32,
              out + shape.experts * shape.gate_up_bytes() + e * shape.down_bytes());
  }
}

void expert_layer(const Path& path, const ExpertWeights& weights, const ExpertForm& form, const float* x,
                  const float* router_logits, const Tokens& tokens, float* out, const RunPhases& run) {
  const ExpertShape& shape = weights.shape;
  const size_t hidden = shape.hidden, inner = shape.inner;
  const size_t hidden_blocks = hidden / kBlock, inner_blocks = inner / kBlock;
  const bool as_prompt = path.mxfp4.prompt && path.mxfp4.prompt->bits >= form.prompt_bits;
  const Form *exact = path.mxfp4.exact, *prompt = as_prompt ? path.mxfp4.prompt : nullptr;
  const size_t exact_tokens = prompt ? tokens.decoded : tokens.count;
  const std::vector<Work> work = route(prompt, router_logits, tokens.count, exact_tokens, shape.experts, form.top_k);
  const Work& end = work.back();
  const size_t rows = end.row + end.assignments.size(), exact_rows = end.exact_row + end.exact;
  const size_t prompt_rows = end.prompt_row + end.padded;
  const uint8_t* gate_up = weights.packed;
  const uint8_t* down = weights.packed + shape.experts * shape.gate_up_bytes();

  // 1. Activations in the form that the products read.
  FormBuffer x_exact(exact, exact_rows, hidden), inner_exact(exact, exact_rows, inner);
  FormBuffer x_prompt(prompt, prompt_rows, hidden), inner_prompt(prompt, prompt_rows, inner);
  Scratch<float> activation(rows * inner);
  const auto convert = [&](const Work& w, FormBuffer* decoded, FormBuffer* others, const auto& row_of) {
    for (size_t i = 0; i < w.exact; ++i) decoded->set(w.exact_row + i, row_of(i));
    for (size_t i = w.exact; i < w.assignments.size(); ++i) others->set(w.prompt_row + i - w.exact, row_of(i));
    for (size_t i = w.assignments.size() - w.exact; i < w.padded; ++i) others->clear(w.prompt_row + i);
  };
  const auto convert_x = [&](size_t unit) {
    const Work& w = work[unit];
    convert(w, &x_exact, &x_prompt, [&](size_t i) { return x + w.assignments[i].token * hidden; });
  };

  // The products of 32 weight rows with every row of one expert's work, (assignments, 32), until the thread's next
  // call.
  const auto products = [&](const Work& w, const uint8_t* first, size_t blocks, const FormBuffer& decoded,
                            const FormBuffer& others) {
    const uint8_t* second = first + kMxfp4.bytes(blocks);
    thread_local std::vector<float> results;
    results.resize(std::max(results.size(), (w.exact + w.padded) * 32));
    if (w.exact) exact->product(first, second, blocks, decoded.at(w.exact_row), w.exact, results.data());
    if (w.padded)
      prompt->product(first, second, blocks, others.at(w.prompt_row), w.padded, results.data() + w.exact * 32);
    return static_cast<const float*>(results.data());
  };

  // A phase that calls use(work, p, sums) for each of `pairs` pairs of groups of every expert. A decoded token that is alone
  // with its expert takes two pairs at a time.
  const auto of_pairs = [&](size_t pairs, size_t blocks, const FormBuffer& decoded, const FormBuffer& others,
                            const auto& groups_of, const auto& use) {
    const auto one = [&, pairs, blocks](size_t unit) {
      const Work& w = work[unit / pairs];
      const size_t p = unit % pairs;
      use(w, p, products(w, groups_of(w, p), blocks, decoded, others));
    };
    const auto two = [&, one, pairs, blocks](size_t unit) {
      const Work& w = work[unit / pairs];
      const size_t p = unit % pairs;
      const bool alone = w.exact == 1 && w.assignments.size() == 1;
      if (!alone || p + 1 == pairs) return one(unit), one(unit + 1);
      float sums[64];
      exact->four(groups_of(w, p), blocks, decoded.at(w.exact_row), sums);
      use(w, p, sums);
      use(w, p + 1, sums + 32);
    };
    Phase phase{pairs * work.size(), one};
    if (exact->four) phase.run_two = two;
    return phase;
  };

  // 2. Gate and up: 16 activations of every row of one expert at a time.
  const auto gates_of = [&](const Work& w, size_t p) {
    return gate_up + w.expert * shape.gate_up_bytes() + 2 * p * kMxfp4.bytes(hidden_blocks);
  };
  const auto activate = [&](const Work& w, size_t p, const float* sums) {
    const float* bias = weights.gate_up_bias + w.expert * 2 * inner + 2 * kGroupRows * p;
    float biases[2 * kGroupRows];
    for (size_t r = 0; r < kGroupRows; ++r) biases[r] = bias[2 * r], biases[kGroupRows + r] = bias[2 * r + 1];
    path.swiglu(form.swiglu, sums, biases, w.assignments.size(), activation.data + w.row * inner + kGroupRows * p,
                inner);
  };

  // 3. Activations of the inner layer.
  const auto narrow = [&](size_t unit) {
    const Work& w = work[unit];
    convert(w, &inner_exact, &inner_prompt, [&](size_t i) { return activation.data + (w.row + i) * inner; });
  };

  // 4. Down: 32 outputs of every row of one expert at a time. Then the weighted sum of each token's rows, in the order
  // of the experts.
  Scratch<float> results(rows * hidden);
  const auto downs_of = [&](const Work& w, size_t p) {
    return down + w.expert * shape.down_bytes() + 2 * p * kMxfp4.bytes(inner_blocks);
  };
  const auto weigh = [&](const Work& w, size_t p, const float* sums) {
    const float* bias = weights.down_bias + w.expert * hidden + 32 * p;
    for (size_t i = 0; i < w.assignments.size(); ++i, sums += 32) {
      float* to = results.data + (w.row + i) * hidden + 32 * p;
      for (size_t r = 0; r < 32; ++r) to[r] = w.assignments[i].weight * (sums[r] + bias[r]);
    }
  };
  std::vector<std::vector<size_t>> rows_of(tokens.count);
  for (const Work& w : work)
    for (size_t i = 0; i < w.assignments.size(); ++i) rows_of[w.assignments[i].token].push_back(w.row + i);
  const auto add_up = [&](size_t t) {
    float* to = out + t * hidden;
    std::fill_n(to, hidden, 0.0f);
    for (size_t row : rows_of[t])
      for (size_t h = 0; h < hidden; ++h) to[h] += results.data[row * hidden + h];
  };

  // The units of one expert are neighbours, so that its weights stream and a prompt's activations stay in the cache.
  run({{work.size(), convert_x},
       of_pairs(inner / kGroupRows, hidden_blocks, x_exact, x_prompt, gates_of, activate),
       {work.size(), narrow},
       of_pairs(hidden / 32, inner_blocks, inner_exact, inner_prompt, downs_of, weigh),
       {tokens.count, add_up}});
}

}  // namespace gpt_oss
