// Products of packed weights with a prompt's activations, both as bfloat16 tiles (AMX). Internal linkage on purpose:
// every path compiles its own copy.
//
// Rows stand in sets of 16 (Form), so a block of a set is a tile of 1 KiB. The sums of all sets that pass together
// are in tile registers from the first block to the last. While a block is multiplied, the vector units make the next
// block's tile of weights: two tiles per group, used in turns. With more of them, which together with the activations
// fill the first-level cache, nothing overlaps (measured on a Xeon of the fifth generation: 200 cycles a block instead
// of 140).
//
// A tile register is zeroed after its last use. That costs nothing, and frees its renamed copy. For some milliseconds at a
// time, probably while another machine's thread on the same core had tiles, a product took 70 cycles without it and 47
// with it.
#pragma once

#include "bf16_tiles.h"
#include "passes.h"
#include "paths.h"
#include "rows.h"

#include <immintrin.h>

namespace gpt_oss {
namespace {

constexpr size_t kTileRows = 16, kTileNumbers = 512, kTileBytes = 1024;
constexpr int kMostSets = 6;        // sets of rows that pass one group together: register t has the sums of set t
constexpr int kMostSetsOfPair = 2;  // and a pair of groups: 2t and 2t + 1 have the sums of set t
constexpr size_t kOutRow = 2 * kGroupRows;  // sums of a pair of groups

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_per_row[16] = {};
  uint8_t rows[16] = {};
};

inline void configure_tiles() {
  TileConfig config;
  for (int t = 0; t < 8; ++t) config.bytes_per_row[t] = 64, config.rows[t] = kTileRows;
  __asm__ volatile("" : : "r"(&config) : "memory");  // gcc 12 declares only 8 of the 64 bytes as read
  _tile_loadconfig(&config);
}

// The intrinsics take numbers of registers as they are written, so these steps cannot be loops.
inline void zero_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
}

// A block of kSets sets of rows, `apart` bytes from each other, with its weights.
template <int kSets>
inline void multiply_group(const uint8_t* rows, size_t apart, const uint16_t* weights) {
  _tile_loadd(7, weights, 64);
  _tile_loadd(6, rows, 64);
  _tile_dpbf16ps(0, 6, 7);
  if constexpr (kSets > 1) {
    _tile_loadd(6, rows + apart, 64);
    _tile_dpbf16ps(1, 6, 7);
  }
  if constexpr (kSets > 2) {
    _tile_loadd(6, rows + 2 * apart, 64);
    _tile_dpbf16ps(2, 6, 7);
  }
  if constexpr (kSets > 3) {
    _tile_loadd(6, rows + 3 * apart, 64);
    _tile_dpbf16ps(3, 6, 7);
  }
  if constexpr (kSets > 4) {
    _tile_loadd(6, rows + 4 * apart, 64);
    _tile_dpbf16ps(4, 6, 7);
  }
  if constexpr (kSets > 5) {
    _tile_loadd(6, rows + 5 * apart, 64);
    _tile_dpbf16ps(5, 6, 7);
  }
  _tile_zero(6);
  _tile_zero(7);
}

// The same with the weights of two groups.
template <int kSets>
inline void multiply_pair(const uint8_t* rows, size_t apart, const uint16_t* first, const uint16_t* second) {
  _tile_loadd(6, rows, 64);
  _tile_loadd(7, first, 64);
  _tile_loadd(5, second, 64);
  if constexpr (kSets > 1) _tile_loadd(4, rows + apart, 64);
  _tile_dpbf16ps(0, 6, 7);
  _tile_dpbf16ps(1, 6, 5);
  if constexpr (kSets > 1) {
    _tile_dpbf16ps(2, 4, 7);
    _tile_dpbf16ps(3, 4, 5);
    _tile_zero(4);
  }
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
}

template <int kSets>
inline void store_group(float* out) {
  constexpr size_t kRowBytes = kOutRow * sizeof(float), kSet = kTileRows * kOutRow;
  _tile_stored(0, out, kRowBytes);
  if constexpr (kSets > 1) _tile_stored(1, out + kSet, kRowBytes);
  if constexpr (kSets > 2) _tile_stored(2, out + 2 * kSet, kRowBytes);
  if constexpr (kSets > 3) _tile_stored(3, out + 3 * kSet, kRowBytes);
  if constexpr (kSets > 4) _tile_stored(4, out + 4 * kSet, kRowBytes);
  if constexpr (kSets > 5) _tile_stored(5, out + 5 * kSet, kRowBytes);
}

