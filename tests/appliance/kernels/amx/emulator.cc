// AMX for processors without it: catches the illegal-instruction signal of each tile instruction, does what the
// instruction does (Intel SDM volume 2, "TILELOADD" and others) and continues after it. Real machine code runs, so the
// code that the compiler makes of the intrinsics is tested, too. It is slow: each instruction takes a signal.
#include <ucontext.h>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr int kTiles = 8, kTileRows = 16, kTileBytes = 64;

struct Tile {
  uint8_t rows[kTileRows][kTileBytes];
};
struct Unit {  // one per thread
  bool configured = false;
  int rows[kTiles] = {}, bytes[kTiles] = {};
  Tile tiles[kTiles];
};
thread_local Unit unit;
struct sigaction before;
std::atomic<uint64_t> instructions{0};

[[noreturn]] void refuse(const char* why) {
  std::fprintf(stderr, "AMX emulator: %s\n", why);
  std::abort();
}

float flushed(float x) {  // denormal numbers count as zeros, before and after
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7f800000u) == 0) bits &= 0x80000000u;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

float number(uint16_t bf16) {
  const uint32_t bits = static_cast<uint32_t>(bf16) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return flushed(x);
}

// A VEX instruction with a three-byte prefix, as far as tiles need it.
struct Instruction {
  const uint8_t* code;
  int map, vvvv, prefix, opcode, mod, reg, rm;
  bool rex_x, rex_b;
  explicit Instruction(const uint8_t* at)
      : code(at),
        map(at[1] & 31),
        vvvv(~(at[2] >> 3) & 15),
        prefix(at[2] & 3),
        opcode(at[3]),
        mod(at[4] >> 6),
        reg(at[4] >> 3 & 7),
        rm(at[4] & 7),
        rex_x(!(at[1] & 0x40)),
        rex_b(!(at[1] & 0x20)) {}
  bool of_tiles() const {
    return code[0] == 0xc4 && map == 2 && (opcode == 0x49 || opcode == 0x4b || opcode == 0x5c || opcode == 0x5e);
  }
};

