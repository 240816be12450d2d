#include "segment.h"

#include <algorithm>
#include <limits>
#include <tuple>

#include "formulas.h"
#include "opcodes.h"
#include "values.h"

namespace jax_mps::cpu {
namespace {

constexpr uint32_t kSign = 0x80000000u, kMagnitude = 0x7fffffffu;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr uint32_t kInfinityBits = 0x7f800000u;
constexpr uint8_t kLess = 0x11;  // of vcmpps
constexpr int kHoisted = 10;     // scalars, at most
constexpr int kNone = -1;        // no register

// Writes the code of one segment.
class Writer {
 public:
  Writer(Assembler& out, const ChainSegment& segment, int hoisted)
      : out_(out), segment_(segment), values_(out, segment, hoisted), formulas_(out, values_) {}

  void write(int slots, bool paired) {
    out_.function(slots, paired, [&] { values_.hoist(); }, [&](Part part) { body(part); });
  }

  const ChainValues& values() const { return values_; }

 private:
  void body(Part part) {
    values_.begin(part);
    for (const ChainStep& step : segment_.body) {
      instruction(step);
      values_.next_step();
    }
    for (const ChainSegment::Fold& fold : segment_.folds) {
      Vec x = values_.vector(fold.x, false), sum = values_.take();
      out_.load(sum, values_.pointer(fold.tile));
      if (fold.reduce == Reduce::sum)
        out_.vector(opcodes::add, sum, sum, x);
      else
        extremum(fold.reduce == Reduce::max, sum, sum, x);
      out_.store(values_.pointer(fold.tile), sum);
      values_.next_step();
    }
    // Stores come last: a result may lie in the memory of an operand.
    for (int16_t r : segment_.writes) {
      Vec x = values_.vector(r, false);
      out_.store(values_.pointer(r), x);
      values_.next_step();
    }
  }

  Vec vector(const ChainStep& step, int i) {
    return values_.vector(step.operand(i), step.scalars >> i & 1);
  }
  Mask mask(const ChainStep& step, int i) {
    return values_.mask(step.operand(i), step.scalars >> i & 1);
  }
  Vec result(const ChainStep& step) { return values_.result(step.y); }

  // NaN wins, and of two zeros +0 is the greater. x86 gives the second operand where either is NaN
  // or both are zeros, so the two orders differ in zeros' signs alone, or one of them is NaN.
  void extremum(bool greatest, Vec y, Vec a, Vec b) {
    Vec other = values_.take();
    out_.vector(greatest ? opcodes::max : opcodes::min, other, b, a);
    out_.vector(greatest ? opcodes::max : opcodes::min, y, a, b);
    if (greatest) {
      Vec both = values_.take();
      out_.vector(opcodes::bit_and, both, y, other);
      out_.vector(opcodes::bit_or, y, y, other);
      out_.vector(opcodes::bit_and, y, y, out_.constant(kMagnitude));
      out_.vector(opcodes::bit_or, y, y, both);
      values_.give_back(both);
    } else {
      out_.vector(opcodes::bit_or, y, y, other);
    }
    values_.give_back(other);
  }

  // The same with a constant, which is not NaN: only a zero that wins over the other needs a care.
  void extremum(bool greatest, Vec y, Vec x, Vec limit, uint32_t bits) {
    out_.vector(greatest ? opcodes::max : opcodes::min, y, limit, x);
    if (greatest && bits == 0) out_.vector(opcodes::bit_and, y, y, out_.constant(kMagnitude));
    if (!greatest && bits == kSign) out_.vector(opcodes::bit_or, y, y, out_.constant(kSign));
  }

