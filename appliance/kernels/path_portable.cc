// The reference path: plain C++ for any machine, in float32, which does not round activations.
//
// A group's weights become floats once for all tokens of a call, block by block. The compiler multiplies them in the
// vectors that every processor of its kind has. Each token gets the same bits however many tokens share a call: every
// block is summed from zero in the order of the columns, and scaled once.
#include "attention_core.h"
#include "elementwise.h"
#include "lanes.h"
#include "logits_core.h"
#include "passes.h"
#include "paths.h"
#include "vectors.h"

#include <cstring>

namespace gpt_oss {
namespace {

constexpr int kPassRows = 4;  // tokens whose sums are in registers together
typedef uint32_t Words __attribute__((vector_size(kLineBytes)));

Words load_words(const uint8_t* from) {
  Words value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

Lanes as_floats(Words bits) {
  Lanes value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// A kind of weights: where a group stores them, the weights of a block by column (16 rows in each), and the scales of
// its rows.
struct Mxfp4 {
  static constexpr GroupLayout kLayout = kMxfp4;

  // The two upper bits of a code are an exponent, the third is the mantissa; 0 and 1 stand for 0 and 0.5.
  static Lanes value(Words code) {
    constexpr uint32_t kHalf = 0x3f000000;  // 0.5, and the float whose exponent is one below that of 1
    const Words size = code & 7u, below_two = 0u - ((size - 2u) >> 31);  // a mask
    const Words small = (0u - size) & kHalf, normal = (size << 22) + kHalf;
    return as_floats((small & below_two) | (normal & ~below_two) | ((code & 8u) << 28));
  }
  static void weights(const uint8_t* codes, Lanes* columns) {
    constexpr size_t kOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};  // the columns of a word's nibbles
    for (size_t j = 0; j < 4; ++j, columns += 8) {
      const Words words = load_words(codes + j * kLineBytes);
      for (uint32_t n = 0; n < 8; ++n) columns[kOrder[n]] = value((words >> (4 * n)) & 15u);
    }
  }
  static Lanes scales(const uint8_t* from) {
    constexpr uint32_t kSmallest = 0x00400000;  // 2^-127, below the normal floats
    Words bits;
    for (size_t r = 0; r < kGroupRows; ++r) bits[r] = from[r] ? uint32_t{from[r]} << 23 : kSmallest;
    return as_floats(bits);
  }
};

struct Int8 {
  static constexpr GroupLayout kLayout = kInt8;

  static void weights(const uint8_t* codes, Lanes* columns) {
    typedef int32_t Whole __attribute__((vector_size(kLineBytes)));
    for (size_t j = 0; j < kBlock / 4; ++j) {
      const Words words = load_words(codes + j * kLineBytes);
      for (uint32_t i = 0; i < 4; ++i) {
        const Whole whole = (Whole)((words >> (8 * i)) & 255u) - kInt8Offset;
        *columns++ = __builtin_convertvector(whole, Lanes);
      }
    }
  }
  static Lanes scales(const uint8_t* from) {
    Words bits;
    for (size_t r = 0; r < kGroupRows; ++r) {
      uint16_t scale;
      std::memcpy(&scale, from + 2 * r, sizeof scale);
      bits[r] = uint32_t{scale} << 16;
    }
    return as_floats(bits);
  }
};

struct Bf16 {
  static constexpr GroupLayout kLayout = kBf16;

  static void weights(const uint8_t* codes, Lanes* columns) {
    for (size_t pair = 0; pair < kBlock / 2; ++pair) {
      const Words words = load_words(codes + pair * kLineBytes);
      *columns++ = as_floats(words << 16);
      *columns++ = as_floats(words & 0xffff0000u);
    }
  }
  static Lanes scales(const uint8_t*) { return Lanes{} + 1.0f; }
};

// Adds to kRows totals, 32 floats apart, the products of a block with rows that are `inner` floats apart: half of the
// columns' rows at a time, so that all sums are in registers.
template <int kRows>
void add_block(const Lanes* columns, Lanes scale, const float* x, size_t inner, float* totals) {
  constexpr size_t kVectors = 2;
  for (size_t lane = 0; lane < kLanes; lane += kVectors * kVectorLanes) {
    Vector sums[kRows][kVectors] = {}, scales[kVectors];
    for (size_t k = 0; k < kBlock; ++k) {
      Vector weights[kVectors];
      std::memcpy(weights, reinterpret_cast<const float*>(columns + k) + lane, sizeof weights);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 8
        for (size_t v = 0; v < kVectors; ++v) sums[i][v] += weights[v] * x[static_cast<size_t>(i) * inner + k];
    }
    std::memcpy(scales, reinterpret_cast<const float*>(&scale) + lane, sizeof scales);
    for (int i = 0; i < kRows; ++i) {
      Vector total[kVectors];
      std::memcpy(total, totals + 32 * i + lane, sizeof total);
      for (size_t v = 0; v < kVectors; ++v) total[v] += sums[i][v] * scales[v];
      std::memcpy(totals + 32 * i + lane, total, sizeof total);
    }
  }
}

// out[32 * t + r]: one group with every row.
template <typename Weights>
void group_product(const uint8_t* group, size_t blocks, const float* rows, size_t count, float* out) {
  const size_t inner = blocks * kBlock;
  const uint8_t* codes = group + Weights::kLayout.codes_at(blocks);
  for (size_t t = 0; t < count; ++t) store_lanes(out + 32 * t, Lanes{});
  for (size_t b = 0; b < blocks; ++b, group += Weights::kLayout.scale_bytes, codes += Weights::kLayout.code_bytes) {
    Lanes columns[kBlock];
    Weights::weights(codes, columns);
    const Lanes scale = Weights::scales(group);
    in_passes<kPassRows>(count, [&](auto n, size_t first) {
      add_block<n>(columns, scale, rows + first * inner + b * kBlock, inner, out + 32 * first);
    });
  }
}

template <typename Weights>
void product(const uint8_t* first, const uint8_t* second, size_t blocks, const uint8_t* rows, size_t count,
             float* out) {
  const float* x = reinterpret_cast<const float*>(rows);
  group_product<Weights>(first, blocks, x, count, out);
  group_product<Weights>(second, blocks, x, count, out + kGroupRows);
}

template <typename Weights>
constexpr Form kFloats{32, kFloatBlock, copy_floats, product<Weights>};

bool supported() { return true; }

}  // namespace

const Path& portable_path() {
  static const Path path{"portable", supported,         swiglu,           attend<float>,   attend<Bfloat16>,
                         summarise,  {&kFloats<Mxfp4>}, {&kFloats<Int8>}, {&kFloats<Bf16>}};
  return path;
}

}  // namespace gpt_oss
