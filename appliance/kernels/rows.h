// Buffers of activations in the forms that the products read (paths.h).
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

// The tokens of a call: first those that are decoded, then those of a prompt. The latter use the form for prompts if the
// path has one for these weights. Each of the two forms gives a token the same bits whatever other tokens are in the
// call; the two differ from each other.
struct Tokens {
  size_t count;
  size_t decoded;  // at most `count`
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

// Aligned memory of one call, which the next call on this thread uses again. A prompt's activations take tens of
// megabytes per layer, and fresh pages from the kernel would cost a twelfth of the time. A block that is too small is
// replaced by a larger one, so there are never more blocks than one call uses at once, whatever sizes are asked for.
template <typename T>
class Scratch {
 public:
  explicit Scratch(size_t count) {
    if (count == 0) return;
    const auto fits = [&](const Block& block) { return block.bytes >= count * sizeof(T); };
    const auto found = std::find_if(kept().begin(), kept().end(), fits);
    if (found != kept().end()) {
      block_ = std::move(*found);
      kept().erase(found);
    } else {
      if (!kept().empty()) kept().pop_back();  // the largest one is too small
      block_ = {std::make_unique<Aligned<uint8_t>>(count * sizeof(T)), count * sizeof(T)};
    }
    data = reinterpret_cast<T*>(block_.memory->data);
  }
  ~Scratch() {
    if (!data) return;
    const auto larger = [&](const Block& block) { return block.bytes >= block_.bytes; };
    kept().insert(std::find_if(kept().begin(), kept().end(), larger), std::move(block_));
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* data = nullptr;

 private:
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

// Memory for rows of activations in a form. The form may be null if there are no rows.
class FormBuffer {
 public:
  FormBuffer(const Form* form, size_t rows, size_t width)
      : form_(form), blocks_(width / kBlock), bytes_(form ? rows * row_bytes() : 0) {}
  void set(size_t row, const float* x) {
    if (form_->together == 1) return form_->convert(x, blocks_, at(row));
    for (size_t b = 0; b < blocks_; ++b) form_->convert(x + b * kBlock, 1, at(row) + b * stride());
  }
  void clear(size_t row) {
    for (size_t b = 0; b < blocks_; ++b) std::memset(at(row) + b * stride(), 0, form_->block_bytes);
  }
  // A row's first block; of the first row of a set, this is where the set begins.
  uint8_t* at(size_t row) const {
    const size_t place = row % form_->together;
    return bytes_.data + (row - place) * row_bytes() + place * form_->block_bytes;
  }

 private:
  size_t row_bytes() const { return blocks_ * form_->block_bytes; }
  size_t stride() const { return form_->together * form_->block_bytes; }
  const Form* form_;
  const size_t blocks_;
  Scratch<uint8_t> bytes_;
};

}  // namespace gpt_oss
