// The engine of chains: loads, instructions, reductions and stores of one block after another.
#include "chain.h"

#include <bit>
#include <cstring>

#include "chain_code.h"
#include "chain_reduce.h"
#include "half.h"
#include "parallel.h"

namespace jax_mps::cpu::JAX_MPS_ISA {
namespace {

constexpr size_t kWord = sizeof(uint32_t);

uint32_t word_of(uint32_t x) { return x; }
uint32_t word_of_bf16(uint16_t x) { return std::bit_cast<uint32_t>(bf16_to_f32(x)); }
uint32_t word_of_f16(uint16_t x) { return std::bit_cast<uint32_t>(f16_to_f32(x)); }
uint32_t word_of_byte(uint8_t x) { return x; }
uint32_t word_of_truth(uint8_t x) { return x != 0; }
uint16_t bf16_of(uint32_t x) { return f32_to_bf16(std::bit_cast<float>(x)); }
uint16_t f16_of(uint32_t x) { return f32_to_f16(std::bit_cast<float>(x)); }
uint8_t byte_of(uint32_t x) { return static_cast<uint8_t>(x); }

template <class X, uint32_t (*f)(X)>
void load_row(const X* x, uint32_t* y, int64_t n, int64_t stride) {
  if (stride == 1) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = f(x[i]);
  } else if (stride == 0) {
    uint32_t value = f(*x);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = value;
  } else {
    for (int64_t i = 0; i < n; i++) y[i] = f(x[i * stride]);
  }
}

template <class X, uint32_t (*f)(X)>
void load_tile(const ChainLoad& load, const void* operand, int64_t offset, int64_t steps,
               uint32_t* y) {
  const X* x = static_cast<const X*>(operand) + offset;
  if (load.rank == 0) {
    *y = f(*x);
    return;
  }
  int64_t first = load.per_step * steps;
  int last = load.rank - 1;
  if (last == 0) return load_row<X, f>(x, y, first, load.stride[0]);
  int64_t index[kChainRank] = {};
  int64_t row = load.size[last];
  for (;;) {
    load_row<X, f>(x, y, row, load.stride[last]);
    y += row;
    int axis = last - 1;
    for (;; axis--) {
      x += load.stride[axis];
      int64_t size = axis == 0 ? first : load.size[axis];
      if (++index[axis] < size) break;
      if (axis == 0) return;
      x -= load.stride[axis] * size;
      index[axis] = 0;
    }
  }
}

// `steps` is the block's number of steps along the chunked axis.
void run_load(const ChainLoad& load, const void* operand, int64_t offset, int64_t steps, void* y) {
  auto* out = static_cast<uint32_t*>(y);
  switch (load.storage) {
    case Storage::word:
      return load_tile<uint32_t, word_of>(load, operand, offset, steps, out);
    case Storage::bf16:
      return load_tile<uint16_t, word_of_bf16>(load, operand, offset, steps, out);
    case Storage::f16:
      return load_tile<uint16_t, word_of_f16>(load, operand, offset, steps, out);
    case Storage::byte:
      return load_tile<uint8_t, word_of_byte>(load, operand, offset, steps, out);
    case Storage::truth:
      return load_tile<uint8_t, word_of_truth>(load, operand, offset, steps, out);
  }
}

template <class Y, Y (*f)(uint32_t)>
void store_all(const void* x, void* result, int64_t offset, int64_t n) {
  auto* in = static_cast<const uint32_t*>(x);
  auto* y = static_cast<Y*>(result) + offset;
#pragma omp simd
  for (int64_t i = 0; i < n; i++) y[i] = f(in[i]);
}

void run_store(Storage storage, const void* x, void* result, int64_t offset, int64_t n) {
  switch (storage) {
    case Storage::word:
      return store_all<uint32_t, word_of>(x, result, offset, n);
    case Storage::bf16:
      return store_all<uint16_t, bf16_of>(x, result, offset, n);
    case Storage::f16:
      return store_all<uint16_t, f16_of>(x, result, offset, n);
    case Storage::byte:
    case Storage::truth:
      return store_all<uint8_t, byte_of>(x, result, offset, n);
  }
}

// The same into rows that lie apart.
void store_rows(const ChainStore& store, const char* x, void* result, int64_t linear, int64_t n) {
  while (n > 0) {
    int64_t at = linear % store.cols, piece = store.cols - at < n ? store.cols - at : n;
    run_store(store.storage, x, result, linear / store.cols * store.row + at, piece);
    x += piece * kWord, linear += piece, n -= piece;
  }
}

// Folds a tile into its part of a result: the kept axes of a tile are consecutive there.
struct Fold {
  const ChainReduction& r;
  int64_t size[kChainRank], outs[kChainRank];  // outs: result elements of all axes after

