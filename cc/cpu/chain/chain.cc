// chain(operands...): elementwise code over one iteration space, with stored and reduced results.
// Plans the run that loops/chain.h describes.
#include "chain.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "chain/code.h"
#include "cpu/device.h"
#include "ir/require.h"
#include "parts.h"

namespace jax_mps::cpu {
namespace {

using Kind = ChainValue::Kind;
constexpr size_t kMaxValues = 4 * kChainRegisters;  // before the registers are counted
constexpr size_t kPartialBytes = size_t{64} << 20;  // of the reductions' parts, at most

class Plan : private ChainParts {
 public:
  // Nothing if what one block touches is more than `bytes`.
  static std::unique_ptr<Plan> make(const ChainCode& code, int64_t block, int64_t bytes,
                                    bool machine_code) {
    auto plan = std::unique_ptr<Plan>(new Plan(code, block));
    return plan->emit(bytes, machine_code) ? std::move(plan) : nullptr;
  }

  bool compiled() const { return machine_code_ != nullptr; }

  using ChainParts::chain_;
  using ChainParts::scratch_;

 private:
  Plan(const ChainCode& code, int64_t block) : ChainParts(code, block) {}

  bool emit(int64_t bytes, bool machine_code) {
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
    if (machine_code && MachineCode::available()) segment();
    if (!place(bytes)) return false;
    if (!compile()) return false;
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
          trait.vector = !space_.constant_inside(v);
          // With one block, nothing is gained by loading ahead of it.
          trait.invariant = space_.constant_outside(v) && (!trait.vector || blocks() > 1);
          break;
        case Kind::constant:
          break;
        case Kind::iota: {
          int axis = space_.axis_of[value.axis];
          trait.vector = axis > space_.axis || (axis == space_.axis && space_.chunk > 1);
          int place = axis < 0 ? -1 : position(axis);
          trait.invariant = place < 0 || space_.count[place] == 1;
          break;
        }
        case Kind::instruction:
          for (int i = 0; i < value.count; i++) {
            trait.vector |= traits_[value.from[i]].vector;
            trait.invariant &= traits_[value.from[i]].invariant;
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
      for (int side = 0; side < (sum || difference ? 2 : 0); side++) {
        int product = value.from[side], other = value.from[1 - side];
        const ChainValue& p = code_.values[product];
        if (p.kind != Kind::instruction || p.op != ChainOp::mul || p.on != ChainType::f32 ||
            used_[product] != 1 || traits_[product].invariant != traits_[v].invariant ||
            traits_[product].vector != traits_[v].vector)
          continue;
        value.op = sum         ? ChainOp::multiply_add
                   : side == 0 ? ChainOp::multiply_sub
                               : ChainOp::multiply_rsub;
        value.from[0] = p.from[0], value.from[1] = p.from[1], value.from[2] = other;
        value.count = 3;
        used_[product] = 0;
        break;
      }
    }
  }

  int add_register(RegisterStorage storage, Trait trait, int64_t offset = 0) {
    registers_.push_back({storage, offset});
    register_traits_.push_back(trait);
    return static_cast<int>(registers_.size()) - 1;
  }
  // Where a value that is computed lies: what is computed once is shared by all threads.
  int computed(Trait trait) {
    if (!trait.invariant) return add_register(RegisterStorage::local, trait);
    int64_t offset = scratch_;
    scratch_ += align_up(kWord * (trait.vector ? space_.block() : 1));
    return add_register(RegisterStorage::shared, trait, offset);
  }

  std::vector<ChainStep>& steps(Trait trait) { return trait.invariant ? invariant_ : steps_; }

  // y = op(from...), where the operands in the mask `scalars` are one element.
  void step(ChainOp op, ChainType on, unsigned scalars, std::initializer_list<int> from, int y,
            Trait trait) {
    auto from_or_first = [&](size_t i) {
      return static_cast<int16_t>(i < from.size() ? from.begin()[i] : *from.begin());
    };
    ChainStep step;
    step.fn = chain_loops().find(op, on, op == ChainOp::splat ? 0 : scalars);
    require(step.fn, "an instruction has no function");
    step.a = from_or_first(0), step.b = from_or_first(1), step.c = from_or_first(2);
    step.y = static_cast<int16_t>(y);
    step.scalar = !trait.vector;
    step.op = op, step.on = on;
    step.count = static_cast<uint8_t>(from.size()), step.scalars = static_cast<uint8_t>(scalars);
    steps(trait).push_back(step);
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
    return add_register(RegisterStorage::constant, {}, (constants_.size() - 1) * kWord);
  }

