// AMX: bf16 tiles for many tokens (MXFP4 to bf16 is exact), the VNNI product for few.
#include "elementwise.h"
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

// bf16 bits of each code in both halves of the permutation table.
alignas(64) constexpr uint16_t kCodeBits[32] = {
    0x0000, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0, 0x0000, 0xbf00, 0xbf80,
    0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0, 0x0000, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040,
    0x4080, 0x40c0, 0x0000, 0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0};

// One group's block as a B tile: row p holds, for each of the 16 rows, the bf16 pair k = 2p, 2p + 1.
inline void unpack_block(const uint8_t* block, __m512i table, uint16_t* tile) {
  const __m512i e8m0 = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block)));
  const __m512i exponent = _mm512_slli_epi32(_mm512_sub_epi32(e8m0, _mm512_set1_epi32(127)), 7);
  const __m512i shift =
      _mm512_or_si512(_mm512_and_si512(exponent, _mm512_set1_epi32(0xffff)), _mm512_slli_epi32(exponent, 16));
  const __m512i magnitude = _mm512_set1_epi16(7);
  for (int j = 0; j < 4; ++j) {
    const __m512i codes = _mm512_loadu_si512(block + 16 + j * 64);
    // Only the low 5 bits of a word choose from the table, which repeats after 16 entries.
    const __m512i pairs[4] = {codes, _mm512_srli_epi16(codes, 4), _mm512_srli_epi16(codes, 8),
                              _mm512_srli_epi16(codes, 12)};
    for (int p = 0; p < 4; ++p) {
      const __mmask32 not_zero = _mm512_test_epi16_mask(pairs[p], magnitude);
      const __m512i bits = _mm512_permutexvar_epi16(pairs[p], table);
      _mm512_store_si512(tile + (4 * j + p) * 32, _mm512_mask_add_epi16(bits, not_zero, bits, shift));
    }
  }
}

// The same for 8-bit weights, which bf16 rounds (8 bits of mantissa).
inline void unpack_int8_block(const uint8_t* block, uint16_t* tile) {
  const __m512 scale = _mm512_castsi512_ps(_mm512_slli_epi32(
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(block))), 16));
  const __m512i byte = _mm512_set1_epi32(255), offset = _mm512_set1_epi32(kInt8Offset);
  for (int j = 0; j < 8; ++j) {
    const __m512i bytes = _mm512_loadu_si512(block + 32 + j * 64);
    __m512i bits[4];
    for (int i = 0; i < 4; ++i) {
      const __m512i q = _mm512_sub_epi32(_mm512_and_si512(_mm512_srli_epi32(bytes, 8 * i), byte), offset);
      const __m512i value = _mm512_castps_si512(_mm512_mul_ps(_mm512_cvtepi32_ps(q), scale));
      const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(value, 16), _mm512_set1_epi32(1));
      bits[i] = _mm512_srli_epi32(_mm512_add_epi32(value, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    }
    _mm512_store_si512(tile + 2 * j * 32, _mm512_or_si512(bits[0], _mm512_slli_epi32(bits[1], 16)));
    _mm512_store_si512(tile + (2 * j + 1) * 32, _mm512_or_si512(bits[2], _mm512_slli_epi32(bits[3], 16)));
  }
}

void tile_product(const uint16_t* first, const uint16_t* second, size_t blocks, const uint16_t* rows, size_t padded,
                  float* out, size_t stride) {
  configure_tiles();
  const size_t inner = blocks * kBlock, row_bytes = inner * sizeof(uint16_t), out_bytes = stride * sizeof(float);
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
    _tile_stored(0, out + t * stride, out_bytes);
    _tile_stored(1, out + t * stride + 16, out_bytes);
    _tile_stored(2, out + (t + 16) * stride, out_bytes);
    _tile_stored(3, out + (t + 16) * stride + 16, out_bytes);
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
    _tile_stored(0, out + t * stride, out_bytes);
    _tile_stored(1, out + t * stride + 16, out_bytes);
  }
  _tile_release();
}

void unpack_mxfp4(const uint8_t* group, size_t blocks, uint16_t* tiles) {
  const __m512i table = _mm512_load_si512(kCodeBits);
  for (size_t b = 0; b < blocks; ++b) unpack_block(group + b * kGroupBlockBytes, table, tiles + b * 512);
}

void unpack_int8(const uint8_t* group, size_t blocks, uint16_t* tiles) {
  for (size_t b = 0; b < blocks; ++b) unpack_int8_block(group + b * kInt8GroupBlockBytes, tiles + b * 512);
}

}  // namespace

const Path& amx_path() {
  static const Path path{"amx", supported, swiglu, quantise, to_bf16, vnni_mxfp4_product, vnni_int8_product, vnni_bf16_product, unpack_mxfp4,
                         unpack_int8, tile_product};
  return path;
}

}  // namespace gpt_oss
