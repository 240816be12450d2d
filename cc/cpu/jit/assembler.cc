#include "assembler.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace jax_mps::cpu {
namespace {

constexpr int kTail = 7;         // AVX-512: the mask of the tail
constexpr int kTailVector = 15;  // AVX2: the same
constexpr Opcode kBroadcast{2, 1, 0x18};

// Eight words a vector, sixteen vectors.
class Avx2 : public Assembler {
 public:
  Avx2() : Assembler(8, 16, false) {}
  std::unique_ptr<Assembler> another() const override { return std::make_unique<Avx2>(); }

  void fill(Vec y, Operand constant) override { move(y, constant); }
  void load(Vec y, Gpr base) override {
    if (tail_)
      encode({2, 1, 0x2c}, y.n, kTailVector, Operand::block(base), {});
    else
      encode({1, 0, 0x10}, y.n, 0, Operand::block(base), {});
  }
  void store(Gpr base, Vec x) override {
    if (tail_)
      encode({2, 1, 0x2e}, x.n, kTailVector, Operand::block(base), {});
    else
      encode({1, 0, 0x11}, x.n, 0, Operand::block(base), {});
  }

  void compare(Mask y, Vec a, Operand b, uint8_t predicate) override {
    vector({1, 0, 0xc2}, {y.n}, a, b, predicate);
  }
  void compare(Mask y, Vec a, Vec b, Compare how) override {
    constexpr Opcode equal{1, 1, 0x76}, greater{1, 1, 0x66};
    bool equality = how == Compare::eq || how == Compare::ne;
    bool swapped = how == Compare::lt || how == Compare::ge;
    vector(equality ? equal : greater, {y.n}, swapped ? b : a, swapped ? a : b);
    if (how == Compare::ne || how == Compare::le || how == Compare::ge) negate(y, y);
  }
  bool compare_unsigned(Mask, Vec, Vec, Compare) override { return false; }
  bool f32_of_u32(Vec, Vec) override { return false; }
  void combine(Logic logic, Mask y, Mask a, Mask b) override {
    constexpr Opcode f[] = {opcodes::bit_and, opcodes::bit_or, opcodes::bit_xor};
    vector(f[static_cast<int>(logic)], {y.n}, {a.n}, Vec{b.n});
  }
  void negate(Mask y, Mask x) override {
    vector(opcodes::bit_xor, {y.n}, {x.n}, constant(~uint32_t{0}));
  }
  void blend(Vec y, Vec no, Operand yes, Mask which) override {
    vector({3, 1, 0x4a}, y, no, yes, static_cast<uint8_t>(which.n << 4));
  }
  void replace(Vec y, Operand x, Mask which) override { blend(y, y, x, which); }
  void truth(Mask y, Vec words) override {  // where 1 > 0
    vector({1, 1, 0x66}, {y.n}, words, constant(uint32_t{0}));
  }
  void words(Vec y, Mask which, Operand constant) override {
    vector(opcodes::bit_and, y, {which.n}, constant);
  }
  void save(int slot, Mask x) override { Assembler::save(slot, Vec{x.n}); }
  void restore(Mask y, int slot) override { move({y.n}, Operand::slot(slot)); }

 private:
  void prefix(Opcode f, int y, int a, Operand b, const Form&) override {
    byte(0xc4);
    byte(bit(~y, 3, 7) | 0x40 | bit(~last_bits(b), 3, 5) | f.map);
    byte((~a & 15) << 3 | 4 | f.prefix);
  }
  void begin_tail() override {  // lanes below what is left
    constexpr Vec mask{kTailVector};
    bytes({0xc4, 0x61, 0x79, 0x6e, 0xfe});  // vmovd xmm15, esi
    vector({2, 1, 0x58}, mask, {0}, mask);
    vector({1, 1, 0x66}, mask, mask, pooled({0, 1, 2, 3, 4, 5, 6, 7}));
  }
};

// Sixteen words a vector, thirty-two vectors.
class Avx512 : public Assembler {
 public:
  Avx512() : Assembler(16, 32, true) {}
  std::unique_ptr<Assembler> another() const override { return std::make_unique<Avx512>(); }

  void fill(Vec y, Operand constant) override { encode(kBroadcast, y.n, 0, constant, {}); }
  void load(Vec y, Gpr base) override {
    encode({1, 0, 0x10}, y.n, 0, Operand::block(base), {.mask = tail(), .zero = tail_});
  }
  void store(Gpr base, Vec x) override {
    encode({1, 0, 0x11}, x.n, 0, Operand::block(base), {.mask = tail()});
  }

