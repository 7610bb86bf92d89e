// Grouped-query attention with sinks, a sliding window and rotary positions, over caches that it updates in place.
#pragma once

#include "paths.h"
#include "rows.h"

namespace gpt_oss {

// Caches are (batch, kv_heads, capacity, head_dim) floats, capacity a multiple of 16. Values lie as that says. Keys are
// kept 16 positions side by side: (capacity / 16, head_dim, 16), so that one vector holds a dimension of 16 keys. With a
// window a cache may be a ring: position p lies where p % capacity says. It must then hold what the first token of a call
// sees when its last is there, too: window - 1 + tokens.
struct AttentionShape {
  size_t heads, kv_heads, head_dim, capacity;
  size_t window;  // positions a token sees, itself included; 0: all

  size_t width() const { return (heads + 2 * kv_heads) * head_dim; }
};

struct AttentionInputs {
  const float* qkv;      // (batch, tokens, width)
  const int32_t* last;   // (batch,): position of each row's last token
  const float* cosines;  // (positions, head_dim / 2)
  const float* sines;
  const float* sinks;  // (heads,)
  size_t batch, tokens;
};

// Appends the tokens' keys and values to the caches and writes what each token attends to: (batch, tokens, heads *
// head_dim). A token's result depends on nothing but itself and what stands before it.
void attention_layer(const Path& path, const AttentionShape& shape, const AttentionInputs& inputs, float* keys,
                     float* values, float* out, const RunPhases& run);

}  // namespace gpt_oss
