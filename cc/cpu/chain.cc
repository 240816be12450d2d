// chain(operands...): elementwise code over one iteration space, with stored and reduced results.
// Plans the run that loops/chain.h describes.
#include "chain.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "chain_space.h"
#include "device.h"
#include "require.h"

namespace jax_mps::cpu {
namespace {

using Kind = ChainValue::Kind;
constexpr size_t kMaxValues = 4 * kChainRegisters;  // before the registers are counted
constexpr int kForever = 1 << 30;
constexpr int64_t kWord = sizeof(uint32_t);
constexpr size_t kPartialBytes = size_t{64} << 20;  // of the reductions' parts, at most

int64_t align_up(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// A value's register: `wide` holds a block rather than one element, `once` is computed once a run
// rather than once a block.
struct Trait {
  bool wide = false, once = true;
};

class Plan {
 public:
  // Nothing if the registers of a block do not fit the memory of a thread.
  static std::unique_ptr<Plan> make(const ChainCode& code, int64_t block) {
    auto plan = std::unique_ptr<Plan>(new Plan(code, block));
    return plan->emit() ? std::move(plan) : nullptr;
  }

  const Chain& chain() const { return chain_; }
  size_t scratch_bytes() const { return scratch_; }

 private:
  Plan(const ChainCode& code, int64_t block) : code_(code), space_(code, block) {}

  bool emit() {
    mark_used();
    classify();
    fuse();
    register_of_.assign(code_.values.size(), -1);
    splat_of_.assign(code_.values.size(), -1);
    if (code_.values.size() * 3 > kMaxValues) return false;
    plan_reductions();
    for (size_t v = 0; v < code_.values.size(); v++) {
      if (used_[v] == 0 || code_.values[v].kind != Kind::instruction) continue;
      instruction(static_cast<int>(v));
      reduce(static_cast<int>(v));
    }
    for (size_t i = 0; i < code_.outputs.size(); i++) {
      const ChainOutput& output = code_.outputs[i];
      bool computed = code_.values[output.value].kind == Kind::instruction;
      if (!output.stores && !computed) reduce(output.value);
    }
    for (size_t i = 0; i < code_.outputs.size(); i++)
      if (code_.outputs[i].stores) store(static_cast<int>(i));
    if (!place()) return false;
    finish();
    return true;
  }

  // How often each value is read.
  void mark_used() {
    used_.assign(code_.values.size(), 0);
    for (const ChainOutput& output : code_.outputs) used_[output.value]++;
    for (size_t v = code_.values.size(); v-- > 0;)
      for (int i = 0; used_[v] && i < code_.values[v].count; i++) used_[code_.values[v].from[i]]++;
  }

  int64_t blocks() const { return space_.kept_blocks * space_.reduced_blocks; }
  int position(int axis) const {  // of a merged axis among the enumerated; -1 for one inside
    auto found = std::ranges::find(space_.order, axis);
    return found == space_.order.end() ? -1 : static_cast<int>(found - space_.order.begin());
  }

  bool in_place(size_t operand) const {
    return code_.operands[operand].storage == Storage::word && space_.contiguous(operand) &&
           !space_.constant_inside(operand);
  }

  void classify() {
    traits_.resize(code_.values.size());
    for (size_t v = 0; v < code_.values.size(); v++) {
      const ChainValue& value = code_.values[v];
      Trait& trait = traits_[v];
      switch (value.kind) {
        case Kind::operand:
          trait.wide = !space_.constant_inside(v);
          // With one block, nothing is gained by loading ahead of it.
          trait.once = space_.constant_outside(v) && (!trait.wide || blocks() > 1);
          break;
        case Kind::constant:
          break;
        case Kind::iota: {
          int axis = space_.axis_of[value.axis];
          trait.wide = axis > space_.axis || (axis == space_.axis && space_.chunk > 1);
          int place = axis < 0 ? -1 : position(axis);
          trait.once = place < 0 || space_.count[place] == 1;
          break;
        }
        case Kind::instruction:
          for (int i = 0; i < value.count; i++) {
            trait.wide |= traits_[value.from[i]].wide;
            trait.once &= traits_[value.from[i]].once;
          }
      }
    }
  }

  // A product that only a sum or a difference reads becomes part of it.
  void fuse() {
    for (size_t v = 0; v < code_.values.size(); v++) {
      ChainValue& value = code_.values[v];
      bool sum = value.op == ChainOp::add, difference = value.op == ChainOp::sub;
      if (!used_[v] || value.kind != Kind::instruction || value.on != ChainType::f32) continue;
      for (int side = 0; side < (sum ? 2 : difference ? 1 : 0); side++) {
        int product = value.from[side], other = value.from[1 - side];
        const ChainValue& p = code_.values[product];
        if (p.kind != Kind::instruction || p.op != ChainOp::mul || p.on != ChainType::f32 ||
            used_[product] != 1 || traits_[product].once != traits_[v].once ||
            traits_[product].wide != traits_[v].wide)
          continue;
        value.op = sum ? ChainOp::multiply_add : ChainOp::multiply_sub;
        value.from[0] = p.from[0], value.from[1] = p.from[1], value.from[2] = other;
        value.count = 3;
        used_[product] = 0;
        break;
      }
    }
  }

  int add_register(Home home, Trait trait, int64_t offset = 0) {
    registers_.push_back({home, offset});
    register_traits_.push_back(trait);
    return static_cast<int>(registers_.size()) - 1;
  }
  // Where a value that is computed lies: what is computed once is shared by all threads.
  int computed(Trait trait) {
    if (!trait.once) return add_register(Home::local, trait);
    int64_t offset = scratch_;
    scratch_ += align_up(kWord * (trait.wide ? space_.block() : 1));
    return add_register(Home::shared, trait, offset);
  }

  std::vector<ChainStep>& steps(Trait trait) { return trait.once ? once_ : steps_; }

  void step(ChainFn fn, int a, int b, int c, int y, Trait trait) {
    auto word = [](int r) { return static_cast<int16_t>(r); };
    steps(trait).push_back(
        {fn, word(a), word(b), word(c), word(y), /*load=*/-1, /*reduction=*/-1, !trait.wide});
  }

  int register_of(int v) {
    if (register_of_[v] < 0) register_of_[v] = define(v);
    return register_of_[v];
  }

  int define(int v) {
    const ChainValue& value = code_.values[v];
    if (value.kind == Kind::operand) return operand(v);
    if (value.kind == Kind::iota) return iota(value);
    constants_.push_back(value.bits);
    return add_register(Home::constant, {}, (constants_.size() - 1) * kWord);
  }

  int operand(int v) {
    Trait trait = traits_[v];
    if (in_place(v)) {
      int r = add_register(Home::operand, trait, v);
      if (!trait.once) in_place_.push_back(r);
      return r;
    }
    ChainLoad load{};
    load.operand = v;
    load.storage = code_.operands[v].storage;
    if (trait.wide) {
      load.per_step = 1;
      for (int a = space_.axis; a < static_cast<int>(space_.shape.size()); a++) {
        int64_t stride = space_.strides[v][a], size = space_.shape[a];
        bool merges = load.rank > 0 && load.stride[load.rank - 1] == stride * size;
        if (!merges) {
          load.size[load.rank] = 1;
          load.rank++;
        }
        load.stride[load.rank - 1] = stride;
        if (a > space_.axis) {
          load.size[load.rank - 1] *= size;
          if (load.rank == 1) load.per_step *= size;
        }
      }
    }
    int y = computed(trait);
    steps(trait).push_back({nullptr, 0, 0, 0, static_cast<int16_t>(y),
                            static_cast<int16_t>(loads_.size()), -1, !trait.wide});
    loads_.push_back(load);
    return y;
  }

  // The index within the block, which repeats, plus the block's first.
  int iota(const ChainValue& value) {
    int axis = space_.axis_of[value.axis];
    int pattern = -1, first = -1;
    if (axis >= space_.axis && (axis > space_.axis || space_.chunk > 1)) {
      int64_t inner = 1;
      for (size_t a = axis + 1; a < space_.shape.size(); a++) inner *= space_.shape[a];
      pattern = computed({.wide = true, .once = true});
      ramps_.push_back({pattern, inner, space_.shape[axis], space_.block()});
    }
    int place = axis < 0 ? -1 : position(axis);
    if (place >= 0 && space_.count[place] > 1) {
      first = add_register(Home::local, {.wide = false, .once = false});
      coordinates_.push_back({first, place, axis == space_.axis ? space_.chunk : 1});
    }
    if (pattern < 0 && first < 0) {
      constants_.push_back(0);
      return add_register(Home::constant, {}, (constants_.size() - 1) * kWord);
    }
    if (pattern < 0 || first < 0) return pattern < 0 ? first : pattern;
    Trait trait{.wide = true, .once = false};
    int y = computed(trait);
    step(chain_loops().find(ChainOp::add, ChainType::s32, 2), pattern, first, first, y, trait);
    return y;
  }

  // The value's register, laid out over a block.
  int wide_register(int v) {
    int r = register_of(v);
    Trait trait = register_traits_[r];
    if (trait.wide) return r;
    if (splat_of_[v] < 0) {
      trait.wide = true;
      splat_of_[v] = computed(trait);
      step(chain_loops().find(ChainOp::splat, ChainType::f32, 0), r, r, r, splat_of_[v], trait);
    }
    return splat_of_[v];
  }

  void instruction(int v) {
    const ChainValue& value = code_.values[v];
    Trait trait = traits_[v];
    unsigned scalars = 0;
    for (int i = 0; i < value.count && trait.wide; i++)
      scalars |= traits_[value.from[i]].wide ? 0u : 1u << i;
    ChainFn fn = nullptr;
    for (unsigned mask : {scalars, scalars & ~1u, 0u}) {
      fn = chain_loops().find(value.op, value.on, mask);
      scalars = mask;
      if (fn) break;
    }
    require(fn, "an instruction has no function");
    int from[3] = {};
    for (int i = 0; i < value.count; i++) {
      bool scalar = !trait.wide || scalars >> i & 1;
      from[i] = scalar ? register_of(value.from[i]) : wide_register(value.from[i]);
    }
    for (int i = value.count; i < 3; i++) from[i] = from[0];
    register_of_[v] = computed(trait);
    step(fn, from[0], from[1], from[2], register_of_[v], trait);
  }

  void plan_reductions() {
    // Each part has enough blocks to be worth it, and there are enough units for every machine.
    constexpr int64_t kUnits = 64, kBlocksAPart = 8;
    parts_ = 1;
    if (space_.kept_blocks < kUnits)
      parts_ = std::clamp<int64_t>(space_.reduced_blocks / kBlocksAPart, 1,
                                   (kUnits + space_.kept_blocks - 1) / space_.kept_blocks);
    auto overlaps = [&](size_t i) {
      return !code_.outputs[i].stores && space_.reduces_blocks(i, true);
    };
    size_t bytes = 0;
    for (size_t i = 0; i < code_.outputs.size(); i++)
      if (overlaps(i)) bytes += code_.outputs[i].elements * kWord;
    while (parts_ > 1 && bytes * parts_ > kPartialBytes) parts_ /= 2;
    reduction_of_.assign(code_.outputs.size(), -1);
    for (size_t i = 0; i < code_.outputs.size(); i++) {
      const ChainOutput& output = code_.outputs[i];
      if (output.stores) continue;
      ChainReduction r{};
      r.x = -1;
      r.fns = chain_loops().reduce(output.reduce, output.type);
      r.result = static_cast<int>(i);
      r.storage = output.storage;
      r.over_blocks = space_.reduces_blocks(i, true) && !space_.reduces_blocks(i, false);
      r.assigns = !space_.reduces_blocks(i, true);
      r.parts = overlaps(i) ? parts_ : 1;
      r.in_result = output.storage == Storage::word && r.parts == 1;
      r.elements = output.elements;
      pattern(r, space_.reduced[i]);
      reduction_of_[i] = static_cast<int>(reductions_.size());
      r.stream = static_cast<int>(code_.operands.size() + 1 + reductions_.size());
      reductions_.push_back(r);
    }
  }

  void pattern(ChainReduction& r, const std::vector<bool>& reduced) {
    r.per_step = 1;
    for (int a = space_.axis; a < static_cast<int>(space_.shape.size()); a++) {
      bool kept = !reduced[a];
      if (r.rank == 0) r.first_kept = kept;
      if (r.rank == 0 || kept != r.last_kept) r.size[r.rank++] = 1;
      r.last_kept = kept;
      if (a == space_.axis) continue;
      r.size[r.rank - 1] *= space_.shape[a];
      if (r.rank == 1) r.per_step *= space_.shape[a];
    }
  }

  // Right after its value, while that is near.
  void reduce(int v) {
    for (size_t i = 0; i < code_.outputs.size(); i++) {
      const ChainOutput& output = code_.outputs[i];
      if (output.stores || output.value != v) continue;
      ChainReduction& r = reductions_[reduction_of_[i]];
      if (r.x >= 0) continue;
      int x = wide_register(v);
      r.x = x;
      steps_.push_back({nullptr, static_cast<int16_t>(x), static_cast<int16_t>(x),
                        static_cast<int16_t>(x), static_cast<int16_t>(x), -1,
                        static_cast<int16_t>(reduction_of_[i]), false});
    }
  }

  void store(int output) {
    int v = code_.outputs[output].value;
    int x = wide_register(v);
    // An operand read in place is copied first: its memory may be another result's.
    if (registers_[x].home == Home::operand) {
      Trait trait{.wide = true, .once = false};
      int y = computed(trait);
      step(chain_loops().find(ChainOp::copy, ChainType::f32, 0), x, x, x, y, trait);
      x = y;
    }
    stores_.push_back({output, x, code_.outputs[output].storage, -1});
  }

  // Gives each local register its memory, reused once its value is not read any more.
  bool place() {
    std::vector<int> last(registers_.size(), -1), written(registers_.size(), -1);
    for (int s = 0; s < static_cast<int>(steps_.size()); s++) {
      const ChainStep& step = steps_[s];
      if (step.load < 0)
        for (int r : {step.a, step.b, step.c}) last[r] = s;
      if (step.fn || step.load >= 0) written[step.y] = s;
    }
    std::vector<bool> straight(registers_.size());
    for (ChainStore& store : stores_) {
      last[store.x] = kForever;
      bool may = written[store.x] >= 0 && registers_[store.x].home == Home::local &&
                 store.storage == Storage::word && !straight[store.x];
      if (may) store.written = written[store.x], straight[store.x] = true;
    }
    last_read_.assign(code_.operands.size(), -1);
    for (int r : in_place_) last_read_[registers_[r].offset] = last[r];

    int64_t slot = align_up(space_.block() * kWord), top = 0;
    std::vector<int64_t> unused;
    auto take = [&] {
      if (unused.empty()) return std::exchange(top, top + slot);
      int64_t offset = unused.back();
      unused.pop_back();
      return offset;
    };
    for (ChainReduction& r : reductions_)
      if (r.over_blocks) r.tile = take();
    for (size_t r = 0; r < registers_.size(); r++)
      if (registers_[r].home == Home::local && !register_traits_[r].wide)
        registers_[r].offset = std::exchange(top, top + align_up(kWord));
    for (int s = 0; s < static_cast<int>(steps_.size()); s++) {
      const ChainStep& step = steps_[s];
      std::vector<int16_t> read{step.a, step.b, step.c};
      std::ranges::sort(read);
      read.erase(std::ranges::unique(read).begin(), read.end());
      bool local_result = (step.fn || step.load >= 0) && registers_[step.y].home == Home::local &&
                          register_traits_[step.y].wide;
      for (int r : read)
        if (step.load < 0 && last[r] == s && registers_[r].home == Home::local &&
            register_traits_[r].wide)
          unused.push_back(registers_[r].offset);
      if (local_result) registers_[step.y].offset = take();
      if (local_result && last[step.y] < s) unused.push_back(registers_[step.y].offset);
    }
    return top <= kChainLocalBytes && registers_.size() <= kChainRegisters;
  }

  void finish() {
    for (ChainReduction& r : reductions_) {
      if (r.in_result) continue;
      r.partial = scratch_;
      scratch_ += align_up(r.parts * r.elements * kWord);
    }
    size_t operands = code_.operands.size();
    size_t streams = operands + 1 + reductions_.size();
    start_.assign(streams, 0);
    for (size_t i = 0; i < operands; i++) start_[i] = code_.operands[i].offset;
    for (int a : space_.order) {
      int64_t scale = a == space_.axis ? space_.chunk : 1, linear = 1;
      for (size_t b = a + 1; b < space_.shape.size(); b++) linear *= space_.shape[b];
      for (size_t i = 0; i < operands; i++) step_.push_back(scale * space_.strides[i][a]);
      step_.push_back(scale * linear);
      for (const ChainReduction& r : reductions_)
        step_.push_back(scale * space_.results[r.result][a]);
    }
    Chain& c = chain_;
    c.axes = static_cast<int>(space_.order.size()), c.streams = static_cast<int>(streams);
    c.chunk_axis = position(space_.axis);
    std::ranges::copy(space_.count, c.count);
    c.start = start_.data(), c.step = step_.data();
    c.chunk = space_.chunk, c.extent = space_.shape[space_.axis], c.inner = space_.inner;
    c.kept_blocks = space_.kept_blocks, c.reduced_blocks = space_.reduced_blocks;
    c.parts = parts_;
    int64_t weight =
        1 + static_cast<int64_t>(steps_.size()) / 4;  // steps in units of a memory access
    c.work = space_.elements() * weight;
    constexpr int64_t kPiece = 16 * 1024;
    int64_t unit = std::max<int64_t>(c.reduced_blocks / c.parts, 1) * space_.block() * weight;
    c.grain = std::max<int64_t>(kPiece / unit, 1);
    c.operands = static_cast<int>(operands), c.results = static_cast<int>(code_.outputs.size());
    c.registers = registers_.data(), c.register_count = static_cast<int>(registers_.size());
    c.constants = constants_.data();
    c.loads = loads_.data();
    c.ramps = ramps_.data(), c.ramp_count = static_cast<int>(ramps_.size());
    c.coordinates = coordinates_.data();
    c.coordinate_count = static_cast<int>(coordinates_.size());
    c.once = once_.data(), c.once_count = static_cast<int>(once_.size());
    c.steps = steps_.data(), c.step_count = static_cast<int>(steps_.size());
    c.in_place = in_place_.data(), c.in_place_count = static_cast<int>(in_place_.size());
    c.last_read = last_read_.data();
    c.stores = stores_.data(), c.store_count = static_cast<int>(stores_.size());
    c.reductions = reductions_.data();
    c.reduction_count = static_cast<int>(reductions_.size());
  }

  ChainCode code_;
  ChainSpace space_;
  std::vector<int> used_;
  std::vector<Trait> traits_, register_traits_;
  std::vector<int> register_of_, splat_of_, reduction_of_;
  int64_t parts_ = 1, scratch_ = 0;

  // What chain_ points to.
  Chain chain_{};
  std::vector<ChainRegister> registers_;
  std::vector<uint32_t> constants_;
  std::vector<ChainLoad> loads_;
  std::vector<ChainRamp> ramps_;
  std::vector<ChainCoordinate> coordinates_;
  std::vector<ChainStep> once_, steps_;
  std::vector<int> in_place_, last_read_;
  std::vector<ChainStore> stores_;
  std::vector<ChainReduction> reductions_;
  std::vector<int64_t> start_, step_;
};

class ChainKernel : public Kernel {
 public:
  explicit ChainKernel(std::unique_ptr<Plan> plan) : plan_(std::move(plan)) {}
  std::string implementation() const override { return std::string("blocks ") + isa_name(); }
  size_t scratch_bytes() const override { return plan_->scratch_bytes(); }
  void run(const Buffers& b) const override {
    chain_loops().run(plan_->chain(), b.in, b.out, b.scratch);
  }

 private:
  std::unique_ptr<Plan> plan_;
};

Offer chain(const Node& node) {
  ChainCode code = parse_chain(node);
  if (node.in.size() > kChainArrays || node.out.size() > kChainArrays)
    return Offer::none("a chain takes up to " + std::to_string(kChainArrays) + " arrays");
  if (code.shape.size() > kChainRank)
    return Offer::none("a chain takes up to " + std::to_string(kChainRank) + " axes");
  for (int64_t block = 512; block >= 64; block /= 2)
    if (auto plan = Plan::make(code, block))
      return Offer(std::make_unique<ChainKernel>(std::move(plan)));
  return Offer::none("the code needs too many registers");
}

const Register kChain("chain", {chain});

}  // namespace
}  // namespace jax_mps::cpu
