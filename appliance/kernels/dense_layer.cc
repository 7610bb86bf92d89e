#include "dense_layer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace gpt_oss {
namespace {

float to_float(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

// The smallest bfloat16 that is not below a non-negative float.
uint16_t round_up(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<uint16_t>((bits + 0xffff) >> 16);
}

// The nearest whole number, halves away from zero, for numbers that fit into an int. As std::lround, in instructions
// that vectorise.
int rounded(float value) {
  const int whole = static_cast<int>(value);
  const float rest = value - static_cast<float>(whole);
  return whole + (rest >= 0.5f) - (rest <= -0.5f);
}

// One row's kBlock weights as codes, and their scale.
uint16_t pack_int8_row(const uint16_t* weights, uint8_t* codes) {
  int16_t largest = 0;  // without its sign, so bits and numbers have one order
  for (size_t k = 0; k < kBlock; ++k) largest = std::max(largest, static_cast<int16_t>(weights[k] & 0x7fff));
  const uint16_t bits = round_up(to_float(static_cast<uint16_t>(largest)) / 127.0f);
  const float scale = to_float(bits);
  if (!(scale > 0.0f)) {
    std::memset(codes, kInt8Offset, kBlock);
    return bits;
  }
  for (size_t k = 0; k < kBlock; ++k)
    codes[k] = static_cast<uint8_t>(std::clamp(rounded(to_float(weights[k]) / scale), -127, 127) + kInt8Offset);
  return bits;
}

void pack_int8_block(const uint16_t* weights, size_t stride, size_t present, uint16_t* scales, uint8_t* codes) {
  for (size_t r = 0; r < kGroupRows; ++r) {
    uint8_t row[kBlock];
    std::memset(row, kInt8Offset, sizeof row);
    scales[r] = r < present ? pack_int8_row(weights + r * stride, row) : uint16_t{0};
    for (size_t k = 0; k < kBlock; k += 4) std::memcpy(codes + k * kGroupRows + r * 4, row + k, 4);
  }
}

void pack_bf16_block(const uint16_t* weights, size_t stride, size_t present, uint16_t* to) {
  for (size_t k = 0; k < kBlock; ++k)
    for (size_t r = 0; r < kGroupRows; ++r)
      to[k / 2 * 32 + r * 2 + k % 2] = r < present ? weights[r * stride + k] : uint16_t{0};
}

// The place of a pair of groups that is counted over all parts.
struct Place {
  const DensePart* part;
  size_t pair;    // counted within the part
  size_t column;  // the column of the output at which the part begins
};
Place place_of(const std::vector<DensePart>& parts, size_t pair) {
  const DensePart* part = parts.data();
  size_t column = 0;
  for (; pair >= part->shape.groups() / 2; ++part) pair -= part->shape.groups() / 2, column += part->shape.rows;
  return {part, pair, column};
}

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

void dense_layer(const Path& path, DenseKind kind, const std::vector<DensePart>& parts, const float* bias,
                 const float* x, const Tokens& tokens, float* out, const RunPhases& run) {
  const size_t inner = parts.front().shape.inner, blocks = inner / kBlock;
  const size_t group_bytes = parts.front().shape.group_bytes(kind);
  size_t columns = 0;
  for (const DensePart& part : parts) columns += part.shape.rows;

  // 1. Activations in the form that the products read: exact tokens one by one, the others 32 at a time.
  constexpr size_t kTogether = 32;
  const Forms& forms = kind == DenseKind::kInt8 ? path.int8 : path.bf16;
  const Form* prompt = forms.prompt;
  const size_t exact = prompt ? tokens.decoded : tokens.count, others = tokens.count - exact;
  const size_t padded = others ? prompt->padded(others) : 0;
  FormBuffer exact_rows(forms.exact, exact, inner), prompt_rows(prompt, padded, inner);
  const auto convert = [&](size_t unit) {
    if (unit < exact) return exact_rows.set(unit, x + unit * inner);
    const size_t first = (unit - exact) * kTogether;
    for (size_t t = first; t < std::min(first + kTogether, padded); ++t) {
      if (t < others)
        prompt_rows.set(t, x + (exact + t) * inner);
      else
        prompt_rows.clear(t);
    }
  };

  // 2. The products of a pair of groups, or of one token with two pairs.
  const auto add_biases = [&](const Place& place, const float* sums) {
    const size_t at = place.column + 32 * place.pair,
                 count = std::min<size_t>(32, place.part->shape.rows - 32 * place.pair);
    for (size_t t = 0; t < tokens.count; ++t)
      add_bias(sums + t * 32, bias ? bias + at : nullptr, count, out + t * columns + at);
  };
  const auto multiply = [&](size_t unit) {
    const Place place = place_of(parts, unit);
    const uint8_t *first = place.part->packed + 2 * place.pair * group_bytes, *second = first + group_bytes;
    thread_local std::vector<float> sums;
    sums.resize(std::max(sums.size(), (exact + padded) * 32));
    float* of_others = sums.data() + exact * 32;
    if (exact) forms.exact->product(first, second, blocks, exact_rows.at(0), exact, sums.data());
    if (others) prompt->product(first, second, blocks, prompt_rows.at(0), padded, of_others);
    add_biases(place, sums.data());
  };
  const auto multiply_two = [&](size_t unit) {
    const Place place = place_of(parts, unit), next = place_of(parts, unit + 1);
    if (place.part != next.part) return multiply(unit), multiply(unit + 1);
    float sums[64];
    forms.exact->four(place.part->packed + 2 * place.pair * group_bytes, blocks, exact_rows.at(0), sums);
    add_biases(place, sums);
    add_biases(next, sums + 32);
  };
  size_t pairs = 0;
  for (const DensePart& part : parts) pairs += part.shape.groups() / 2;
  Phase products{pairs, multiply};
  if (exact == 1 && tokens.count == 1 && forms.exact->four) products.run_two = multiply_two;
  run({{exact + (padded + kTogether - 1) / kTogether, convert}, products});
}

}  // namespace gpt_oss