  Fold(const ChainReduction& r, int64_t steps) : r(r) {
    int64_t after = 1;
    bool kept = r.last_kept;
    for (int axis = r.rank - 1; axis >= 0; axis--, kept = !kept) {
      size[axis] = axis == 0 ? r.per_step * steps : r.size[axis];
      outs[axis] = after;
      if (kept) after *= size[axis];
    }
    total = after;
  }

  int64_t total;

  void run(const char* x, char* y, bool fresh) const {
    if (fresh) r.fns.fill(y, total);
    fold(x, y, 0, r.first_kept);
  }

 private:
  void fold(const char* x, char* y, int axis, bool kept) const {
    int left = r.rank - axis;
    if (left == 1 && kept) return r.fns.columns(x, y, 1, size[axis]);
    if (left == 1) return r.fns.rows(x, y, 1, size[axis]);
    if (left == 2 && kept) return r.fns.rows(x, y, size[axis], size[axis + 1]);
    if (left == 2) return r.fns.columns(x, y, size[axis], size[axis + 1]);
    int64_t volume = 1;
    for (int i = axis + 1; i < r.rank; i++) volume *= size[i];
    for (int64_t i = 0; i < size[axis]; i++)
      fold(x + i * volume * kWord, y + (kept ? i * outs[axis] * kWord : 0), axis + 1, !kept);
  }
};

// One run of a chain: what all its threads share.
struct Run {
  const Chain* plan;
  const void* const* in;
  void* const* out;
  std::byte* scratch;
  char** shared;   // [registers] where each lies, as far as threads share it
  bool* straight;  // [stores] its register lies in the result

  char* reduction_target(const ChainReduction& r, int64_t part) const {
    if (r.in_result) return static_cast<char*>(out[r.result]);
    int64_t copy = r.parts > 1 ? part : 0;
    return reinterpret_cast<char*>(scratch) + r.partial + copy * r.elements * kWord;
  }

  void prologue() {
    for (int r = 0; r < plan->register_count; r++) {
      const ChainRegister& place = plan->registers[r];
      shared[r] = nullptr;
      if (place.storage == RegisterStorage::constant)
        shared[r] = reinterpret_cast<char*>(const_cast<uint32_t*>(plan->constants)) + place.offset;
      if (place.storage == RegisterStorage::operand)
        shared[r] = const_cast<char*>(static_cast<const char*>(in[place.offset])) +
                    plan->start[place.offset] * kWord;
      if (place.storage == RegisterStorage::shared)
        shared[r] = reinterpret_cast<char*>(scratch) + place.offset;
    }
    for (int i = 0; i < plan->ramp_count; i++) {
      const ChainRamp& ramp = plan->ramps[i];
      auto* y = reinterpret_cast<int32_t*>(shared[ramp.y]);
      for (int64_t j = 0; j < ramp.n; j++) y[j] = static_cast<int32_t>(j / ramp.inner % ramp.size);
    }
    for (int i = 0; i < plan->invariant_count; i++) {
      const ChainStep& step = plan->invariant[i];
      if (step.load >= 0) {
        const ChainLoad& load = plan->loads[step.load];
        run_load(load, in[load.operand], plan->start[load.operand], plan->chunk, shared[step.y]);
      } else {
        step.fn(shared[step.a], shared[step.b], shared[step.c], shared[step.y],
                step.scalar ? 1 : plan->chunk * plan->inner);
      }
    }
    // A result may lie in an operand's memory: then it is written there at once only if the
    // operand is not read any more.
    for (int s = 0; s < plan->store_count; s++) {
      const ChainStore& store = plan->stores[s];
      straight[s] = store.written >= 0;
      for (int i = 0; i < plan->in_place_count; i++) {
        int64_t operand = plan->registers[plan->in_place[i]].offset;
        if (in[operand] == out[store.result] && plan->last_read[operand] > store.written)
          straight[s] = false;
      }
    }
    for (int i = 0; i < plan->reduction_count; i++) {
      const ChainReduction& r = plan->reductions[i];
      if (!r.over_blocks && !r.assigns)
        r.fns.fill(reduction_target(r, 0), (r.in_result ? 1 : r.parts) * r.elements);
    }
  }

