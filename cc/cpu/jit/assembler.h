// The vector instructions that segment.cc writes, as bytes: what both instruction sets share,
// and what each has in its own way. A vector holds 32-bit words.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <vector>

namespace jax_mps::cpu {

enum class Gpr : uint8_t { rax = 0, rcx = 1, rdx = 2, rsp = 4, rsi = 6, rdi = 7, r8, r9, r10, r11 };
struct Vec {
  int n = -1;
};
// True and false of each lane: in a mask register with AVX-512 (1 is for use within a step, 7 the
// tail's), in a vector of ones and zeros with AVX2.
struct Mask {
  int n = 0;
};

// The last operand of an instruction.
struct Operand {
  enum class Kind : uint8_t { vector, block, element, slot, constant };
  Kind kind;
  int n;
  Operand(Vec v) : kind(Kind::vector), n(v.n) {}
  static Operand block(Gpr base) { return {Kind::block, static_cast<int>(base)}; }  // [base + 4rcx]
  static Operand element(Gpr base) { return {Kind::element, static_cast<int>(base)}; }  // [base]
  static Operand slot(int n) { return {Kind::slot, n}; }          // the n-th vector of the stack
  static Operand constant(int n) { return {Kind::constant, n}; }  // the n-th of the pool

 private:
  Operand(Kind kind, int n) : kind(kind), n(n) {}
};

// Opcode map, prefix (0 none, 1 66, 2 F3, 3 F2) and opcode, which VEX and EVEX share.
struct Opcode {
  uint8_t map, prefix, opcode;
};
namespace opcodes {
constexpr Opcode add{1, 0, 0x58}, sub{1, 0, 0x5c}, mul{1, 0, 0x59}, div{1, 0, 0x5e},
    min{1, 0, 0x5d}, max{1, 0, 0x5f}, sqrt{1, 0, 0x51}, round{3, 1, 0x08};
constexpr Opcode add_s32{1, 1, 0xfe}, sub_s32{1, 1, 0xfa}, mul_s32{2, 1, 0x40}, min_s32{2, 1, 0x39},
    max_s32{2, 1, 0x3d}, min_u32{2, 1, 0x3b}, max_u32{2, 1, 0x3f}, abs_s32{2, 1, 0x1e},
    f32_of_s32{1, 0, 0x5b}, truncate{1, 2, 0x5b};
constexpr Opcode bit_and{1, 1, 0xdb}, bit_or{1, 1, 0xeb}, bit_xor{1, 1, 0xef},
    shift_left{2, 1, 0x47}, shift_right_logical{2, 1, 0x45}, shift_right_arithmetic{2, 1, 0x46};
// y = a * y + b, a * y - b, b - a * y; y = a * b + y, y - a * b
constexpr Opcode multiply_add{2, 1, 0xa8}, multiply_sub{2, 1, 0xaa}, multiply_rsub{2, 1, 0xac},
    add_product{2, 1, 0xb8}, sub_product{2, 1, 0xbc};
}  // namespace opcodes

// Comparisons, by their number for integers; floats have the ordered one, but unordered for ne.
enum class Compare : uint8_t { eq = 0, lt = 1, le = 2, ne = 4, ge = 5, gt = 6 };
enum class Logic : uint8_t { bit_and, bit_or, bit_xor };

// Which vectors of a block a loop's body is for: one; one of two that are computed side by side, so
// that neither waits for itself; or what is left at the end.
enum class Part : uint8_t { whole, first, second, tail };

class Assembler {
 public:
  std::vector<uint8_t> code;
  const int lanes, vectors;
  const bool masks;  // whether masks have registers of their own

  // Of this machine.
  static std::unique_ptr<Assembler> make(bool avx512);
  virtual std::unique_ptr<Assembler> another() const = 0;
  virtual ~Assembler() = default;

