// Grouped-query attention with sinks, a sliding window and rotary positions, over caches that it updates in place.
#pragma once

#include "paths.h"
#include "rows.h"

#include <vector>

namespace gpt_oss {

// Caches are (slots, kv_heads, capacity, head_dim) floats, capacity a multiple of 16. Values lie as that says. Keys are
// kept 16 positions side by side: (capacity / 16, head_dim, 16), so that one vector holds a dimension of 16 keys. With a
// window a cache may be a ring: position p lies where p % capacity says. It must then hold what the first token of a call
// sees when its last is there, too: window - 1 + tokens.
struct AttentionShape {
  size_t heads, kv_heads, head_dim, capacity;
  size_t window;  // positions a token sees, itself included; 0: all

  size_t width() const { return (heads + 2 * kv_heads) * head_dim; }
};

// Neighbouring tokens of a call that follow each other in one slot.
struct Segment {
  size_t slot, position;  // of the first
  size_t token, count;    // where they lie in the call
};

// The segments of a call, the longest there are; slots and positions are the tokens'.
std::vector<Segment> segments_of(const int32_t* slots, const int32_t* positions, size_t tokens);

struct AttentionInputs {
  const float* qkv;                      // (tokens, width)
  const std::vector<Segment>& segments;  // of as many slots
  const float* cosines;                  // (positions, head_dim / 2)
  const float* sines;
  const float* sinks;  // (heads,)
};

// Appends the tokens' keys and values to the caches and writes what each token attends to: (tokens, heads * head_dim). A
// token's result depends on nothing but itself and what stands before it.
void attention_layer(const Path& path, const AttentionShape& shape, const AttentionInputs& inputs, float* keys,
                     float* values, float* out, const RunPhases& run);

}  // namespace gpt_oss
