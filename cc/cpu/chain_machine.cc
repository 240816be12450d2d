#include "chain_machine.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>

#include "assembler.h"
#include "chain_opcodes.h"

namespace jax_mps::cpu {
namespace {

constexpr int kVectors = 32, kFirstMask = 2,
              kMasks = 7;  // masks: 1 for use within a step, 7 for the tail
constexpr int kHoistedScalars = 10, kHoistedPointers = 5;
constexpr Gpr kPointers[kHoistedPointers] = {Gpr::rdx, Gpr::r8, Gpr::r9, Gpr::r10, Gpr::r11};
constexpr uint32_t kSign = 0x80000000u, kMagnitude = 0x7fffffffu, kInfinity = 0x7f800000u,
                   kOne = 0x3f800000u;

// Writes the code of one segment. A value is in a vector, in a mask (a pred), or in its register's
// memory; what came from memory may be forgotten and read again.
class Writer {
 public:
  Writer(Assembler& out, const ChainSegment& segment) : out_(out), segment_(segment) {}

  bool write() {
    count_reads();
    hoist();
    bool fits = true;
    out_.loop([&] { fits &= body({}); }, [&] { fits &= body({7}); });
    return fits;
  }

 private:
  static constexpr int kForever = 1 << 20;

  struct Place {
    int register_ = -1;
    bool computed = false, pinned = false;
  };

  static int operands(const ChainStep& step) { return step.count; }
  static int16_t operand(const ChainStep& step, int i) {
    return i == 0 ? step.a : i == 1 ? step.b : step.c;
  }

  void count_reads() {
    for (size_t s = 0; s < segment_.body.size(); s++) {
      const ChainStep& step = segment_.body[s];
      for (int i = 0; i < operands(step); i++) {
        int16_t r = operand(step, i);
        reads_[r].push_back(static_cast<int>(s));
        if (step.scalars >> i & 1) scalar_reads_[r]++;
      }
      switch (step.op) {
        case ChainOp::neg:
          immediates_[kSign];
          break;
        case ChainOp::is_finite:
          immediates_[kInfinity];
          [[fallthrough]];
        case ChainOp::abs:
          immediates_[kMagnitude];
          break;
        case ChainOp::rsqrt:
          immediates_[kOne];
          break;
        case ChainOp::not_:
          immediates_[~0u];
          break;
        default:
          break;
      }
    }
    for (size_t f = 0; f < segment_.folds.size(); f++)
      reads_[segment_.folds[f].x].push_back(static_cast<int>(segment_.body.size() + f));
    for (int16_t r : segment_.writes) reads_[r].push_back(kForever);
  }

  void hoist() {
    int next = kVectors - 1;
    for (auto& [word, zmm] : immediates_) {
      zmm = Zmm{next--};
      out_.broadcast(zmm, word);
    }
    for (auto& [r, count] : scalar_reads_) {
      if (kVectors - 1 - next >= kHoistedScalars) break;
      hoisted_[r] = Zmm{next};
      out_.pointer(Gpr::rax, r);
      out_.broadcast(Zmm{next--}, Gpr::rax);
    }
    vectors_ = next + 1;
    std::vector<int> wide;  // in memory: read by the body and not made there, then what it writes
    auto made = [&](int r) {
      return std::ranges::any_of(segment_.body, [&](const ChainStep& s) { return s.y == r; });
    };
    for (auto& [r, at] : reads_)
      if (!made(r) && !scalar_reads_.contains(r)) wide.push_back(r);
    for (int16_t r : segment_.writes) wide.push_back(r);
    for (const ChainSegment::Fold& fold : segment_.folds) wide.push_back(fold.tile);
    for (size_t i = 0; i < wide.size() && i < kHoistedPointers; i++) {
      pointers_[wide[i]] = kPointers[i];
      out_.pointer(kPointers[i], wide[i]);
    }
  }

  Gpr pointer(int r) {
    auto found = pointers_.find(r);
    if (found != pointers_.end()) return found->second;
    out_.pointer(Gpr::rax, r);
    return Gpr::rax;
  }

  int next_read(int r) const {
    auto& at = reads_.at(r);
    auto found = std::ranges::upper_bound(at, now_);
    return found == at.end() ? -1 : *found;
  }

  // A vector for a value of a register (or for use within the step: register -1). Negative if none
  // is left.
  Zmm take(int r, bool computed) {
    int best = -1, best_read = -1;
    for (int v = 0; v < vectors_; v++) {
      Place& place = places_[v];
      if (place.pinned) continue;
      if (place.register_ < 0) {
        best = v;
        break;
      }
      int read = place.computed ? -1 : next_read(place.register_);
      if (read > best_read) best = v, best_read = read;
    }
    if (best < 0) return fail(), Zmm{0};
    if (places_[best].register_ >= 0) where_.erase(places_[best].register_);
    places_[best] = {r, computed, true};
    if (r >= 0) where_[r] = best;
    return Zmm{best};
  }