uint64_t value_of(const greg_t* registers, int number) {
  static constexpr int kPlaces[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                      REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  return static_cast<uint64_t>(registers[kPlaces[number]]);
}

struct Memory {
  uint8_t* base;
  int64_t stride;  // the value of the index register; 0 without one
  int length;      // the length of the instruction
};

Memory memory_of(const Instruction& in, const greg_t* registers) {
  const uint8_t* at = in.code + 5;
  int base = in.rm;
  int64_t stride = 0;
  const bool indexed = in.rm == 4;
  if (indexed) {
    const uint8_t sib = *at++;
    const int index = (sib >> 3 & 7) + (in.rex_x ? 8 : 0);
    base = sib & 7;
    if (index != 4) stride = static_cast<int64_t>(value_of(registers, index)) << (sib >> 6);
  }
  if (in.mod == 0 && base == 5) refuse("an address without a base register");
  int64_t displacement = 0;
  if (in.mod == 1) displacement = static_cast<int8_t>(*at++);
  if (in.mod == 2) {
    int32_t wide;
    std::memcpy(&wide, at, sizeof wide);
    displacement = wide, at += sizeof wide;
  }
  const uint64_t address = value_of(registers, base + (in.rex_b ? 8 : 0)) + static_cast<uint64_t>(displacement);
  return {reinterpret_cast<uint8_t*>(address), stride, static_cast<int>(at - in.code)};
}

void configure(const uint8_t* config) {
  if (config[0] != 1) refuse("a palette other than 1");
  for (int t = 0; t < kTiles; ++t) {
    uint16_t bytes;
    std::memcpy(&bytes, config + 16 + 2 * t, sizeof bytes);
    if (bytes > kTileBytes || config[48 + t] > kTileRows) refuse("a tile that is too large");
    unit.bytes[t] = bytes, unit.rows[t] = config[48 + t];
  }
  std::memset(unit.tiles, 0, sizeof unit.tiles);
  unit.configured = true;
}

// C (rows, columns) += A (rows, pairs) * B (pairs, columns), where a pair is two bfloat16 numbers.
void multiply_bf16(int c, int a, int b) {
  for (int m = 0; m < unit.rows[c]; ++m) {
    float even[kTileRows] = {}, odd[kTileRows] = {};
    const int columns = unit.bytes[c] / 4;
    for (int k = 0; k < unit.bytes[a] / 4; ++k) {
      uint16_t left[2], right[2];
      std::memcpy(left, unit.tiles[a].rows[m] + 4 * k, sizeof left);
      for (int n = 0; n < columns; ++n) {
        std::memcpy(right, unit.tiles[b].rows[k] + 4 * n, sizeof right);
        even[n] = flushed(__builtin_fmaf(number(left[0]), number(right[0]), even[n]));
        odd[n] = flushed(__builtin_fmaf(number(left[1]), number(right[1]), odd[n]));
      }
    }
    for (int n = 0; n < columns; ++n) {
      float sum;
      std::memcpy(&sum, unit.tiles[c].rows[m] + 4 * n, sizeof sum);
      sum = flushed(flushed(sum) + flushed(even[n] + odd[n]));
      std::memcpy(unit.tiles[c].rows[m] + 4 * n, &sum, sizeof sum);
    }
  }
}

void transfer(const Instruction& in, const Memory& memory) {
  const bool stores = in.prefix == 2;
  Tile& tile = unit.tiles[in.reg];
  if (!stores) std::memset(&tile, 0, sizeof tile);
  for (int r = 0; r < unit.rows[in.reg]; ++r) {
    uint8_t* row = memory.base + r * memory.stride;
    if (stores)
      std::memcpy(row, tile.rows[r], static_cast<size_t>(unit.bytes[in.reg]));
    else
      std::memcpy(tile.rows[r], row, static_cast<size_t>(unit.bytes[in.reg]));
  }
}

// Does what the instruction does, and returns its length.
int carry_out(const Instruction& in, const greg_t* registers) {
  constexpr int kNone = 0, kF3 = 2, kF2 = 3, kRegisters = 3;
  if (in.opcode == 0x49 && in.prefix == kNone && in.mod != kRegisters) {
    const Memory memory = memory_of(in, registers);
    configure(memory.base);
    return memory.length;
  }
  if (!unit.configured) refuse("a tile instruction before the tiles were configured");
  if (in.opcode == 0x49 && in.prefix == kNone) {
    unit.configured = false;
    return 5;
  }
  if (in.opcode == 0x49 && in.prefix == kF2) {
    std::memset(&unit.tiles[in.reg], 0, sizeof(Tile));
    return 5;
  }
  if (in.opcode == 0x4b && in.prefix != kNone) {
    const Memory memory = memory_of(in, registers);
    transfer(in, memory);
    return memory.length;
  }
  if (in.opcode == 0x5c && in.prefix == kF3) {
    if (in.reg == in.rm || in.reg == in.vvvv || in.rm == in.vvvv) refuse("one tile twice in a product");
    if (unit.rows[in.vvvv] * 4 != unit.bytes[in.rm]) refuse("a product of tiles that do not fit");
    multiply_bf16(in.reg, in.rm, in.vvvv);
    return 5;
  }
  refuse("an instruction it does not know");
}

void on_illegal_instruction(int signal, siginfo_t*, void* context) {
  greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const Instruction in(reinterpret_cast<const uint8_t*>(registers[REG_RIP]));
  if (!in.of_tiles()) {
    sigaction(signal, &before, nullptr);  // the instruction runs again, and the earlier handler is called
    return;
  }
  ++instructions;
  registers[REG_RIP] += carry_out(in, registers);
}

[[gnu::constructor]] void install() {
  struct sigaction action = {};
  action.sa_sigaction = on_illegal_instruction;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGILL, &action, &before);
}

}  // namespace

// How many tile instructions were emulated.
extern "C" __attribute__((visibility("default"))) uint64_t amx_emulated_instructions() { return instructions; }
