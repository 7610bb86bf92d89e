#include "reading.h"

#include "passes.h"

#include <cstring>

namespace gpt_oss {
namespace {

typedef uint64_t Words __attribute__((vector_size(16)));  // every processor has vectors of 128 bits

}  // namespace

uint64_t read_streams(const uint8_t* bytes, size_t size, size_t streams) {
  constexpr size_t kVectors = 64 / sizeof(Words);
  const size_t part = size / streams;
  Words all[kVectors] = {};  // independent of each other, so that none waits
  for (size_t at = 0; at < part; at += 64) {
    for (size_t stream = 0; stream < streams; ++stream) {
      const uint8_t* line = bytes + stream * part + at;
      prefetch_line(line);
      Words words[kVectors];
      std::memcpy(words, line, sizeof words);
      for (size_t v = 0; v < kVectors; ++v) all[v] ^= words[v];
    }
  }
  uint64_t result = 0;
  for (const Words& words : all) result ^= words[0] ^ words[1];
  return result;
}

}  // namespace gpt_oss