  // The value of a step's operand in a vector.
  Zmm vector(int r, bool scalar) {
    if (auto found = hoisted_.find(r); scalar && found != hoisted_.end()) return found->second;
    if (auto found = where_.find(r); found != where_.end()) {
      places_[found->second].pinned = true;
      return Zmm{found->second};
    }
    if (auto found = masks_.find(r);
        found != masks_.end()) {  // ones and zeros, for an integer to be
      Zmm one = take(-1, true), y = take(-1, true);
      out_.broadcast(one, 1);
      out_.move(y, one, {found->second}, true);
      return y;
    }
    Zmm y = take(r, false);
    if (scalar) {
      out_.pointer(Gpr::rax, r);
      out_.broadcast(y, Gpr::rax);
    } else {
      out_.load(y, pointer(r), tail_);
    }
    return y;
  }
  Zmm vector(const ChainStep& step, int i) {
    return vector(operand(step, i), step.scalars >> i & 1);
  }

  // The value of a pred in a mask.
  Mask mask(const ChainStep& step, int i) {
    int r = operand(step, i);
    if (auto found = masks_.find(r); found != masks_.end()) return {found->second};
    Zmm x = vector(step, i);
    Mask y = take_mask(r);
    out_.vector({2, 1, 0x27}, y.n, x.n, x.n);
    return y;
  }

  Mask take_mask(int r) {
    for (int k = kFirstMask; k < kMasks; k++)
      if (mask_used_[k] < 0) {
        mask_used_[k] = r;
        masks_[r] = k;
        return {k};
      }
    return fail(), Mask{kFirstMask};
  }

  void fail() { fits_ = false; }

  bool body(Mask tail) {
    tail_ = tail, where_.clear(), masks_.clear();
    places_.fill({});
    mask_used_.fill(-1);
    now_ = 0;
    for (const ChainStep& step : segment_.body) {
      instruction(step);
      release();
      now_++;
    }
    for (const ChainSegment::Fold& fold : segment_.folds) {
      Zmm x = vector(fold.x, false), sum = take(-1, true);
      out_.load(sum, pointer(fold.tile), tail_);
      if (fold.reduce == Reduce::sum)
        out_.vector({1, 0, 0x58}, sum.n, sum.n, x.n);
      else
        extremum(fold.reduce == Reduce::max, sum, sum, x);
      out_.store(pointer(fold.tile), sum, tail_);
      release();
      now_++;
    }
    // Stores come last: a result may lie in the memory of an operand.
    for (int16_t r : segment_.writes) {
      Zmm x = vector(r, false);
      out_.store(pointer(r), x, tail_);
      for (Place& place : places_)
        if (place.register_ < 0) place.pinned = false;
    }
    return fits_;
  }

  // Frees what is not read any more.
  void release() {
    for (int v = 0; v < vectors_; v++) {
      Place& place = places_[v];
      place.pinned = false;
      if (place.register_ >= 0 && next_read(place.register_) < 0) {
        where_.erase(place.register_);
        place = {};
      }
    }
    for (int k = kFirstMask; k < kMasks; k++)
      if (mask_used_[k] >= 0 && next_read(mask_used_[k]) < 0) {
        masks_.erase(mask_used_[k]);
        mask_used_[k] = -1;
      }
  }

  // NaN wins: x86 gives the second operand where either is NaN. y is not b.
  void extremum(bool greatest, Zmm y, Zmm a, Zmm b) {
    out_.vector({1, 0, 0xc2}, 1, a.n, a.n, uint8_t{3});  // a is NaN
    if (y.n != a.n) {
      out_.vector({1, 0, static_cast<uint8_t>(greatest ? 0x5f : 0x5d)}, y.n, a.n, b.n);
      out_.move(y, a, {1});
      return;
    }
    Zmm kept = take(-1, true);
    out_.move(kept, a);
    out_.vector({1, 0, static_cast<uint8_t>(greatest ? 0x5f : 0x5d)}, y.n, kept.n, b.n);
    out_.move(y, kept, {1});
  }