  // Of a step's operands; the registers of a and b may be those of constants.
  void extremum(const ChainStep& step, bool greatest, Vec y, Vec a, Vec b, int a_register,
                int b_register) {
    if (is_float(step)) {
      for (auto [x, limit, r] : {std::tuple{a, b, b_register}, std::tuple{b, a, a_register}}) {
        auto found = segment_.constants.find(r);
        if (found != segment_.constants.end() && (found->second & kMagnitude) <= kInfinityBits)
          return extremum(greatest, y, x, limit, found->second);
      }
      return extremum(greatest, y, a, b);
    }
    bool has_sign = step.on == ChainType::s32;
    Opcode largest = has_sign ? opcodes::max_s32 : opcodes::max_u32;
    Opcode least = has_sign ? opcodes::min_s32 : opcodes::min_u32;
    out_.vector(greatest ? largest : least, y, a, b);
  }

  void instruction(const ChainStep& step) {
    if (gives_mask(step)) return predicate(step);
    bool real = is_float(step);
    switch (step.op) {
      case ChainOp::select: {
        Mask which = mask(step, 0);
        Vec no = vector(step, 1), yes = vector(step, 2);
        return out_.blend(result(step), no, yes, which);
      }
      case ChainOp::convert_f32:
        return convert_f32(step);
      case ChainOp::max:
      case ChainOp::min: {
        Vec a = vector(step, 0), b = vector(step, 1);
        return extremum(step, step.op == ChainOp::max, result(step), a, b, step.a, step.b);
      }
      case ChainOp::clamp: {
        Vec low = vector(step, 0), x = vector(step, 1), high = vector(step, 2);
        Vec raised = values_.take();
        extremum(step, true, raised, x, low, step.b, step.a);
        return extremum(step, false, result(step), raised, high, kNone, step.c);
      }
      case ChainOp::neg:
        if (real) return with_constant(step, opcodes::bit_xor, kSign);
        return negative(step);
      case ChainOp::not_:
        return with_constant(step, opcodes::bit_xor, ~uint32_t{0});
      case ChainOp::abs:
        if (real) return with_constant(step, opcodes::bit_and, kMagnitude);
        return unary(step, opcodes::abs_s32);
      case ChainOp::square: {
        Vec x = vector(step, 0);
        return out_.vector(real ? opcodes::mul : opcodes::mul_s32, result(step), x, x);
      }
      case ChainOp::sqrt:
        return unary(step, opcodes::sqrt);
      case ChainOp::rsqrt: {
        Vec x = vector(step, 0), y = result(step), root = values_.take();
        out_.vector(opcodes::sqrt, root, {0}, x);
        out_.fill(y, out_.constant(1.0f));
        return out_.vector(opcodes::div, y, y, root);
      }
      case ChainOp::floor:
      case ChainOp::ceil:
      case ChainOp::round_half_even: {
        Vec x = vector(step, 0);
        uint8_t mode = step.op == ChainOp::floor ? 9 : step.op == ChainOp::ceil ? 10 : 8;
        return out_.vector(opcodes::round, result(step), {0}, x, mode);
      }
      case ChainOp::multiply_add:
      case ChainOp::multiply_sub:
      case ChainOp::multiply_rsub: {
        Vec a = vector(step, 0), b = vector(step, 1), c = vector(step, 2), y = result(step);
        Opcode f = step.op == ChainOp::multiply_add   ? opcodes::multiply_add
                   : step.op == ChainOp::multiply_sub ? opcodes::multiply_sub
                                                      : opcodes::multiply_rsub;
        out_.move(y, a);  // moves cost nothing
        return out_.vector(f, y, b, c);
      }
      case ChainOp::copy:
      case ChainOp::splat:
      case ChainOp::convert_s32:
      case ChainOp::convert_u32: {
        Vec x = vector(step, 0);
        return out_.move(result(step), x);
      }
      default:
        break;
    }
    if (auto f = arithmetic(step)) {
      Vec a = vector(step, 0), b = vector(step, 1);
      return out_.vector(*f, result(step), a, b);
    }
    Vec x = vector(step, 0);
    formulas_.write(step.op, result(step), x);
  }

  void unary(const ChainStep& step, Opcode f) {
    Vec x = vector(step, 0);
    out_.vector(f, result(step), {0}, x);
  }

