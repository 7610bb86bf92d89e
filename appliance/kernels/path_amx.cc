// AMX: bf16 tiles for the tokens of prompts (MXFP4 to bf16 is exact), and products of bytes for decoded tokens.
#include "attention_core.h"
#include "bf16_products.h"
#include "bf16_tiles.h"
#include "elementwise.h"
#include "logits_core.h"
#include "vnni_bytes.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <algorithm>

namespace gpt_oss {
namespace {

constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
constexpr int kTileData = 18;               // XFEATURE_XTILEDATA

bool supported() {
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vnni"))
    return false;
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const bool has_tile = d & (1u << 24), has_bf16 = d & (1u << 22);
  return has_tile && has_bf16 && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_per_row[16] = {};
  uint8_t rows[16] = {};
};

void configure_tiles() {
  TileConfig config;
  for (int t = 0; t < 8; ++t) config.bytes_per_row[t] = 64, config.rows[t] = 16;
  __asm__ volatile("" : : "r"(&config) : "memory");  // gcc 12 declares only 8 of the 64 bytes as read
  _tile_loadconfig(&config);
}

// Whether the sums in tiles 0 .. 3 are loaded from `out` first, and whether they are stored there afterwards.
struct Sums {
  bool load, store;
};

// out (32 or 16, 32): two groups' tiles, `blocks` each, with as many rows, which are row_bytes apart.
template <bool kHigh>
void multiply_tiles(const uint16_t* first, const uint16_t* second, size_t blocks, const uint16_t* rows,
                    size_t row_bytes, const Sums& sums, float* out) {
  constexpr size_t kOutBytes = 32 * sizeof(float);
  const uint16_t* high = rows + 16 * (row_bytes / sizeof(uint16_t));
  if (sums.load) {
    _tile_loadd(0, out, kOutBytes);
    _tile_loadd(1, out + 16, kOutBytes);
    if constexpr (kHigh) {
      _tile_loadd(2, out + 16 * 32, kOutBytes);
      _tile_loadd(3, out + 16 * 32 + 16, kOutBytes);
    }
  }
  for (size_t b = 0; b < blocks; ++b) {
    _tile_loadd(4, rows + b * kBlock, row_bytes);
    _tile_loadd(6, first + b * 512, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, second + b * 512, 64);
    _tile_dpbf16ps(1, 4, 7);
    if constexpr (kHigh) {
      _tile_loadd(5, high + b * kBlock, row_bytes);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  if (sums.store) {
    _tile_stored(0, out, kOutBytes);
    _tile_stored(1, out + 16, kOutBytes);
    if constexpr (kHigh) {
      _tile_stored(2, out + 16 * 32, kOutBytes);
      _tile_stored(3, out + 16 * 32 + 16, kOutBytes);
    }
  }
}

void zero_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

// The blocks from `at` on, whose tiles are given, with all rows (padded, inner).
void multiply_slice(const uint16_t* first, const uint16_t* second, size_t at, size_t blocks, size_t inner,
                    const uint16_t* rows, size_t padded, float* out) {
  const bool begins = at == 0, ends = (at + blocks) * kBlock == inner, stays = padded <= 32;  // in the tiles throughout
  const Sums sums{!begins && !stays, ends || !stays};
  for (size_t t = 0; t < padded; t += 32) {
    if (begins) zero_sums();
    const auto multiply = t + 32 <= padded ? multiply_tiles<true> : multiply_tiles<false>;
    multiply(first, second, blocks, rows + t * inner + at * kBlock, inner * sizeof(uint16_t), sums, out + t * 32);
  }
}

// A slice of both groups' tiles stays in the first-level cache while all rows (count, a multiple of 16) pass. With
// whole groups the tiles of weights would come from the second-level cache, as those of activations do. Each product
// reads one tile, and the second level delivers at most one in that time. tiles_of(group, blocks, at, count, room)
// returns a group's `count` blocks from `at` on.
template <typename TilesOf>
void tile_products(const TilesOf& tiles_of, const uint8_t* first, const uint8_t* second, size_t blocks,
                   const uint8_t* rows, size_t count, float* out) {
  constexpr size_t kTileSlice = 8;
  alignas(64) uint16_t room[2][kTileSlice * 512];
  configure_tiles();
  for (size_t at = 0; at < blocks; at += kTileSlice) {
    const size_t slice = std::min(kTileSlice, blocks - at);
    const uint16_t* of_first = tiles_of(first, blocks, at, slice, room[0]);
    const uint16_t* of_second = tiles_of(second, blocks, at, slice, room[1]);
    __asm__ volatile("" : : : "memory");  // GCC does not know that tile instructions read memory
    multiply_slice(of_first, of_second, at, slice, blocks * kBlock, reinterpret_cast<const uint16_t*>(rows), count,
                   out);
  }
  _tile_release();
}

void mxfp4_tiles(const uint8_t* first, const uint8_t* second, size_t blocks, const uint8_t* rows, size_t count,
                 float* out) {
  tile_products(unpack_mxfp4, first, second, blocks, rows, count, out);
}

void int8_tiles(const uint8_t* first, const uint8_t* second, size_t blocks, const uint8_t* rows, size_t count,
                float* out) {
  tile_products(unpack_int8, first, second, blocks, rows, count, out);
}

void bf16_tiles(const uint8_t* first, const uint8_t* second, size_t blocks, const uint8_t* rows, size_t count,
                float* out) {
  const auto in_place = [](const uint8_t* group, size_t, size_t at, size_t, uint16_t*) {
    return reinterpret_cast<const uint16_t*>(group + at * kBf16.code_bytes);
  };
  tile_products(in_place, first, second, blocks, rows, count, out);
}

constexpr Form prompt_form(decltype(Form::product) product) {
  return {16, kBlock * sizeof(uint16_t), convert_to_bf16, product, nullptr, 16};
}
constexpr Form kMxfp4Prompt = prompt_form(mxfp4_tiles), kInt8Prompt = prompt_form(int8_tiles),
               kBf16Prompt = prompt_form(bf16_tiles);

}  // namespace

const Path& amx_path() {
  static const Path path{"amx",
                         supported,
                         swiglu,
                         attend<float>,
                         attend<Bfloat16>,
                         summarise,
                         {&kExact<Mxfp4Bytes>, &kMxfp4Prompt},
                         {&kExact<Int8Bytes>, &kInt8Prompt},
                         {&kBf16Exact, &kBf16Prompt}};
  return path;
}

}  // namespace gpt_oss
