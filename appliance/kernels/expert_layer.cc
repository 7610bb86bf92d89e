#include "expert_layer.h"

#include "rows.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

namespace gpt_oss {
namespace {

// k0 .. k7 in the eight nibbles of a word become k0 k2 k4 k6 k1 k3 k5 k7.
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

// What each expert has to do: its assignments and where its rows begin in the activation buffers.
struct Work {
  size_t expert;
  size_t first_row;
  size_t padded;  // rows reserved
  std::vector<Assignment> assignments;
};

std::vector<Work> route(const Path& path, const float* logits, size_t tokens, size_t experts, size_t top_k,
                        bool matrix, size_t* rows) {
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
  *rows = 0;
  for (size_t e = 0; e < experts; ++e) {
    if (per_expert[e].empty()) continue;
    const size_t count = per_expert[e].size(), padded = matrix ? path.padded(count) : count;
    work.push_back({e, *rows, padded, std::move(per_expert[e])});
    *rows += padded;
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

void expert_layer(const Path& path, const ExpertWeights& weights, const SwiGlu& form, size_t top_k, const float* x,
                  const float* router_logits, size_t tokens, bool matrix, float* out,
                  const RunPhases& run) {
  const ExpertShape& shape = weights.shape;
  const size_t hidden = shape.hidden, inner = shape.inner;
  const size_t hidden_blocks = hidden / kBlock, inner_blocks = inner / kBlock;
  size_t rows = 0;
  const std::vector<Work> work = route(path, router_logits, tokens, shape.experts, top_k, matrix, &rows);
  const uint8_t* gate_up = weights.packed;
  const uint8_t* down = weights.packed + shape.experts * shape.gate_up_bytes();

  // 1. Activations in the form the products read.
  std::unique_ptr<QuantisedRows> x_rows, inner_rows;
  std::unique_ptr<Scratch<uint16_t>> x_bf16, inner_bf16;
  Scratch<float> activation(rows * inner);
  if (matrix) {
    x_bf16 = std::make_unique<Scratch<uint16_t>>(rows * hidden);
    inner_bf16 = std::make_unique<Scratch<uint16_t>>(rows * inner);
  } else {
    x_rows = std::make_unique<QuantisedRows>(tokens, hidden);
    inner_rows = std::make_unique<QuantisedRows>(rows, inner);
  }
  const auto convert = [&](size_t w) {
    uint16_t* to = x_bf16->data + work[w].first_row * hidden;
    for (const Assignment& a : work[w].assignments) path.to_bf16(x + a.token * hidden, hidden, to), to += hidden;
    std::memset(to, 0, (work[w].padded - work[w].assignments.size()) * hidden * sizeof(uint16_t));
  };
  const auto quantise = [&](size_t t) { x_rows->quantise(path, t, x + t * hidden, true); };

  // Calls take(row, products of 32 weight rows) for every row of one expert's work.
  const auto products = [&](const Work& w, const uint8_t* first, size_t blocks, const QuantisedRows* quantised,
                            bool by_token, const Scratch<uint16_t>* bf16, const auto& take) {
    const uint8_t* second = first + kMxfp4.bytes(blocks);
    thread_local std::vector<float> results;
    const size_t count = w.assignments.size();
    if (matrix) {
      results.resize(std::max(results.size(), w.padded * 32));
      if (path.mxfp4_matrix != nullptr) {
        path.mxfp4_matrix(first, second, blocks, bf16->data + w.first_row * blocks * kBlock, count, results.data(), 32);
        for (size_t i = 0; i < count; ++i) take(i, results.data() + i * 32);
        return;
      }
      thread_local std::unique_ptr<Aligned<uint16_t>> scratch;
      thread_local size_t scratch_blocks = 0;
      if (scratch_blocks < blocks) scratch = std::make_unique<Aligned<uint16_t>>(blocks * 1024), scratch_blocks = blocks;
      uint16_t* tiles = scratch->data;
      path.unpack_mxfp4(first, blocks, tiles);
      path.unpack_mxfp4(second, blocks, tiles + blocks * 512);
      path.tile_product(tiles, tiles + blocks * 512, blocks, bf16->data + w.first_row * blocks * kBlock, w.padded,
                        results.data(), 32);
      for (size_t i = 0; i < count; ++i) take(i, results.data() + i * 32);
      return;
    }
    results.resize(std::max(results.size(), kMaxRows * 32));
    for (size_t i = 0; i < count; i += kMaxRows) {
      QuantisedRow batch[kMaxRows];
      const size_t n = std::min(kMaxRows, count - i);
      for (size_t r = 0; r < n; ++r)
        batch[r] = quantised->row(by_token ? w.assignments[i + r].token : w.first_row + i + r);
      path.mxfp4_product(first, second, blocks, batch, n, results.data());
      for (size_t r = 0; r < n; ++r) take(i + r, results.data() + r * 32);
    }
  };

  // 2. Gate and up: 16 activations of every row of one expert at a time.
  const size_t inner_groups = inner / kGroupRows;
  const auto gate_and_up = [&](size_t unit) {
    const Work& w = work[unit / inner_groups];
    const size_t p = unit % inner_groups;
    const uint8_t* first = gate_up + w.expert * shape.gate_up_bytes() + 2 * p * kMxfp4.bytes(hidden_blocks);
    const float* bias = weights.gate_up_bias + w.expert * 2 * inner + 2 * kGroupRows * p;
    products(w, first, hidden_blocks, x_rows.get(), true, x_bf16.get(), [&](size_t i, const float* sums) {
      float gates[kGroupRows], ups[kGroupRows];
      for (size_t r = 0; r < kGroupRows; ++r) {
        gates[r] = sums[r] + bias[2 * r];
        ups[r] = sums[16 + r] + bias[2 * r + 1];
      }
      path.swiglu(form, gates, ups, activation.data + (w.first_row + i) * inner + kGroupRows * p);
    });
  };

  // 3. Activations of the inner layer.
  const auto narrow = [&](size_t i) {
    const Work& w = work[i];
    for (size_t r = 0; r < w.assignments.size(); ++r) {
      const float* row = activation.data + (w.first_row + r) * inner;
      if (matrix) path.to_bf16(row, inner, inner_bf16->data + (w.first_row + r) * inner);
      else inner_rows->quantise(path, w.first_row + r, row, true);
    }
    if (matrix)
      std::memset(inner_bf16->data + (w.first_row + w.assignments.size()) * inner, 0,
                  (w.padded - w.assignments.size()) * inner * sizeof(uint16_t));
  };

  // 4. Down: 32 outputs of every row of one expert at a time, then the weighted sum of each token's rows in the order of
  // experts.
  Scratch<float> results(rows * hidden);
  const size_t hidden_pairs = hidden / 32;
  const auto down_product = [&](size_t unit) {
    const Work& w = work[unit / hidden_pairs];
    const size_t p = unit % hidden_pairs;
    const uint8_t* first = down + w.expert * shape.down_bytes() + 2 * p * kMxfp4.bytes(inner_blocks);
    const float* bias = weights.down_bias + w.expert * hidden + 32 * p;
    products(w, first, inner_blocks, inner_rows.get(), false, inner_bf16.get(), [&](size_t i, const float* sums) {
      float* to = results.data + (w.first_row + i) * hidden + 32 * p;
      for (size_t r = 0; r < 32; ++r) to[r] = w.assignments[i].weight * (sums[r] + bias[r]);
    });
  };
  std::vector<std::vector<size_t>> rows_of(tokens);
  for (const Work& w : work)
    for (size_t i = 0; i < w.assignments.size(); ++i) rows_of[w.assignments[i].token].push_back(w.first_row + i);
  const auto add_up = [&](size_t t) {
    float* to = out + t * hidden;
    std::fill_n(to, hidden, 0.0f);
    for (size_t row : rows_of[t])
      for (size_t h = 0; h < hidden; ++h) to[h] += results.data[row * hidden + h];
  };

  // One expert's units follow each other: weights stream, and of a prompt its activations stay in the cache.
  run({matrix ? Phase{work.size(), convert} : Phase{tokens, quantise},
       {inner_groups * work.size(), gate_and_up},
       {work.size(), narrow},
       {hidden_pairs * work.size(), down_product},
       {tokens, add_up}});
}

}  // namespace gpt_oss
