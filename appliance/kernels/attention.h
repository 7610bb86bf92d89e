// Grouped-query attention with sinks, a sliding window and rotary positions, over caches that it updates in place.
#pragma once

#include "paths.h"
#include "rows.h"

#include <vector>

namespace gpt_oss {

// Caches are (slots, kv_heads, capacity, head_dim) floats or bfloat16; capacity is a multiple of 16. Values are stored
// position by position. Keys are stored 16 positions side by side, (capacity / 16, head_dim, 16), so that one vector
// holds a dimension of 16 keys. With bfloat16, pairs of dimensions are interleaved (cache_layout.h).
// With a window a cache may be a ring: position p is stored at p % capacity. The ring must have room for all that the
// first token of a call sees and for the call's tokens: window - 1 + tokens.
struct AttentionShape {
  size_t heads, kv_heads, head_dim, capacity;
  size_t window;  // how many positions a token sees, itself included; 0: all

  size_t width() const { return (heads + 2 * kv_heads) * head_dim; }
};

// Neighbouring tokens of a call that have consecutive positions in one slot.
struct Segment {
  size_t slot, position;  // position: of the first token
  size_t token, count;    // the first token's place in the call, and how many there are
};

// Splits a call into the longest segments possible; slots and positions are given for each token.
std::vector<Segment> segments_of(const int32_t* slots, const int32_t* positions, size_t tokens);

struct AttentionInputs {
  const float* qkv;                      // (tokens, width)
  const std::vector<Segment>& segments;  // each of another slot
  const float* cosines;                  // (positions, head_dim / 2)
  const float* sines;
  const float* sinks;  // (heads,)
};

// Appends the tokens' keys and values to the caches and writes each token's attention result: (tokens, heads *
// head_dim). A token's result depends on nothing but itself and what comes before it in its slot. Item is float or
// Bfloat16; the latter rounds keys, after their rotation, and values. Everything is computed in float32.
template <typename Item>
void attention_layer(const Path& path, const AttentionShape& shape, const AttentionInputs& inputs, Item* keys,
                     Item* values, float* out, const RunPhases& run);

}  // namespace gpt_oss
