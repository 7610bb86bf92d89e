// AMX: bf16 tiles for the tokens of prompts (MXFP4 to bf16 is exact), the VNNI products for decoded ones.
#include "attention_core.h"
#include "bf16_tiles.h"
#include "elementwise.h"
#include "logits_core.h"
#include "vnni.h"

#include <cstring>
#include <sys/syscall.h>
#include <unistd.h>
#include <cpuid.h>

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

void tile_product(const uint16_t* first, const uint16_t* second, size_t blocks, const uint16_t* rows, size_t padded,
                  float* out) {
  configure_tiles();
  const size_t inner = blocks * kBlock, row_bytes = inner * sizeof(uint16_t), out_bytes = 32 * sizeof(float);
  size_t t = 0;
  for (; t + 32 <= padded; t += 32) {
    const uint16_t* low = rows + t * inner;
    const uint16_t* high = low + 16 * inner;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (size_t b = 0; b < blocks; ++b) {
      _tile_loadd(4, low + b * kBlock, row_bytes);
      _tile_loadd(6, first + b * 512, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, second + b * 512, 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, high + b * kBlock, row_bytes);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, out + t * 32, out_bytes);
    _tile_stored(1, out + t * 32 + 16, out_bytes);
    _tile_stored(2, out + (t + 16) * 32, out_bytes);
    _tile_stored(3, out + (t + 16) * 32 + 16, out_bytes);
  }
  if (t < padded) {
    const uint16_t* low = rows + t * inner;
    _tile_zero(0);
    _tile_zero(1);
    for (size_t b = 0; b < blocks; ++b) {
      _tile_loadd(4, low + b * kBlock, row_bytes);
      _tile_loadd(6, first + b * 512, 64);
      _tile_loadd(7, second + b * 512, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
    }
    _tile_stored(0, out + t * 32, out_bytes);
    _tile_stored(1, out + t * 32 + 16, out_bytes);
  }
  _tile_release();
}

}  // namespace

const Path& amx_path() {
  static const Path path{"amx",
                         supported,
                         swiglu,
                         quantise,
                         to_bf16,
                         attend,
                         summarise,
                         mxfp4_product,
                         int8_product,
                         bf16_product,
                         nullptr,
                         unpack_mxfp4,
                         unpack_int8,
                         tile_product,
                         16};
  return path;
}

}  // namespace gpt_oss
