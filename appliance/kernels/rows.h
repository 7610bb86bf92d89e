// Buffers of activations in the forms the products read.
#pragma once

#include "paths.h"
#include "phases.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

namespace gpt_oss {

// Which products a call takes: bfloat16 ones, where the path has them, or those of few tokens. Either gives every token the
// same bits whoever else is in the call; they differ from each other. So the engine says which: a prompt takes the first
// however it is cut, a decode step the second however many take part.
enum class Products : int { kByCount = 0, kFew = 1, kMany = 2 };
constexpr size_t kMatrixTokens = 16;  // by count: the most for which few is chosen

inline bool use_matrix(const Path& path, Products products, size_t tokens) {
  if (path.tile_product == nullptr) return false;
  return products == Products::kByCount ? tokens > kMatrixTokens : products == Products::kMany;
}

template <typename T>
struct Aligned {
  explicit Aligned(size_t count) : data(static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 127) / 64 * 64))) {
    if (!data) throw std::bad_alloc();
  }
  ~Aligned() { std::free(data); }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;
  T* data;
};

struct QuantisedRows {
  QuantisedRows(size_t rows, size_t width)
      : blocks(width / kBlock), values(2 * rows * width), scale(rows * blocks), sum(rows * blocks), sources(rows) {}
  // `interleave`: in the order the MXFP4 products read. x must live as long as the row is used.
  void quantise(const Path& path, size_t row, const float* x, bool interleave) {
    sources[row] = x;
    if (path.quantise == nullptr) return;
    int8_t* to = values.data + 2 * row * blocks * kBlock;
    path.quantise(x, blocks, to, scale.data + row * blocks, sum.data + row * blocks);
    if (!interleave) return;
    for (int8_t* end = to + 2 * blocks * kBlock; to != end; to += 8) {
      int8_t from[8];
      std::memcpy(from, to, sizeof from);
      for (size_t i = 0; i < 8; ++i) to[kInterleave[i]] = from[i];
    }
  }
  QuantisedRow row(size_t i) const {
    return {sources[i], values.data + 2 * i * blocks * kBlock, scale.data + i * blocks, sum.data + i * blocks};
  }
  size_t blocks;
  Aligned<int8_t> values;
  Aligned<float> scale;
  Aligned<int32_t> sum;
  std::vector<const float*> sources;
};

}  // namespace gpt_oss