  // The units [begin, end): each is one part of the reduced blocks of one kept block.
  void units(int64_t begin, int64_t end) const {
    alignas(64) char local[kChainLocalBytes];
    char* reg[kChainRegisters];
    int64_t at[kChainArrays * 2], index[kChainRank];
    for (int r = 0; r < plan->register_count; r++)
      reg[r] = plan->registers[r].storage == RegisterStorage::local
                   ? local + plan->registers[r].offset
                   : shared[r];
    int64_t block = first_block(begin);
    for (int s = 0; s < plan->streams; s++) at[s] = plan->start[s];
    for (int axis = plan->axes - 1; axis >= 0; axis--) {
      index[axis] = block % plan->count[axis];
      block /= plan->count[axis];
      const int64_t* step = plan->step + axis * plan->streams;
      for (int s = 0; s < plan->streams; s++) at[s] += index[axis] * step[s];
    }
    for (int64_t unit = begin; unit < end; unit++) {
      int64_t part = unit % plan->parts;
      for (int i = 0; i < plan->reduction_count; i++)
        if (plan->reductions[i].over_blocks)
          plan->reductions[i].fns.fill(local + plan->reductions[i].tile, plan->chunk * plan->inner);
      int64_t blocks = first_block(unit + 1) - first_block(unit);
      for (int64_t b = 0; b < blocks; b++) {
        int64_t done = index[plan->chunk_axis] * plan->chunk;
        int64_t steps = plan->extent - done < plan->chunk ? plan->extent - done : plan->chunk;
        run_block(reg, local, at, index, steps, part);
        if (b == blocks - 1) flush(local, at, steps, part);
        for (int axis = plan->axes - 1; axis >= 0; axis--) {
          const int64_t* step = plan->step + axis * plan->streams;
          if (++index[axis] < plan->count[axis]) {
            for (int s = 0; s < plan->streams; s++) at[s] += step[s];
            break;
          }
          for (int s = 0; s < plan->streams; s++) at[s] -= (index[axis] - 1) * step[s];
          index[axis] = 0;
        }
      }
    }
  }

  // Parts become the result.
  void finish() const {
    for (int i = 0; i < plan->reduction_count; i++) {
      const ChainReduction& r = plan->reductions[i];
      if (r.in_result) continue;
      parallel_pieces(r.elements, 1024, r.elements * r.parts, [&](int64_t begin, int64_t end) {
        char* first = reduction_target(r, 0) + begin * kWord;
        for (int64_t part = 1; part < r.parts; part++)
          r.fns.columns(first + part * r.elements * kWord, first, 1, end - begin);
        run_store(r.storage, first, out[r.result], begin, end - begin);
      });
    }
  }

 private:
  int64_t first_block(int64_t unit) const {
    return unit / plan->parts * plan->reduced_blocks +
           unit % plan->parts * plan->reduced_blocks / plan->parts;
  }

