#include "values.h"

#include <algorithm>

namespace jax_mps::cpu {
namespace {

constexpr int kForever = 1 << 20;
constexpr Gpr kPointers[] = {Gpr::rdx, Gpr::r8, Gpr::r9, Gpr::r10, Gpr::r11};

}  // namespace

ChainValues::ChainValues(Assembler& out, const ChainSegment& segment, int hoisted)
    : out_(out), segment_(segment), hoists_(hoisted), vectors_(out.vectors) {
  for (size_t s = 0; s < segment_.body.size(); s++) {
    const ChainStep& step = segment_.body[s];
    for (int i = 0; i < step.count; i++) {
      read_by(step.operand(i), static_cast<int>(s));
      if (step.scalars >> i & 1) scalar_reads_[step.operand(i)]++;
    }
  }
  for (size_t f = 0; f < segment_.folds.size(); f++)
    read_by(segment_.folds[f].x, static_cast<int>(segment_.body.size() + f));
  for (int16_t r : segment_.writes) read_by(r, kForever);
}

void ChainValues::hoist() {
  std::vector<std::pair<int, int>> often;  // how often a scalar is read, and which
  for (auto& [r, count] : scalar_reads_) often.push_back({-count, r});
  std::ranges::stable_sort(often, {}, &std::pair<int, int>::first);
  if (!out_.masks) vectors_--;  // the last one is the tail's mask
  for (int i = 0; i < hoists_ && i < scalars(); i++) {
    int r = often[i].second;
    hoisted_[r] = Vec{--vectors_};
    out_.pointer(Gpr::rax, r);
    out_.broadcast(hoisted_[r], Operand::element(Gpr::rax));
  }
  std::vector<int> wide;  // in memory: read by the body and not made there, then what it writes
  auto made = [&](int r) {
    return std::ranges::any_of(segment_.body, [&](const ChainStep& s) { return s.y == r; });
  };
  for (auto& [r, at] : reads_)
    if (!made(r) && !scalar_reads_.contains(r)) wide.push_back(r);
  for (int16_t r : segment_.writes) wide.push_back(r);
  for (const ChainSegment::Fold& fold : segment_.folds) wide.push_back(fold.tile);
  for (size_t i = 0; i < wide.size() && i < std::size(kPointers); i++) {
    pointers_[wide[i]] = kPointers[i];
    out_.pointer(kPointers[i], wide[i]);
  }
}

void ChainValues::begin(Part part) {
  part_ = part, now_ = 0;
  where_.clear(), slots_.clear(), free_slots_.clear();
  for (int slot = 0; slot < slot_count_; slot++) free_slots_.push_back(slot);
  places_.fill({});
}

void ChainValues::next_step() {
  now_++;
  for (Place& place : places_) {
    place.pinned = false;
    if (!place.used || (place.key.first >= 0 && next_read(place.key.first, now_) >= 0)) continue;
    if (place.key.first >= 0) where_.erase(place.key);
    place = {};
  }
  for (auto it = slots_.begin(); it != slots_.end();) {
    bool read = next_read(it->first.first, now_) >= 0;
    if (!read) free_slots_.push_back(it->second);
    it = read ? std::next(it) : slots_.erase(it);
  }
}

Gpr ChainValues::pointer(int r) {
  auto found = pointers_.find(r);
  if (found != pointers_.end()) return found->second;
  out_.pointer(Gpr::rax, r);
  return Gpr::rax;
}

// The first step from `from` on that reads a register, or -1.
int ChainValues::next_read(int r, int from) const {
  auto at = reads_.find(r);
  if (at == reads_.end()) return -1;
  auto found = std::ranges::lower_bound(at->second, from);
  return found == at->second.end() ? -1 : *found;
}

// Of two parts side by side, each has half of the places; the first two masks are for use within a
// step.
bool ChainValues::usable(int place) const {
  bool is_mask = place >= kVectors, last = !out_.masks && place == out_.vectors - 1;
  bool paired = part_ == Part::first || part_ == Part::second;
  if (is_mask && (place < kVectors + (paired ? 3 : 2) || place > kVectors + kLastMask))
    return false;
  if (!is_mask && place >= vectors_ && !last) return false;
  int half = is_mask ? kVectors + 5 : (vectors_ + !out_.masks) / 2;
  if (paired) return (place < half) == (part_ == Part::first);
  return part_ == Part::whole || !last;  // the last vector is the mask of the tail
}

// A place that is free, or else the one whose value is read last.
int ChainValues::claim(Key key, bool computed) {
  bool in_mask = key.second && out_.masks;
  int first = in_mask ? kVectors : 0, end = in_mask ? kVectors + kMasks : kVectors;
  int best = -1, best_read = -1;
  for (int p = first; p < end; p++) {
    const Place& place = places_[p];
    if (place.pinned || !usable(p)) continue;
    int read = place.used ? next_read(place.key.first, now_) : kForever + 1;
    if (read <= best_read) continue;
    best = p, best_read = read;
    if (!place.used) break;
  }
  if (best < 0) {  // the code is of no use, but its writer goes on
    fits_ = false;
    best = first;
  }
  evict(best);
  places_[best] = {key, true, computed, true};
  if (key.first >= 0) where_[key] = best;
  return best;
}

// What was computed goes to the stack, unless it is there; all else is in memory anyway.
void ChainValues::evict(int p) {
  Place& place = places_[p];
  if (!place.used) return;
  where_.erase(place.key);
  if (!place.computed || slots_.contains(place.key)) return;
  if (free_slots_.empty()) free_slots_.push_back(slot_count_++);
  int slot = slots_[place.key] = free_slots_.back();
  free_slots_.pop_back();
  if (place.key.second)
    out_.save(slot, mask_at(p));
  else
    out_.save(slot, Vec{p});
}

bool ChainValues::find(Key key, int& place) {
  auto found = where_.find(key);
  if (found == where_.end()) return false;
  place = found->second;
  places_[place].pinned = true;
  return true;
}

Vec ChainValues::vector(int r, bool scalar) {
  if (auto found = hoisted_.find(r); scalar && found != hoisted_.end()) return found->second;
  int place;
  if (find({r, false}, place)) return {place};
  if (auto slot = slots_.find({r, false}); slot != slots_.end()) {
    Vec y{claim({r, false}, true)};
    out_.move(y, Operand::slot(slot->second));
    return y;
  }
  if (where_.contains({r, true}) || slots_.contains({r, true})) {  // an integer to be
    Mask which = mask(r, scalar);
    Vec y = take();
    out_.words(y, which, out_.constant(uint32_t{1}));
    return y;
  }
  Vec y{claim({r, false}, false)};
  if (scalar) {
    out_.pointer(Gpr::rax, r);
    out_.broadcast(y, Operand::element(Gpr::rax));
  } else {
    out_.load(y, pointer(r));
  }
  return y;
}

Mask ChainValues::mask(int r, bool scalar) {
  int place;
  if (find({r, true}, place)) return mask_at(place);
  if (auto slot = slots_.find({r, true}); slot != slots_.end()) {
    Mask y = mask_at(claim({r, true}, true));
    out_.restore(y, slot->second);
    return y;
  }
  Vec words = vector(r, scalar);
  Mask y = mask_at(claim({r, true}, false));
  out_.truth(y, words);
  return y;
}

}  // namespace jax_mps::cpu