  int operand(int v) {
    Trait trait = traits_[v];
    if (in_place(v)) {
      int r = add_register(RegisterStorage::operand, trait, v);
      if (!trait.invariant) in_place_.push_back(r);
      return r;
    }
    ChainLoad load{};
    load.operand = v;
    load.storage = code_.operands[v].storage;
    if (trait.vector) {
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
    ChainStep load_step;
    load_step.y = static_cast<int16_t>(y), load_step.load = static_cast<int16_t>(loads_.size());
    load_step.scalar = !trait.vector;
    steps(trait).push_back(load_step);
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
      pattern = computed({.vector = true, .invariant = true});
      ramps_.push_back({pattern, inner, space_.shape[axis], space_.block()});
    }
    int place = axis < 0 ? -1 : position(axis);
    if (place >= 0 && space_.count[place] > 1) {
      first = add_register(RegisterStorage::local, {.vector = false, .invariant = false});
      coordinates_.push_back({first, place, axis == space_.axis ? space_.chunk : 1});
    }
    if (pattern < 0 && first < 0) {
      constants_.push_back(0);
      return add_register(RegisterStorage::constant, {}, (constants_.size() - 1) * kWord);
    }
    if (pattern < 0 || first < 0) return pattern < 0 ? first : pattern;
    Trait trait{.vector = true, .invariant = false};
    int y = computed(trait);
    step(ChainOp::add, ChainType::s32, 2, {pattern, first}, y, trait);
    return y;
  }

  // The value's register, laid out over a block.
  int wide_register(int v) {
    int r = register_of(v);
    Trait trait = register_traits_[r];
    if (trait.vector) return r;
    if (splat_of_[v] < 0) {
      trait.vector = true;
      splat_of_[v] = computed(trait);
      step(ChainOp::splat, ChainType::f32, 1, {r}, splat_of_[v], trait);
    }
    return splat_of_[v];
  }

  void instruction(int v) {
    const ChainValue& value = code_.values[v];
    Trait trait = traits_[v];
    unsigned scalars = 0;
    for (int i = 0; i < value.count && trait.vector; i++)
      scalars |= traits_[value.from[i]].vector ? 0u : 1u << i;
    bool found = false;
    for (unsigned mask : {scalars, scalars & ~1u, 0u}) {
      found = chain_loops().find(value.op, value.on, mask) != nullptr;
      scalars = mask;
      if (found) break;
    }
    require(found, "an instruction has no function");
    int from[3] = {};
    for (int i = 0; i < value.count; i++) {
      bool scalar = !trait.vector || scalars >> i & 1;
      from[i] = scalar ? register_of(value.from[i]) : wide_register(value.from[i]);
    }
    register_of_[v] = computed(trait);
    int y = register_of_[v];
    if (value.count == 1) step(value.op, value.on, scalars, {from[0]}, y, trait);
    if (value.count == 2) step(value.op, value.on, scalars, {from[0], from[1]}, y, trait);
    if (value.count == 3) step(value.op, value.on, scalars, {from[0], from[1], from[2]}, y, trait);
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
      if (r.over_blocks)
        r.tile_register =
            add_register(RegisterStorage::local, {.vector = true, .invariant = false});
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
      ChainStep fold;
      fold.a = fold.b = fold.c = static_cast<int16_t>(x);
      fold.reduction = static_cast<int16_t>(reduction_of_[i]);
      steps_.push_back(fold);
    }
  }

  void store(int output) {
    int v = code_.outputs[output].value;
    int x = wide_register(v);
    // An operand read in place is copied first: its memory may be another result's.
    if (registers_[x].storage == RegisterStorage::operand) {
      Trait trait{.vector = true, .invariant = false};
      int y = computed(trait);
      step(ChainOp::copy, ChainType::f32, 0, {x}, y, trait);
      x = y;
    }
    const ChainOutput& o = code_.outputs[output];
    stores_.push_back({output, x, o.storage, -1, o.cols, o.row});
  }
};

class ChainKernel : public Kernel {
 public:
  explicit ChainKernel(std::unique_ptr<Plan> plan) : plan_(std::move(plan)) {}
  std::string implementation() const override {
    return std::string(plan_->compiled() ? "machine code " : "blocks ") + isa_name();
  }
  size_t scratch_bytes() const override { return plan_->scratch_; }
  void run(const Buffers& b) const override {
    chain_loops().run(plan_->chain_, b.in, b.out, b.scratch);
  }
  const Chain& chain() const { return plan_->chain_; }

 private:
  std::unique_ptr<Plan> plan_;
};

Offer chain(const Node& node) {
  ChainCode code = parse_chain(node);
  if (node.in.size() > kChainArrays || node.out.size() > kChainArrays)
    return Offer::none("a chain takes up to " + std::to_string(kChainArrays) + " arrays");
  if (code.shape.size() > kChainRank)
    return Offer::none("a chain takes up to " + std::to_string(kChainRank) + " axes");
  // Few registers stay in the first-level cache in long blocks, many in short ones.
  for (bool machine_code : {true, false})
    for (auto [block, bytes] : {std::pair<int64_t, int64_t>{1024, 28 * 1024},
                                {512, 28 * 1024},
                                {kShortBlock, kChainLocalBytes},
                                {64, kChainLocalBytes}})
      if (auto plan = Plan::make(code, block, bytes, machine_code))
        return Offer(std::make_unique<ChainKernel>(std::move(plan)));
  return Offer::none("the code needs too many registers");
}

const Register kChain("chain", {chain}, /*pitched_rows=*/true);

}  // namespace

const Chain* chain_without_reductions(const Kernel& kernel) {
  auto* found = dynamic_cast<const ChainKernel*>(&kernel);
  return found && found->chain().reduction_count == 0 ? &found->chain() : nullptr;
}

}  // namespace jax_mps::cpu