  void run_block(char** reg, char* local, const int64_t* at, const int64_t* index, int64_t steps,
                 int64_t part) const {
    int64_t n = steps * plan->inner, linear = at[plan->operands];
    for (int i = 0; i < plan->in_place_count; i++) {
      int64_t operand = plan->registers[plan->in_place[i]].offset;
      reg[plan->in_place[i]] =
          const_cast<char*>(static_cast<const char*>(in[operand])) + at[operand] * kWord;
    }
    for (int s = 0; s < plan->store_count; s++)
      if (straight[s])
        reg[plan->stores[s].x] = static_cast<char*>(out[plan->stores[s].result]) + linear * kWord;
    for (int i = 0; i < plan->coordinate_count; i++) {
      const ChainCoordinate& c = plan->coordinates[i];
      *reinterpret_cast<int32_t*>(reg[c.y]) = static_cast<int32_t>(index[c.axis] * c.scale);
    }
    for (int i = 0; i < plan->step_count; i++) {
      const ChainStep& step = plan->steps[i];
      if (step.compiled) {
        step.compiled(reg, n);
      } else if (step.fn) {
        step.fn(reg[step.a], reg[step.b], reg[step.c], reg[step.y], step.scalar ? 1 : n);
      } else if (step.load >= 0) {
        const ChainLoad& load = plan->loads[step.load];
        run_load(load, in[load.operand], at[load.operand], steps, reg[step.y]);
      } else {
        const ChainReduction& r = plan->reductions[step.reduction];
        if (r.over_blocks) {
          r.fns.columns(reg[r.x], local + r.tile, 1, n);
        } else {
          char* y = reduction_target(r, part) + at[r.stream] * kWord;
          Fold(r, steps).run(reg[r.x], y, r.assigns);
        }
      }
    }
    for (int s = 0; s < plan->store_count; s++)
      if (plan->stores[s].row)
        store_rows(plan->stores[s], reg[plan->stores[s].x], out[plan->stores[s].result], linear, n);
      else if (!straight[s])
        run_store(plan->stores[s].storage, reg[plan->stores[s].x], out[plan->stores[s].result],
                  linear, n);
  }

  // A unit's tiles: whole, if the chunked axis is reduced.
  void flush(const char* local, const int64_t* at, int64_t steps, int64_t part) const {
    for (int i = 0; i < plan->reduction_count; i++) {
      const ChainReduction& r = plan->reductions[i];
      if (!r.over_blocks) continue;
      int64_t whole = r.first_kept ? steps : plan->chunk;
      Fold(r, whole).run(local + r.tile, reduction_target(r, part) + at[r.stream] * kWord, true);
    }
  }
};

// The units of a run are cut into so many pieces of plan->grain units.
int64_t piece_count(const Chain& chain) {
  return (chain.kept_blocks * chain.parts + chain.grain - 1) / chain.grain;
}

void run(const Chain& chain, const void* const* in, void* const* out, std::byte* scratch) {
  char* shared[kChainRegisters];
  bool straight[kChainArrays];
  Run run{&chain, in, out, scratch, shared, straight};
  run.prologue();
  parallel_pieces(chain.kept_blocks * chain.parts, chain.grain, chain.work,
                  [&](int64_t begin, int64_t end) { run.units(begin, end); });
  run.finish();
}

void run_batched(const ChainRun* runs, int count) {
  Run run[kBatched];
  int64_t first[kBatched + 1], work = 0;  // the first piece of each run
  char* shared[kBatchedRegisters];
  bool straight[kBatchedStores];
  char** next_register = shared;
  bool* next_store = straight;
  first[0] = 0;
  for (int i = 0; i < count; i++) {
    const Chain& chain = *runs[i].chain;
    run[i] = {&chain, runs[i].in, runs[i].out, runs[i].scratch, next_register, next_store};
    next_register += chain.register_count, next_store += chain.store_count;
    run[i].prologue();
    first[i + 1] = first[i] + piece_count(chain);
    work += chain.work;
  }
  parallel(first[count], work, [&](int64_t piece) {
    int low = 0, high = count;  // the piece is one of the runs [low, high)
    while (high - low > 1) {
      int middle = (low + high) / 2;
      (first[middle] <= piece ? low : high) = middle;
    }
    const Chain& chain = *run[low].plan;
    int64_t begin = (piece - first[low]) * chain.grain, end = chain.kept_blocks * chain.parts;
    run[low].units(begin, begin + chain.grain < end ? begin + chain.grain : end);
  });
}

}  // namespace

extern const ChainLoops chain_loops_table = {find_instruction, find_reduction, run, run_batched};

}  // namespace jax_mps::cpu::JAX_MPS_ISA
