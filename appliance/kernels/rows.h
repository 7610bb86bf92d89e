// Buffers of activations in the forms the products read.
#pragma once

#include "paths.h"
#include "phases.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <utility>
#include <vector>

namespace gpt_oss {

// The tokens of a call: first those that are decoded, then those of a prompt. The latter take bfloat16 products where the
// path has them. Either product gives every token the same bits whoever else is in the call; they differ from each other.
struct Tokens {
  size_t count;
  size_t few;  // so many take the products of few tokens

  Tokens(const Path& path, size_t count, size_t decoded)
      : count(count), few(path.multiplies_bf16() ? std::min(decoded, count) : count) {}
  size_t many() const { return count - few; }
};

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

// Aligned memory of one call, which the next call on this thread takes again: a prompt's activations take tens of megabytes
// a layer, and pages that come fresh from the kernel cost a twelfth of the time.
template <typename T>
class Scratch {
 public:
  explicit Scratch(size_t count) {
    const auto fits = [&](const Block& block) { return block.bytes >= count * sizeof(T); };
    const auto found = std::find_if(kept().begin(), kept().end(), fits);
    if (found != kept().end()) {
      block_ = std::move(*found);
      kept().erase(found);
    } else {
      block_ = {std::make_unique<Aligned<uint8_t>>(count * sizeof(T)), count * sizeof(T)};
    }
    data = reinterpret_cast<T*>(block_.memory->data);
  }
  ~Scratch() {
    if (kept().size() == kMostKept) kept().erase(kept().begin());  // the smallest
    const auto larger = [&](const Block& block) { return block.bytes >= block_.bytes; };
    kept().insert(std::find_if(kept().begin(), kept().end(), larger), std::move(block_));
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* data;

 private:
  static constexpr size_t kMostKept = 8;
  struct Block {
    std::unique_ptr<Aligned<uint8_t>> memory;
    size_t bytes = 0;
  };
  static std::vector<Block>& kept() {  // by rising size
    thread_local std::vector<Block> blocks;
    return blocks;
  }
  Block block_;
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
  Scratch<int8_t> values;
  Scratch<float> scale;
  Scratch<int32_t> sum;
  std::vector<const float*> sources;
};

}  // namespace gpt_oss
