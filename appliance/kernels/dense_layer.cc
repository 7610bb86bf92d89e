#include "dense_layer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

namespace gpt_oss {
namespace {

// Pairs of groups unpacked together by the matrix unit: 128 weight rows stay in the second-level cache while the tokens
// pass by 32 at a time.
constexpr size_t kPanelPairs = 4;

float to_float(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

// The bfloat16 at or above a non-negative float.
uint16_t round_up(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<uint16_t>((bits + 0xffff) >> 16);
}

void pack_int8_block(const uint16_t* weights, size_t stride, size_t present, uint16_t* scales, uint8_t* codes) {
  for (size_t r = 0; r < kGroupRows; ++r) {
    float values[kBlock] = {};
    float largest = 0.0f;
    for (size_t k = 0; r < present && k < kBlock; ++k) {
      values[k] = to_float(weights[r * stride + k]);
      largest = std::max(largest, std::fabs(values[k]));
    }
    scales[r] = round_up(largest / 127.0f);
    const float scale = to_float(scales[r]);
    for (size_t k = 0; k < kBlock; ++k) {
      const int q = scale > 0.0f ? static_cast<int>(std::lround(values[k] / scale)) : 0;
      codes[k / 4 * 64 + r * 4 + k % 4] = static_cast<uint8_t>(std::clamp(q, -127, 127) + kInt8Offset);
    }
  }
}

void pack_bf16_block(const uint16_t* weights, size_t stride, size_t present, uint16_t* to) {
  for (size_t k = 0; k < kBlock; ++k)
    for (size_t r = 0; r < kGroupRows; ++r)
      to[k / 2 * 32 + r * 2 + k % 2] = r < present ? weights[r * stride + k] : uint16_t{0};
}

// Where a unit lies when every part has so many of its own.
struct Place {
  const DensePart* part;
  size_t unit;    // counted within the part
  size_t column;  // of the output, where the part begins
};
template <typename Count>
Place place_of(const std::vector<DensePart>& parts, size_t unit, const Count& units_of) {
  const DensePart* part = parts.data();
  size_t column = 0;
  for (; unit >= units_of(part->shape); ++part) unit -= units_of(part->shape), column += part->shape.rows;
  return {part, unit, column};
}
template <typename Count>
size_t units_in(const std::vector<DensePart>& parts, const Count& units_of) {
  size_t units = 0;
  for (const DensePart& part : parts) units += units_of(part.shape);
  return units;
}

size_t pairs_of(const DenseShape& shape) { return shape.groups() / 2; }
size_t panels_of(const DenseShape& shape) { return (pairs_of(shape) + kPanelPairs - 1) / kPanelPairs; }

void add_bias(const float* sums, const float* bias, size_t count, float* out) {
  for (size_t r = 0; r < count; ++r) out[r] = sums[r] + (bias ? bias[r] : 0.0f);
}

}  // namespace

void pack_dense(DenseKind kind, const DenseShape& shape, const uint16_t* weights, size_t first, size_t last,
                uint8_t* out) {
  const size_t blocks = shape.inner / kBlock;
  for (size_t g = first; g < last; ++g) {
    const size_t row = g * kGroupRows, present = row < shape.rows ? std::min(kGroupRows, shape.rows - row) : 0;
    uint8_t* group = out + g * shape.group_bytes(kind);
    if (kind == DenseKind::kInt8) std::memset(group, 0, kInt8.codes_at(blocks));
    for (size_t b = 0; b < blocks; ++b) {
      const uint16_t* from = weights + (present ? row * shape.inner + b * kBlock : 0);
      if (kind == DenseKind::kInt8)
        pack_int8_block(from, shape.inner, present, reinterpret_cast<uint16_t*>(group + b * kInt8.scale_bytes),
                        group + kInt8.codes_at(blocks) + b * kInt8.code_bytes);
      else
        pack_bf16_block(from, shape.inner, present, reinterpret_cast<uint16_t*>(group + b * kBf16.code_bytes));
    }
  }
}

void dense_layer(const Path& path, DenseKind kind, const std::vector<DensePart>& parts, const float* bias, const float* x,
                 const Tokens& tokens, float* out, const RunPhases& run) {
  const size_t inner = parts.front().shape.inner, blocks = inner / kBlock;
  const size_t group_bytes = parts.front().shape.group_bytes(kind);
  size_t columns = 0;
  for (const DensePart& part : parts) columns += part.shape.rows;
  // Sums (count, 32) of a pair of groups, for the tokens from `token` on.
  const auto store = [&](const Place& place, size_t pair, const float* sums, size_t token, size_t count) {
    const size_t at = place.column + 32 * pair, n = std::min<size_t>(32, place.part->shape.rows - 32 * pair);
    for (size_t r = 0; r < count; ++r)
      add_bias(sums + r * 32, bias ? bias + at : nullptr, n, out + (token + r) * columns + at);
  };

  // 1. Activations in the form the products read: of exact tokens one by one, of the others in bfloat16 and 32 at a time.
  const Bf16Product matrix = kind == DenseKind::kBf16 ? path.bf16_matrix : nullptr;
  const size_t exact = path.tile_product || matrix ? tokens.decoded : tokens.count, others = tokens.count - exact;
  const size_t padded = (others + 31) / 32 * 32;
  const size_t wholes = kind == DenseKind::kInt8 ? exact : 0;  // bfloat16 weights take x as it is
  ExactBuffer whole(path, wholes, inner);
  Scratch<uint16_t> bf16(padded * inner);
  const auto convert = [&](size_t unit) {
    if (unit < wholes) return whole.set(unit, x + unit * inner, false);
    const size_t first = (unit - wholes) * 32;
    for (size_t t = first; t < first + 32; ++t) {
      if (t < others) path.to_bf16(x + (exact + t) * inner, inner, bf16.data + t * inner);
      else std::memset(bf16.data + t * inner, 0, inner * sizeof(uint16_t));
    }
  };

  // 2. The products of a pair of groups, or of a panel of pairs where the matrix unit has them unpacked together.
  const auto multiply_exact = [&](const Place& place, size_t pair) {
    if (!exact) return;
    const uint8_t* first = place.part->packed + 2 * pair * group_bytes;
    thread_local std::vector<float> sums;
    sums.resize(std::max(sums.size(), exact * 32));
    if (kind == DenseKind::kInt8) path.int8_product(first, first + group_bytes, blocks, whole.rows(0, exact), sums.data());
    else path.bf16_product(first, first + group_bytes, blocks, {x, nullptr, nullptr, exact}, sums.data());
    store(place, pair, sums.data(), 0, exact);
  };
  const auto multiply_pair = [&](size_t unit) {
    const Place place = place_of(parts, unit, pairs_of);
    multiply_exact(place, place.unit);
    if (!others) return;
    const uint8_t* first = place.part->packed + 2 * place.unit * group_bytes;
    thread_local std::vector<float> sums;
    sums.resize(std::max(sums.size(), others * 32));
    matrix(first, first + group_bytes, blocks, bf16.data, others, sums.data());
    store(place, place.unit, sums.data(), exact, others);
  };
  const auto multiply_panel = [&](size_t unit) {
    const Place place = place_of(parts, unit, panels_of);
    const size_t first = place.unit * kPanelPairs, count = std::min(kPanelPairs, pairs_of(place.part->shape) - first);
    for (size_t p = 0; p < count; ++p) multiply_exact(place, first + p);
    thread_local std::unique_ptr<Aligned<uint16_t>> scratch;
    thread_local size_t scratch_blocks = 0;
    if (kind == DenseKind::kInt8 && scratch_blocks < blocks) {
      scratch = std::make_unique<Aligned<uint16_t>>(kPanelPairs * 2 * blocks * 512);
      scratch_blocks = blocks;
    }
    const auto tiles = [&](size_t group) {
      const uint8_t* from = place.part->packed + (2 * first + group) * group_bytes;
      return kind == DenseKind::kBf16 ? reinterpret_cast<const uint16_t*>(from) : scratch->data + group * blocks * 512;
    };
    if (kind == DenseKind::kInt8)
      for (size_t g = 0; g < 2 * count; ++g)
        path.unpack_int8(place.part->packed + (2 * first + g) * group_bytes, blocks, scratch->data + g * blocks * 512);
    alignas(64) float sums[32 * 32];
    for (size_t t = 0; t < others; t += 32) {
      const size_t n = std::min<size_t>(32, others - t);
      for (size_t p = 0; p < count; ++p) {
        path.tile_product(tiles(2 * p), tiles(2 * p + 1), blocks, bf16.data + t * inner, path.padded(n), sums);
        store(place, first + p, sums, exact + t, n);
      }
    }
  };
  run({{wholes + padded / 32, convert}, others && !matrix ? Phase{units_in(parts, panels_of), multiply_panel}
                                                          : Phase{units_in(parts, pairs_of), multiply_pair}});
}

}  // namespace gpt_oss
