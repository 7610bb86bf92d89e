#pragma once

#include <cstddef>
#include <cstdint>

namespace gpt_oss {

// Reads `size` bytes (a multiple of 64 * streams) in so many streams side by side, as the products read weights, and does
// nothing else. Returns the exclusive or of all words. What a benchmark times as the speed of memory.
uint64_t read_streams(const uint8_t* bytes, size_t size, size_t streams);

}  // namespace gpt_oss
