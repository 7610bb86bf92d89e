// Included before path_amx.cc: makes the processor and the kernel answer that AMX is there. The tile instructions are
// not changed; emulator.cc catches them.
#pragma once
#include <cpuid.h>
#include <unistd.h>

inline int gpt_oss_cpuid_with_amx(unsigned leaf, unsigned subleaf, unsigned* a, unsigned* b, unsigned* c, unsigned* d) {
  const int found = __get_cpuid_count(leaf, subleaf, a, b, c, d);
  if (leaf == 7 && subleaf == 0) *d |= 1u << 22 | 1u << 24 | 1u << 25;
  return found;
}
inline long gpt_oss_permission(long, int, int) { return 0; }
#define __get_cpuid_count gpt_oss_cpuid_with_amx
#define syscall gpt_oss_permission