  void compare(Mask y, Vec a, Operand b, uint8_t predicate) override {
    vector({1, 0, 0xc2}, {y.n}, a, b, predicate);
  }
  void compare(Mask y, Vec a, Vec b, Compare how) override {
    vector({3, 1, 0x1f}, {y.n}, a, b, static_cast<uint8_t>(how));
  }
  bool compare_unsigned(Mask y, Vec a, Vec b, Compare how) override {
    vector({3, 1, 0x1e}, {y.n}, a, b, static_cast<uint8_t>(how));
    return true;
  }
  bool f32_of_u32(Vec y, Vec x) override {
    vector({1, 3, 0x7a}, y, {0}, x);
    return true;
  }
  void combine(Logic logic, Mask y, Mask a, Mask b) override {
    constexpr int f[] = {0x41, 0x45, 0x47};  // kandw, korw, kxorw
    begin();
    bytes({0xc5, 0x84 | (~a.n & 15) << 3, f[static_cast<int>(logic)], 0xc0 | y.n << 3 | b.n});
  }
  void negate(Mask y, Mask x) override {
    begin();
    bytes({0xc5, 0xf8, 0x44, 0xc0 | y.n << 3 | x.n});  // knotw
  }
  void blend(Vec y, Vec no, Operand yes, Mask which) override {
    encode({2, 1, 0x65}, y.n, no.n, yes, {.mask = which});
  }
  void replace(Vec y, Operand x, Mask which) override {
    bool constant = x.kind == Operand::Kind::constant;
    encode(constant ? kBroadcast : Opcode{1, 1, 0x6f}, y.n, 0, x, {.mask = which});
  }
  void truth(Mask y, Vec words) override { vector({2, 1, 0x27}, {y.n}, words, words); }
  void words(Vec y, Mask which, Operand constant) override {
    encode(kBroadcast, y.n, 0, constant, {.mask = which, .zero = true});
  }
  void save(int slot, Mask x) override {
    begin();
    bytes({0xc5, 0xf8, 0x91});  // kmovw
    memory(x.n, Operand::slot(slot), 0);
  }
  void restore(Mask y, int slot) override {
    begin();
    bytes({0xc5, 0xf8, 0x90});
    memory(y.n, Operand::slot(slot), 0);
  }

 private:
  Mask tail() const { return {tail_ ? kTail : 0}; }
  void prefix(Opcode f, int y, int a, Operand b, const Form& form) override {
    int last = last_bits(b);
    bool spread = b.kind == Operand::Kind::constant && f.opcode != kBroadcast.opcode;
    byte(0x62);
    byte(bit(~y, 3, 7) | bit(~last, 4, 6) | bit(~last, 3, 5) | bit(~y, 4, 4) | f.map);
    byte((~a & 15) << 3 | 4 | f.prefix);
    byte((form.zero ? 0x80 : 0) | 0x40 | (spread ? 0x10 : 0) | bit(~a, 4, 3) | form.mask.n);
  }
  void begin_tail() override {
    bytes({0xb8, 0xff, 0xff, 0xff, 0xff});  // mov eax, -1
    bytes({0xc4, 0xe2, 0x48, 0xf5, 0xc0});  // bzhi eax, eax, esi
    bytes({0xc5, 0xf8, 0x92, 0xf8});        // kmovw k7, eax
  }
};

}  // namespace

std::unique_ptr<Assembler> Assembler::make(bool avx512) {
  if (avx512) return std::make_unique<Avx512>();
  return std::make_unique<Avx2>();
}

void Assembler::encode(Opcode f, int y, int a, Operand b, const Form& form) {
  begin();
  prefix(f, y, a, b, form);
  byte(f.opcode);
  memory(y, b, form.immediate >= 0);
  if (form.immediate >= 0) byte(form.immediate);
}

// The bytes that name the last operand, and the other one that they hold.
void Assembler::memory(int reg, Operand b, int trailing) {
  int field = (reg & 7) << 3;
  switch (b.kind) {
    case Operand::Kind::vector:
      return byte(0xc0 | field | (b.n & 7));
    case Operand::Kind::block:
      bytes({(second_ ? 0x44 : 4) | field, 0x80 | static_cast<int>(Gpr::rcx) << 3 | (b.n & 7)});
      if (second_) byte(masks ? 1 : 32);  // the next vector; EVEX counts in vectors
      return;
    case Operand::Kind::element:
      return byte(field | (b.n & 7));
    case Operand::Kind::slot:
      bytes({0x80 | field | 4, 0x24});
      return word32(static_cast<uint32_t>(b.n * lanes * 4));
    case Operand::Kind::constant:
      byte(field | 5);
      references_.push_back({code.size(), trailing, b.n});
      return word32(0);
  }
}

Operand Assembler::pooled(const Constant& words) {
  auto found = std::ranges::find(pool_, words);
  if (found == pool_.end()) found = pool_.insert(found, words);
  return Operand::constant(static_cast<int>(found - pool_.begin()));
}

Operand Assembler::constant(uint32_t word) {
  Constant words;
  words.fill(word);
  return pooled(words);
}