  // y = f(a, b), or f(b) where a is {0}.
  void vector(Opcode f, Vec y, Vec a, Operand b) { encode(f, y.n, a.n, b, {}); }
  void vector(Opcode f, Vec y, Vec a, Operand b, uint8_t immediate) {
    encode(f, y.n, a.n, b, {.immediate = immediate});
  }
  void move(Vec y, Operand x) { vector({1, 1, 0x6f}, y, {0}, x); }
  void broadcast(Vec y, Operand element) { vector({2, 1, 0x18}, y, {0}, element); }
  void save(int slot, Vec x) { vector({1, 0, 0x11}, x, {0}, Operand::slot(slot)); }
  // Each word by a constant number of bits.
  void shift_left(Vec y, Vec x, uint8_t bits) { vector({1, 1, 0x72}, {6}, y, x, bits); }
  void shift_right_logical(Vec y, Vec x, uint8_t bits) { vector({1, 1, 0x72}, {2}, y, x, bits); }
  void shift_right_arithmetic(Vec y, Vec x, uint8_t bits) { vector({1, 1, 0x72}, {4}, y, x, bits); }
  // A word as an operand: it lies in the pool, behind the code.
  Operand constant(uint32_t word);
  Operand constant(float x);
  virtual void fill(Vec y, Operand constant) = 0;

  // A block's vector, which in the tail is part of one.
  virtual void load(Vec y, Gpr base) = 0;
  virtual void store(Gpr base, Vec x) = 0;

  virtual void compare(Mask y, Vec a, Operand b,
                       uint8_t predicate) = 0;                           // floats, as vcmpps has it
  virtual void compare(Mask y, Vec a, Vec b, Compare how) = 0;           // signed integers
  virtual bool compare_unsigned(Mask y, Vec a, Vec b, Compare how) = 0;  // false if there is none
  virtual bool f32_of_u32(Vec y, Vec x) = 0;                             // the same
  virtual void combine(Logic logic, Mask y, Mask a, Mask b) = 0;
  virtual void negate(Mask y, Mask x) = 0;
  virtual void blend(Vec y, Vec no, Operand yes, Mask which) = 0;
  virtual void replace(Vec y, Operand x, Mask which) = 0;       // y = x where which says so
  virtual void truth(Mask y, Vec words) = 0;                    // of ones and zeros
  virtual void words(Vec y, Mask which, Operand constant) = 0;  // the constant, or zero
  virtual void save(int slot, Mask x) = 0;
  virtual void restore(Mask y, int slot) = 0;

  // r = ((char**)rdi)[index]
  void pointer(Gpr r, int index);
  // A function: before() once, then body() for rcx = 0, lanes, 2 * lanes, ... up to rsi, by pairs
  // if so wanted, at last for what is left, with `slots` vectors on the stack.
  void function(int slots, bool paired, const std::function<void()>& before,
                const std::function<void(Part)>& body);
  // Ends the code: the pool follows.
  void finish();

 protected:
  struct Form {
    Mask mask{};
    bool zero = false;
    int immediate = -1;
  };
  Assembler(int lanes, int vectors, bool masks) : lanes(lanes), vectors(vectors), masks(masks) {}
  virtual void prefix(Opcode f, int y, int a, Operand b, const Form& form) = 0;
  // Sets the mask of the tail: esi is how much is left.
  virtual void begin_tail() = 0;

  void encode(Opcode f, int y, int a, Operand b, const Form& form);
  void byte(int value) { code.push_back(static_cast<uint8_t>(value)); }
  void bytes(std::initializer_list<int> values) {
    for (int value : values) byte(value);
  }
  static int bit(int value, int from, int to) { return (value >> from & 1) << to; }
  static int last_bits(Operand b) {  // the number of the register that the last operand names
    if (b.kind == Operand::Kind::constant) return 0;
    return b.kind == Operand::Kind::slot ? static_cast<int>(Gpr::rsp) : b.n;
  }
  void memory(int reg, Operand b, int trailing);
  using Constant = std::array<uint32_t, 8>;
  Operand pooled(const Constant& words);
  // An instruction begins.
  void begin();
  bool tail_ = false;

 private:
  void loop(int step, const std::function<void()>& body);
  void pair(const std::function<void(Part)>& body);
  void word32(uint32_t value);
  size_t jump(std::initializer_list<int> opcode);  // to be landed; gives where its distance stands
  void land(size_t jump, size_t target);

  struct Reference {
    size_t at;  // of a distance, with so many bytes behind it
    int trailing, constant;
  };
  std::vector<Constant> pool_;
  std::vector<Reference> references_;
  bool second_ = false, glued_ = false;  // glued: the next instruction needs what is in rax
  std::vector<size_t> begins_;           // where instructions begin
};

}  // namespace jax_mps::cpu
