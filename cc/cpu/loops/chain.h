// Elementwise code over an iteration space, run block by block: a block is 256 or 1024
// elements that are consecutive in row-major order, a register holds one 32-bit word for each of
// them (true and false are 1 and 0). This header is the plan; cpu/chain/chain.cc makes
// it.
#pragma once

#include <cstddef>

#include "chain/types.h"
#include "cpu/isa.h"

namespace jax_mps::cpu {

constexpr int kChainRegisters = 512;         // of one chain
constexpr int kChainArrays = 192;            // operands and results of one chain
constexpr int kChainLocalBytes = 64 * 1024;  // of registers of one thread

// y[i] = f(a[i], b[i], c[i]). Operands may be y itself.
using ChainFn = void (*)(const void* a, const void* b, const void* c, void* y, int64_t n);

// Machine code for several steps at once: the addresses of all registers, and the length of the
// block.
using ChainCompiled = void (*)(char* const* registers, int64_t n);

struct ReduceFns {
  void (*fill)(void* y, int64_t n);                                     // with the identity
  void (*columns)(const void* x, void* y, int64_t rows, int64_t cols);  // y[c] = f(y[c], x[:, c])
  void (*rows)(const void* x, void* y, int64_t rows, int64_t cols);     // y[r] = f(y[r], x[r, :])
};

// Where a register lies.
enum class RegisterStorage : uint8_t { constant, shared, local, operand };
struct ChainRegister {
  RegisterStorage storage;
  int64_t offset;  // bytes; the operand's number if it is read in place
};

// Fills a register from an operand that is not read in place. The axes are the tile's: the first is
// `per_step` times the block's steps along the chunked axis. With ramp, it is the index along an
// axis of size[0] * per_step steps of `stride[0]` elements each instead.
struct ChainLoad {
  int operand, rank;
  Storage storage;
  int64_t per_step, size[kChainRank], stride[kChainRank];
};

struct ChainStep {
  ChainFn fn = nullptr;  // or a load, a reduction or a segment
  int16_t a = 0, b = 0, c = 0, y = 0;
  int16_t load = -1, reduction = -1, segment = -1;
  bool scalar = false;               // one element in place of the block
  ChainCompiled compiled = nullptr;  // of a segment
  // What fn does.
  ChainOp op = ChainOp::copy;
  ChainType on = ChainType::f32;
  uint8_t count = 0, scalars = 0;  // operands, and the mask of those that are one element
  int16_t operand(int i) const { return i == 0 ? a : i == 1 ? b : c; }
};

// y[i] = (i / inner) % size: the index along an axis, within a tile.
struct ChainRamp {
  int y;
  int64_t inner, size, n;
};

// A scalar register that holds the first index of the block along an enumerated axis.
struct ChainCoordinate {
  int y, axis;
  int64_t scale;
};

struct ChainStore {
  int result, x;
  Storage storage;
  int written;        // the step that writes x straight into the result, or -1 if none may
  int64_t cols, row;  // rows of cols elements that lie row apart in the result, unless row is 0
};

struct ChainReduction {
  ReduceFns fns;
  int result, x, stream;
  Storage storage;
  bool over_blocks;   // accumulates blocks elementwise in a local tile, folded at the unit's end
  bool assigns;       // each element of the result is folded once in a part
  bool in_result;     // folds into the result itself
  int64_t parts;      // copies of the result in scratch, one a part
  int64_t partial;    // their offset
  int64_t elements;   // of the result
  int64_t tile;       // offset of the local tile
  int tile_register;  // that lies there
  int rank;           // of the tile's pattern, alternating kept and reduced
  bool first_kept, last_kept;
  int64_t per_step, size[kChainRank];
};

struct Chain {
  // Blocks are enumerated over `axes` axes, outermost first; each axis moves each stream of offsets
  // (one an operand, then the linear index, then one a reduction) by a step.
  int axes, streams, chunk_axis;
  int64_t count[kChainRank];
  const int64_t* start;          // [streams]
  const int64_t* step;           // [axes][streams]
  int64_t chunk, extent, inner;  // a block is min(chunk, what is left of extent) * inner elements
  int64_t kept_blocks, reduced_blocks, parts;  // units are kept_blocks * parts
  int64_t grain, work;

  int operands, results;
  const ChainRegister* registers;
  int register_count;
  const uint32_t* constants;
  const ChainLoad* loads;
  const ChainRamp* ramps;
  int ramp_count;
  const ChainCoordinate* coordinates;
  int coordinate_count;
  const ChainStep *invariant, *steps;  // once a run, once a block
  int invariant_count, step_count;
  const int* in_place;  // registers of the operands that move with the blocks
  int in_place_count;
  const int* last_read;  // of an operand: the last step
  const ChainStore* stores;
  int store_count;
  const ChainReduction* reductions;
  int reduction_count;
};

// One of several chains that run together. They reduce nothing, and none touches what another
// writes.
struct ChainRun {
  const Chain* chain;
  const void* const* in;
  void* const* out;
  std::byte* scratch;  // its own
};
constexpr int kBatched = 128, kBatchedRegisters = 4096, kBatchedStores = 1024;  // at most

struct ChainLoops {
  // The function of an instruction on operands of a type, for the operands in the mask being
  // scalars; nullptr where there is none.
  ChainFn (*find)(ChainOp op, ChainType type, unsigned scalars);
  ReduceFns (*reduce)(Reduce reduce, ChainType type);
  void (*run)(const Chain& chain, const void* const* in, void* const* out, std::byte* scratch);
  // The same numbers as by run, one after another; all threads share the work of all.
  void (*run_batched)(const ChainRun* runs, int count);
};
JAX_MPS_LOOPS(ChainLoops, chain_loops)

}  // namespace jax_mps::cpu