Operand Assembler::constant(float x) { return constant(std::bit_cast<uint32_t>(x)); }

void Assembler::pointer(Gpr r, int index) {
  int n = static_cast<int>(r);
  begin();
  glued_ = r == Gpr::rax;
  bytes({0x48 | (n >> 3) << 2, 0x8b, 0x80 | (n & 7) << 3 | static_cast<int>(Gpr::rdi)});
  word32(static_cast<uint32_t>(index) * 8);
}

void Assembler::begin() {
  if (!std::exchange(glued_, false)) begins_.push_back(code.size());
}

void Assembler::function(int slots, bool paired, const std::function<void()>& before,
                         const std::function<void(Part)>& body) {
  if (slots) {
    bytes({0x55, 0x48, 0x89, 0xe5});  // push rbp; mov rbp, rsp
    bytes({0x48, 0x81, 0xec});        // sub rsp, ...
    word32(static_cast<uint32_t>(slots * lanes * 4));
    bytes({0x48, 0x83, 0xe4, 0xc0});  // and rsp, -64
  }
  before();
  bytes({0x31, 0xc9});  // xor ecx, ecx
  tail_ = false;
  if (paired) loop(2 * lanes, [&] { pair(body); });
  loop(lanes, [&] { body(Part::whole); });
  bytes({0x48, 0x29, 0xce});        // sub rsi, rcx
  size_t end = jump({0x0f, 0x84});  // jz
  begin_tail();
  tail_ = true;
  body(Part::tail);
  land(end, code.size());
  if (slots) byte(0xc9);            // leave
  bytes({0xc5, 0xf8, 0x77, 0xc3});  // vzeroupper; ret
}

// while (rcx + step <= rsi) body(), rcx += step;
void Assembler::loop(int step, const std::function<void()>& body) {
  size_t top = code.size();
  bytes({0x48, 0x8d, 0x41, step});  // lea rax, [rcx + step]
  bytes({0x48, 0x39, 0xf0});        // cmp rax, rsi
  size_t out = jump({0x0f, 0x8f});  // jg
  body();
  bytes({0x48, 0x83, 0xc1, step});  // add rcx, step
  land(jump({0xe9}), top);          // jmp
  land(out, code.size());
}

// The instructions of two bodies in turn.
void Assembler::pair(const std::function<void(Part)>& body) {
  struct Stream {
    std::vector<uint8_t> code;
    std::vector<size_t> begins;
    std::vector<Reference> references;
    size_t next = 0, reference = 0;
  } streams[2];
  size_t start = code.size(), references = references_.size();
  for (Part part : {Part::first, Part::second}) {
    Stream& stream = streams[part == Part::second];
    second_ = part == Part::second;
    begins_.clear();
    body(part);
    stream.code.assign(code.begin() + start, code.end());
    stream.begins = begins_;
    stream.begins.push_back(code.size());
    stream.references.assign(references_.begin() + references, references_.end());
    code.resize(start), references_.resize(references);
  }
  second_ = false;
  auto more = [](const Stream& s) { return s.next + 1 < s.begins.size(); };
  while (more(streams[0]) || more(streams[1]))
    for (Stream& s : streams) {
      if (!more(s)) continue;
      size_t begin = s.begins[s.next], end = s.begins[++s.next], at = code.size();
      for (; s.reference < s.references.size() && s.references[s.reference].at < end;
           s.reference++) {
        references_.push_back(s.references[s.reference]);
        references_.back().at += at - begin;
      }
      code.insert(code.end(), s.code.begin() + (begin - start), s.code.begin() + (end - start));
    }
}

void Assembler::finish() {
  while (code.size() % 64) byte(0xcc);
  size_t pool = code.size(), words = masks ? 1 : 8;  // AVX-512 spreads one word
  for (const Reference& r : references_) {
    auto target = pool + r.constant * words * 4;
    auto distance = static_cast<uint32_t>(target - (r.at + 4 + r.trailing));
    for (int i = 0; i < 4; i++) code[r.at + i] = static_cast<uint8_t>(distance >> 8 * i);
  }
  for (const Constant& constant : pool_)
    for (size_t i = 0; i < words; i++) word32(constant[i]);
}

void Assembler::word32(uint32_t value) {
  for (int i = 0; i < 4; i++) byte(static_cast<int>(value >> 8 * i & 255));
}

size_t Assembler::jump(std::initializer_list<int> opcode) {
  bytes(opcode);
  word32(0);
  return code.size() - 4;
}

void Assembler::land(size_t jump, size_t target) {
  auto distance = static_cast<uint32_t>(target - (jump + 4));
  for (int i = 0; i < 4; i++) code[jump + i] = static_cast<uint8_t>(distance >> 8 * i & 255);
}

}  // namespace jax_mps::cpu