template <int kSets>
inline void store_pair(float* out) {
  constexpr size_t kRowBytes = kOutRow * sizeof(float);
  _tile_stored(0, out, kRowBytes);
  _tile_stored(1, out + kGroupRows, kRowBytes);
  if constexpr (kSets > 1) {
    _tile_stored(2, out + kTileRows * kOutRow, kRowBytes);
    _tile_stored(3, out + kTileRows * kOutRow + kGroupRows, kRowBytes);
  }
}

// GCC does not know that tile instructions read memory.
inline void finish_stores() { __asm__ volatile("" : : : "memory"); }

// out (16 kSets, 32): one group with kSets sets of rows. Block b's tile of weights is made at room[b] if `keeps`,
// otherwise at room[b % 2].
template <typename Weights, int kSets>
[[gnu::noinline]] void group_pass(const uint8_t* group, size_t blocks, const uint8_t* rows, uint16_t* room, bool keeps,
                                  float* out) {
  const size_t mask = keeps ? ~size_t{0} : size_t{1};
  zero_sums();
  const uint16_t* tile = Weights::tile(group, blocks, 0, kAhead, room);
  for (size_t b = 0; b < blocks; ++b, rows += kTileBytes) {
    const size_t next = b + 1;
    const uint16_t* tile_of_next =
        next < blocks ? Weights::tile(group, blocks, next, kAhead, room + (next & mask) * kTileNumbers) : tile;
    finish_stores();
    multiply_group<kSets>(rows, blocks * kTileBytes, tile);
    tile = tile_of_next;
  }
  store_group<kSets>(out);
}

// The same for both groups of a pair, which saves loads of rows.
template <typename Weights, int kSets>
[[gnu::noinline]] void pair_pass(const uint8_t* first, const uint8_t* second, size_t blocks, const uint8_t* rows,
                                 float* out) {
  alignas(64) uint16_t room[2][2][kTileNumbers];
  zero_sums();
  const uint16_t *tile = Weights::tile(first, blocks, 0, kAhead, room[0][0]),
                 *other = Weights::tile(second, blocks, 0, kAhead, room[0][1]);
  for (size_t b = 0; b < blocks; ++b, rows += kTileBytes) {
    const uint16_t *tile_of_next = tile, *other_of_next = other;
    if (const size_t next = b + 1; next < blocks) {
      const size_t left = (blocks - next) * Weights::kLayout.code_bytes,
                   ahead = ahead_in_groups<2>(left, Weights::kLayout.bytes(blocks));
      tile_of_next = Weights::tile(first, blocks, next, ahead, room[next % 2][0]);
      other_of_next = Weights::tile(second, blocks, next, ahead, room[next % 2][1]);
    }
    finish_stores();
    multiply_pair<kSets>(rows, blocks * kTileBytes, tile, other);
    tile = tile_of_next, other = other_of_next;
  }
  store_pair<kSets>(out);
}

// out (count, 32): a pair of groups with rows (count, inner); count is a multiple of 16. Rows that need several passes
// find the tiles of the first pass in the second-level cache.
template <typename Weights>
void tile_product(const uint8_t* first, const uint8_t* second, size_t blocks, const uint8_t* rows, size_t count,
                  float* out) {
  const size_t sets = count / kTileRows;
  configure_tiles();
  if (sets <= kMostSetsOfPair) {
    with_count<kMostSetsOfPair>(sets, 0,
                                [&](auto n, size_t) { pair_pass<Weights, n>(first, second, blocks, rows, out); });
  } else {
    const bool keeps = sets > kMostSets && !Weights::kInPlace;
    const Scratch<uint16_t> room((keeps ? blocks : 2) * kTileNumbers);
    for (const uint8_t* group : {first, second}) {
      const uint8_t* tiles = Weights::kInPlace ? group : reinterpret_cast<const uint8_t*>(room.data);
      in_passes<kMostSets>(sets, [&](auto n, size_t set) {
        const uint8_t* from = rows + set * blocks * kTileBytes;
        float* to = out + set * kTileRows * kOutRow + (group == first ? 0 : kGroupRows);
        if (set == 0)
          group_pass<Weights, n>(group, blocks, from, room.data, keeps, to);
        else
          group_pass<TilesInPlace, n>(tiles, blocks, from, nullptr, false, to);
      });
    }
  }
  _tile_release();
}

}  // namespace
}  // namespace gpt_oss
