// The few AVX-512 instructions that chain_machine.cc writes, as bytes: vectors of sixteen 32-bit
// words, masks, and the general registers of a loop over them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <vector>

namespace jax_mps::cpu {

enum class Gpr : uint8_t { rax = 0, rcx = 1, rdx = 2, rsi = 6, rdi = 7, r8, r9, r10, r11 };
struct Zmm {
  int n = -1;
};
struct Mask {
  int n = 0;  // 0 is no mask
};

// What an EVEX instruction is: opcode map, prefix (0 none, 1 66, 2 F3, 3 F2) and opcode.
struct Evex {
  uint8_t map, prefix, opcode;
};

class Assembler {
 public:
  std::vector<uint8_t> code;

  // f(y, a, b): y and b may be the mask that a comparison writes; `zero` clears what the mask
  // leaves out.
  void vector(Evex f, int y, int a, int b, Mask mask = {}, bool zero = false) {
    byte(0x62);
    byte(bit(~y, 3, 7) | bit(~b, 4, 6) | bit(~b, 3, 5) | bit(~y, 4, 4) | f.map);
    byte((~a & 15) << 3 | 4 | f.prefix);
    byte((zero ? 0x80 : 0) | 0x40 | bit(~a, 4, 3) | mask.n);
    byte(f.opcode);
    byte(0xc0 | (y & 7) << 3 | (b & 7));
  }
  void vector(Evex f, int y, int a, int b, uint8_t immediate) {
    vector(f, y, a, b);
    byte(immediate);
  }
  // The same with b in memory at [base + 4 * rcx], or at [base].
  void memory(Evex f, int y, int a, Gpr base, bool indexed, Mask mask = {}, bool zero = false) {
    int b = static_cast<int>(base);
    byte(0x62);
    byte(bit(~y, 3, 7) | 0x40 | bit(~b, 3, 5) | bit(~y, 4, 4) | f.map);
    byte((~a & 15) << 3 | 4 | f.prefix);
    byte((zero ? 0x80 : 0) | 0x40 | bit(~a, 4, 3) | mask.n);
    byte(f.opcode);
    byte((y & 7) << 3 | (indexed ? 4 : b & 7));
    if (indexed) byte(0x80 | static_cast<int>(Gpr::rcx) << 3 | (b & 7));
  }

  void load(Zmm y, Gpr base, Mask mask = {}) {
    memory({1, 0, 0x10}, y.n, 0, base, true, mask, mask.n != 0);
  }
  void store(Gpr base, Zmm x, Mask mask = {}) { memory({1, 0, 0x11}, x.n, 0, base, true, mask); }
  void broadcast(Zmm y, Gpr base) { memory({2, 1, 0x18}, y.n, 0, base, false); }
  void broadcast(Zmm y, uint32_t word) {  // by way of eax
    byte(0xb8);
    word32(word);
    vector({2, 1, 0x7c}, y.n, 0, 0);
  }
  void move(Zmm y, Zmm x, Mask mask = {}, bool zero = false) {
    vector({1, 1, 0x6f}, y.n, 0, x.n, mask, zero);
  }

  // Operations on masks: and 0x41, or 0x45, xnor 0x46, xor 0x47.
  void masks(uint8_t opcode, Mask y, Mask a, Mask b) {
    byte(0xc5);
    byte(0x84 | (~a.n & 15) << 3);
    byte(opcode);
    byte(0xc0 | y.n << 3 | b.n);
  }

  // r = ((char**)rdi)[index]
  void pointer(Gpr r, int index) {
    int n = static_cast<int>(r);
    byte(0x48 | (n >> 3) << 2);
    byte(0x8b);
    byte(0x80 | (n & 7) << 3 | static_cast<int>(Gpr::rdi));
    word32(static_cast<uint32_t>(index) * 8);
  }

  // for (rcx = 0; rcx + 16 <= rsi; rcx += 16) body(); then once for what is left, under mask 7.
  template <class Body, class Rest>
  void loop(const Body& body, const Rest& rest) {
    bytes({0x31, 0xc9});  // xor ecx, ecx
    size_t top = code.size();
    bytes({0x48, 0x8d, 0x41, 0x10});  // lea rax, [rcx + 16]
    bytes({0x48, 0x39, 0xf0});        // cmp rax, rsi
    size_t out = jump({0x0f, 0x8f});  // jg
    body();
    bytes({0x48, 0x83, 0xc1, 0x10});  // add rcx, 16
    land(jump({0xe9}), top);          // jmp
    land(out, code.size());
    bytes({0x48, 0x29, 0xce});              // sub rsi, rcx
    size_t end = jump({0x0f, 0x84});        // jz
    bytes({0xb8, 0xff, 0xff, 0xff, 0xff});  // mov eax, -1
    bytes({0xc4, 0xe2, 0x48, 0xf5, 0xc0});  // bzhi eax, eax, esi
    bytes({0xc5, 0xf8, 0x92, 0xf8});        // kmovw k7, eax
    rest();
    land(end, code.size());
    bytes({0xc5, 0xf8, 0x77, 0xc3});  // vzeroupper; ret
  }

 private:
  static int bit(int value, int from, int to) { return (value >> from & 1) << to; }
  void byte(int value) { code.push_back(static_cast<uint8_t>(value)); }
  void bytes(std::initializer_list<int> values) {
    for (int value : values) byte(value);
  }
  void word32(uint32_t value) {
    for (int i = 0; i < 4; i++) byte(static_cast<int>(value >> 8 * i & 255));
  }
  // A jump to be landed; gives where its distance stands.
  size_t jump(std::initializer_list<int> opcode) {
    bytes(opcode);
    word32(0);
    return code.size() - 4;
  }
  void land(size_t jump, size_t target) {
    auto distance = static_cast<uint32_t>(target - (jump + 4));
    for (int i = 0; i < 4; i++) code[jump + i] = static_cast<uint8_t>(distance >> 8 * i & 255);
  }
};

}  // namespace jax_mps::cpu
