// Where the values of a segment are while its machine code is written: in a vector, in a mask (a
// pred), on the stack, or in their chain registers' memory.
#pragma once

#include <array>
#include <map>
#include <utility>
#include <vector>

#include "assembler.h"
#include "segment.h"

namespace jax_mps::cpu {

class ChainValues {
 public:
  // Hoists the values of up to so many scalars out of the loop.
  ChainValues(Assembler& out, const ChainSegment& segment, int hoisted);

  void hoist();           // writes what comes before the loop
  void begin(Part part);  // of the body
  // The step is over: what was pinned may move, and what is not read any more is forgotten.
  void next_step();

  // The value of a register, for use within the step.
  Vec vector(int r, bool scalar);
  Mask mask(int r, bool scalar);
  // A vector or a mask for a step's result, or for use within the step until it is given back.
  Vec result(int r) { return {claim({r, false}, true)}; }
  Mask mask_result(int r) { return mask_at(claim({r, true}, true)); }
  Vec take() { return {claim({kNone, false}, true)}; }
  Mask take_mask() {
    if (!out_.masks) return {take().n};
    return {part_ == Part::second ? 2 : 1};
  }
  void give_back(Vec v) { places_[v.n] = {}; }
  void give_back(Mask m) {
    if (!out_.masks) places_[m.n] = {};
  }

  // Where a register lies.
  Gpr pointer(int r);
  int scalars() const { return static_cast<int>(scalar_reads_.size()); }
  int slots() const { return slot_count_; }  // of the stack, so far
  bool fits() const { return fits_; }        // whether no step needed more places than there are

 private:
  static constexpr int kVectors = 32, kMasks = 8, kLastMask = 6, kNone = -1;
  // A register's value in one of its forms: words, or, of a pred, a mask.
  using Key = std::pair<int, bool>;
  struct Place {
    Key key{kNone, false};
    bool used = false, computed = false, pinned = false;
  };

  void read_by(int r, int step) { reads_[r].push_back(step); }
  int next_read(int r, int from) const;
  bool usable(int place) const;
  Mask mask_at(int place) const { return {place >= kVectors ? place - kVectors : place}; }
  int claim(Key key, bool computed);
  void evict(int place);
  bool find(Key key, int& place);

  Assembler& out_;
  const ChainSegment& segment_;
  std::map<int, std::vector<int>> reads_;  // of a register: by which steps
  std::map<int, int> scalar_reads_;
  std::map<int, Vec> hoisted_;
  std::map<int, Gpr> pointers_;
  int hoists_, vectors_, now_ = 0;
  Part part_ = Part::whole;
  std::array<Place, kVectors + kMasks> places_;
  std::map<Key, int> where_, slots_;
  std::vector<int> free_slots_;
  int slot_count_ = 0;
  bool fits_ = true;
};

}  // namespace jax_mps::cpu
