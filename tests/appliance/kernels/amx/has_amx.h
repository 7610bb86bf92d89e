// Included before path_amx.cc: makes the processor and the kernel answer that AMX is there. The tile instructions are
// not changed; emulator.cc catches them where the processor has none.
//
// With AMX_WITHOUT_A_ROW in the environment, products leave out the last row: the tiles of sums (0 to 3, or 0 to 4 with as
// many sets of tokens) and of tokens (4 and 6) are configured with a row too few. A test that still passes then tests
// nothing.
#pragma once
#include <cpuid.h>
#include <immintrin.h>
#include <unistd.h>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

inline int gpt_oss_cpuid_with_amx(unsigned leaf, unsigned subleaf, unsigned* a, unsigned* b, unsigned* c, unsigned* d) {
  const int found = __get_cpuid_count(leaf, subleaf, a, b, c, d);
  if (leaf == 7 && subleaf == 0) *d |= 1u << 22 | 1u << 24 | 1u << 25;
  return found;
}
inline long gpt_oss_permission(long, int, int) { return 0; }
#define __get_cpuid_count gpt_oss_cpuid_with_amx
#define syscall gpt_oss_permission

inline void gpt_oss_tile_loadconfig(const void* config) {
  alignas(64) unsigned char loaded[64];
  std::memcpy(loaded, config, sizeof loaded);
  if (std::getenv("AMX_WITHOUT_A_ROW"))
    for (int tile : {0, 1, 2, 3, 4, 6}) --loaded[48 + tile];
  __asm__ volatile("" : : "r"(loaded) : "memory");  // gcc 12 declares only 8 of the 64 bytes as read
  _tile_loadconfig(loaded);
}
#define _tile_loadconfig gpt_oss_tile_loadconfig
