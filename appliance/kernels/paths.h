// Weights packed for streaming, and the row-group products that every path (instruction set) implements.
//
// A group has 16 rows: first the scales of all its blocks of 32 in the inner dimension, then their codes (GroupLayout).
//
// MXFP4: a block has 16 E8M0 scales, one per row, and four chunks of codes. Word r of chunk j has the codes of row r at
// k = 8j + 0, 2, 4, 6, 1, 3, 5, 7, the first in the lowest nibble. Two-way products and matrix tiles shift its halves
// right by 4p, which leaves the pair 8j + 2p, 8j + 2p + 1 in them. Four-way products take the low nibbles of its bytes,
// which are k = 8j + 0, 4, 1, 5, and the high ones, which are k = 8j + 2, 6, 3, 7.
// This is a permutation of the checkpoint's bytes: nothing is rounded.
#pragma once

#include "bfloat16.h"

#include <cstddef>
#include <cstdint>

namespace gpt_oss {

constexpr size_t kGroupRows = 16;
constexpr size_t kBlock = 32;
constexpr size_t kLineBytes = 64;  // the size of a cache line

// Where a group stores its scales and codes. Scales are padded to whole lines, so that no vector of codes crosses a
// line: a kernel that loads such vectors takes half as long again.
struct GroupLayout {
  size_t scale_bytes, code_bytes;  // per block
  constexpr size_t codes_at(size_t blocks) const {
    return (blocks * scale_bytes + kLineBytes - 1) / kLineBytes * kLineBytes;
  }
  constexpr size_t bytes(size_t blocks) const { return codes_at(blocks) + blocks * code_bytes; }
};
constexpr GroupLayout kMxfp4{16, 256};

// 8-bit weights: a block has 16 bfloat16 scales and eight chunks of 64 bytes; byte 4*r + i of chunk j is row r at
// k = 4j + i, plus 128 so that it is unsigned.
constexpr GroupLayout kInt8{32, 512};
constexpr int kInt8Offset = 128;

// bfloat16 weights: no scales; element 32*p + 2*r + i of a block is row r at k = 2p + i, which is an AMX tile.
constexpr GroupLayout kBf16{0, 1024};

// The gated activation of gpt-oss.
struct SwiGlu {
  float alpha;
  float limit;
};

constexpr size_t kMaxRows = 8;  // the most tokens or queries that pass together if weights or keys are floats

constexpr size_t kLogitBlock = 64;

constexpr size_t kKeyBlock = 16;  // positions whose keys are stored side by side (attention.h)

// What queries have attended to so far: the largest score, and the sums of exp(score - largest) and of the values
// multiplied by it. The exact result does not depend on how positions are divided, the rounding does.
struct AttendedSums {
  float* largest;  // (queries,)
  float* totals;   // (queries,)
  float* values;   // (queries, head_dim)
};

// One token's queries over the positions first .. end - 1 of one key/value head, at most kMaxRows queries at a time.
// Position p is stored at p % capacity, and end - first is at most capacity. Item is float or Bfloat16.
template <typename Item>
struct Attend {
  const float* q;  // (head_dim, queries), rotated and scaled
  size_t queries, head_dim, capacity;
  const Item* keys;  // capacity * head_dim, in the order of cache_layout.h
  const Item* values;
  size_t first, end;
  size_t ahead;   // the keys of so many positions later are fetched, because they are needed next; 0: none
  float* scores;  // room for kMaxRows * (end - first + 2 * kKeyBlock)
  AttendedSums sums;
};

// A form of activations for one kind of weights, and the products that read it. A product takes two neighbouring groups,
// which are 32 weight rows, and any number of tokens, rows (count, blocks): out[t * 32 + r] = sum_k weight[r, k] * x[t, k].
// A token gets the same bits whatever other tokens are in the call. Rows are stored in sets of `together`: first the
// first block of each row of a set, then the second of each, and so on.
struct Form {
  int bits;            // per activation: 32 (not rounded), 16 or 8; 16 for bfloat16, too, whose mantissa has 8
  size_t block_bytes;  // the size of a block of activations
  void (*convert)(const float* x, size_t blocks, uint8_t* out);  // converts neighbouring blocks of a row
  void (*product)(const uint8_t* first, const uint8_t* second, size_t blocks, const uint8_t* rows, size_t count,
                  float* out);
  // The same with four neighbouring groups and one token, out (64,). Null where that is no faster.
  void (*four)(const uint8_t* first, size_t blocks, const uint8_t* row, float* out) = nullptr;
  size_t together = 1;  // the product takes whole sets of rows
  size_t padded(size_t count) const { return (count + together - 1) / together * together; }
};

// The forms for one kind of weights. Decoded tokens use `exact`. `prompt` is faster and rounds more: 8-bit weights are
// rounded to bfloat16, too, if its activations are. It is null where `exact` is as fast.
struct Forms {
  const Form* exact;
  const Form* prompt = nullptr;
};

struct Path {
  const char* name;
  bool (*supported)();

  // 16 outputs of each of `count` rows, `stride` apart. sums (count, 32) and biases (32,): the gates, then the ups.
  void (*swiglu)(const SwiGlu& form, const float* sums, const float* biases, size_t count, float* out, size_t stride);
  void (*attend)(const Attend<float>& attend);
  void (*attend_bfloat16)(const Attend<Bfloat16>& attend);
  // maxima: the largest of each kLogitBlock logits; largest: of all `count`; sum: of exp(x - largest).
  void (*summarise)(const float* x, size_t count, float* maxima, float* largest, float* sum);

  Forms mxfp4, int8, bf16;  // by the kind of weights
};

const Path& portable_path();
#if defined(__x86_64__)
const Path& avx2_path();
const Path& avxvnni_path();
const Path& vnni_path();
const Path& amx_path();
const Path& avx512bf16_path();
#endif

}  // namespace gpt_oss