  void with_constant(const ChainStep& step, Opcode f, uint32_t word) {
    Vec x = vector(step, 0);
    out_.vector(f, result(step), x, out_.constant(word));
  }

  void negative(const ChainStep& step) {
    Vec x = vector(step, 0), y = result(step);
    out_.fill(y, out_.constant(uint32_t{0}));
    out_.vector(opcodes::sub_s32, y, y, x);
  }

  void convert_f32(const ChainStep& step) {
    if (step.on == ChainType::pred) {
      Mask which = mask(step, 0);
      return out_.words(result(step), which, out_.constant(1.0f));
    }
    Vec x = vector(step, 0), y = result(step);
    if (step.on == ChainType::f32) return out_.move(y, x);
    if (step.on == ChainType::s32) return out_.vector(opcodes::f32_of_s32, y, {0}, x);
    if (out_.f32_of_u32(y, x)) return;
    // Both halves are exact, and so is the higher one times 2^16.
    Vec low = values_.take();
    out_.vector(opcodes::bit_and, low, x, out_.constant(uint32_t{0xffff}));
    out_.vector(opcodes::f32_of_s32, low, {0}, low);
    out_.shift_right_logical(y, x, 16);
    out_.vector(opcodes::f32_of_s32, y, {0}, y);
    out_.vector(opcodes::mul, y, y, out_.constant(65536.0f));
    out_.vector(opcodes::add, y, y, low);
  }

  void predicate(const ChainStep& step) {
    if (step.op == ChainOp::is_finite) {
      Vec x = vector(step, 0), magnitude = values_.take();
      out_.vector(opcodes::bit_and, magnitude, x, out_.constant(kMagnitude));
      return out_.compare(values_.mask_result(step.y), magnitude, out_.constant(kInfinity), kLess);
    }
    if (auto how = comparison(step.op)) {
      Vec a = vector(step, 0), b = vector(step, 1);
      Mask y = values_.mask_result(step.y);
      if (is_float(step)) return out_.compare(y, a, b, how->first);
      if (step.on == ChainType::u32) {
        if (out_.compare_unsigned(y, a, b, how->second)) return;
        Vec p = values_.take(), q = values_.take();  // the order of signed numbers half-way around
        out_.vector(opcodes::bit_xor, p, a, out_.constant(kSign));
        out_.vector(opcodes::bit_xor, q, b, out_.constant(kSign));
        a = p, b = q;
      }
      return out_.compare(y, a, b, how->second);
    }
    Mask a = mask(step, 0), b = step.count > 1 ? mask(step, 1) : a;
    Mask y = values_.mask_result(step.y);
    if (step.op == ChainOp::not_) return out_.negate(y, a);
    out_.combine(step.op == ChainOp::and_  ? Logic::bit_and
                 : step.op == ChainOp::or_ ? Logic::bit_or
                                           : Logic::bit_xor,
                 y, a, b);
  }

  Assembler& out_;
  const ChainSegment& segment_;
  ChainValues values_;
  ChainFormulas formulas_;
};

}  // namespace

// As many scalars stay in vectors as leave room for all that is computed. Elementary functions are
// long rows of instructions that wait for each other: then two vectors are computed side by side,
// if that leaves room, too.
void write_machine_code(const ChainSegment& segment, Assembler& out) {
  bool waits =
      std::ranges::any_of(segment.body, [](const ChainStep& step) { return has_formula(step.op); });
  for (bool paired : {true, false}) {
    if (paired && !waits) continue;
    for (int hoisted = kHoisted; hoisted >= 0; hoisted--) {
      auto trial = out.another();
      Writer writer(*trial, segment, hoisted);
      hoisted = std::min(hoisted, writer.values().scalars());
      writer.write(0, paired);
      int slots = writer.values().slots();
      if ((slots == 0 && writer.values().fits()) || (hoisted == 0 && !paired))
        return Writer(out, segment, hoisted).write(slots, paired);
    }
  }
}

}  // namespace jax_mps::cpu