  void instruction(const ChainStep& step) {
    if (gives_mask(step)) return predicate(step);
    switch (step.op) {
      case ChainOp::select: {
        Mask which = mask(step, 0);
        Zmm no = vector(step, 1), yes = vector(step, 2);
        out_.vector({2, 1, 0x65}, result(step).n, no.n, yes.n, which);
        return;
      }
      case ChainOp::convert_f32:
        if (step.on == ChainType::pred) {
          Mask which = mask(step, 0);
          Zmm y = result(step);
          out_.broadcast(y, kOne);
          out_.move(y, y, which, true);
        } else if (step.on == ChainType::f32) {
          copy(step);
        } else {
          Zmm x = vector(step, 0);
          Evex convert = step.on == ChainType::s32 ? Evex{1, 0, 0x5b} : Evex{1, 3, 0x7a};
          out_.vector(convert, result(step).n, 0, x.n);
        }
        return;
      case ChainOp::max:
      case ChainOp::min: {
        Zmm a = vector(step, 0), b = vector(step, 1);
        return extremum(step.op == ChainOp::max, result(step), a, b);
      }
      case ChainOp::clamp: {
        Zmm low = vector(step, 0), x = vector(step, 1), high = vector(step, 2);
        Zmm raised = take(-1, true);
        extremum(true, raised, x, low);
        return extremum(false, result(step), raised, high);
      }
      case ChainOp::neg:
      case ChainOp::not_:
        return with_immediate(step, {1, 1, 0xef}, step.op == ChainOp::neg ? kSign : ~0u);
      case ChainOp::abs:
        return with_immediate(step, {1, 1, 0xdb}, kMagnitude);
      case ChainOp::square: {
        Zmm x = vector(step, 0);
        out_.vector({1, 0, 0x59}, result(step).n, x.n, x.n);
        return;
      }
      case ChainOp::sqrt:
      case ChainOp::rsqrt: {
        Zmm x = vector(step, 0), y = result(step);
        out_.vector({1, 0, 0x51}, y.n, 0, x.n);
        if (step.op == ChainOp::rsqrt) out_.vector({1, 0, 0x5e}, y.n, immediates_.at(kOne).n, y.n);
        return;
      }
      case ChainOp::floor:
      case ChainOp::ceil:
      case ChainOp::round_half_even: {
        Zmm x = vector(step, 0);
        uint8_t mode = step.op == ChainOp::floor ? 9 : step.op == ChainOp::ceil ? 10 : 8;
        out_.vector({3, 1, 0x08}, result(step).n, 0, x.n, mode);
        return;
      }
      case ChainOp::multiply_add:
      case ChainOp::multiply_sub:
      case ChainOp::multiply_rsub: {
        Zmm a = vector(step, 0), b = vector(step, 1), c = vector(step, 2), y = result(step);
        uint8_t opcode = step.op == ChainOp::multiply_add   ? 0xa8
                         : step.op == ChainOp::multiply_sub ? 0xaa
                                                            : 0xac;
        out_.move(y, a);  // y = b * y + c and the like; moves cost nothing
        out_.vector({2, 1, opcode}, y.n, b.n, c.n);
        return;
      }
      case ChainOp::copy:
      case ChainOp::splat:
      case ChainOp::convert_s32:
      case ChainOp::convert_u32:
        return copy(step);
      default: {
        Zmm a = vector(step, 0), b = vector(step, 1);
        out_.vector(*arithmetic(step), result(step).n, a.n, b.n);
      }
    }
  }

  Zmm result(const ChainStep& step) { return take(step.y, true); }

  void copy(const ChainStep& step) {
    Zmm x = vector(step, 0);
    out_.move(result(step), x);
  }

  void with_immediate(const ChainStep& step, Evex f, uint32_t word) {
    Zmm x = vector(step, 0);
    out_.vector(f, result(step).n, x.n, immediates_.at(word).n);
  }

  void predicate(const ChainStep& step) {
    if (step.op == ChainOp::is_finite) {
      Zmm x = vector(step, 0), y = take(-1, true);
      out_.vector({1, 1, 0xdb}, y.n, x.n, immediates_.at(kMagnitude).n);
      out_.vector({1, 0, 0xc2}, take_mask(step.y).n, y.n, immediates_.at(kInfinity).n,
                  uint8_t{0x11});
      return;
    }
    if (auto how = comparison(step.op)) {
      Zmm a = vector(step, 0), b = vector(step, 1);
      int y = take_mask(step.y).n;
      if (is_float(step))
        out_.vector({1, 0, 0xc2}, y, a.n, b.n, how->first);
      else
        out_.vector({3, 1, static_cast<uint8_t>(step.on == ChainType::s32 ? 0x1f : 0x1e)}, y, a.n,
                    b.n, how->second);
      return;
    }
    Mask a = mask(step, 0), b = step.count > 1 ? mask(step, 1) : a;
    Mask y = take_mask(step.y);
    if (step.op == ChainOp::not_) {
      out_.masks(0x47, y, a, a);  // zeros,
      out_.masks(0x46, y, y, a);  // and where a is one of them
    } else {
      out_.masks(step.op == ChainOp::and_ ? 0x41 : step.op == ChainOp::or_ ? 0x45 : 0x47, y, a, b);
    }
  }

  Assembler& out_;
  const ChainSegment& segment_;
  std::map<int, std::vector<int>> reads_;  // of a register: by which steps
  std::map<int, int> scalar_reads_;
  std::map<uint32_t, Zmm> immediates_;
  std::map<int, Zmm> hoisted_;
  std::map<int, Gpr> pointers_;
  std::map<int, int> where_, masks_;  // of a register: its vector, its mask
  std::array<Place, kVectors> places_;
  std::array<int, kMasks + 1> mask_used_;
  int vectors_ = kVectors, now_ = 0;
  Mask tail_;
  bool fits_ = true;
};

}  // namespace

bool write_machine_code(const ChainSegment& segment, Assembler& out) {
  return Writer(out, segment).write();
}

}  // namespace jax_mps::cpu
