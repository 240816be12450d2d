// A node as parts, each of them a oneDNN primitive that one thread runs.
//
// oneDNN's own threads would cut the work by their number: sums would depend on it, and a thread
// that the system does not run would hold up all others at every barrier. Here the sizes alone say
// what the parts are, and threads.h shares them out.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "onednn.h"

#ifdef JAX_MPS_ONEDNN

namespace jax_mps::cpu {

// A copy of an array in another layout, by all threads.
class Reorder {
 public:
  // Cut along the axis, where oneDNN can.
  Reorder(const dnnl::memory::desc& from, const dnnl::memory::desc& to, int axis);

  int64_t pieces() const { return static_cast<int64_t>(pieces_.size()); }
  void run(int64_t piece, const void* from, void* to, const std::string& name) const;

 private:
  struct Piece {
    dnnl::memory::desc from, to;
    dnnl::reorder reorder;
  };
  std::vector<Piece> pieces_;
};

struct PartArgument {
  enum class Kind {
    operand,  // if the primitive wants it in another layout, each part makes its own copy
    shared,   // parts that want the same copy share one
    result,
    partial,  // a share of a sum, see Parts::add_sum()
  };
  Kind kind;
  int id;         // DNNL_ARG_...
  size_t array;   // of those that run() is given
  size_t offset;  // in bytes, of the part's first element
  dnnl::memory::desc given, wanted;
};

struct Part {
  dnnl::primitive primitive;
  dnnl::memory::desc scratchpad;
  std::string implementation;  // as oneDNN names it
  std::vector<PartArgument> arguments;
  int sum = -1;  // what its partial result belongs to
};

class Parts {
 public:
  void add(Part part) { parts_.push_back(std::move(part)); }
  // A result in the place of an array which is the sum of the partial results, in float32, of some
  // parts. Of a matrix it may be added to what is there.
  int add_sum(size_t array, size_t offset, const dnnl::memory::desc& given, bool adds = false);
  // After the last part. `axis` is the one along which shared operands are cut; they are copied
  // where the layouts differ, or always.
  void finish(int axis, bool always = false);

  const std::string& name() const { return name_; }  // of the first
  size_t scratch_bytes() const { return shared_bytes_ + own_bytes_; }
  void run(void* const* arrays, std::byte* scratch) const {
    share(arrays, scratch);
    run(arrays, scratch, scratch + shared_bytes_);
  }

  // The same in two steps: the copies that parts share, in memory of their own, then the rest.
  size_t shared_bytes() const { return shared_bytes_; }
  size_t own_bytes() const { return own_bytes_; }
  void share(void* const* arrays, std::byte* shared) const;
  void run(void* const* arrays, const std::byte* shared, std::byte* scratch) const;

 private:
  struct Argument : PartArgument {
    std::optional<dnnl::reorder> reorder;
    size_t place = 0;      // of the copy: in a thread's memory or among the shared ones
    size_t sum_place = 0;  // of a partial result
  };
  struct Bound {
    std::vector<Argument> arguments;
    size_t scratchpad_place = 0;
  };
  struct Shared {
    size_t array = 0, offset = 0;
    dnnl::memory::desc given, wanted;
    Reorder reorder;
    size_t place;
  };
  struct Sum {
    size_t array = 0, offset = 0;
    dnnl::memory::desc given;
    bool adds = false;
    dnnl::memory::desc wanted;
    std::vector<size_t> places;
    std::optional<Reorder> reorder;  // of all but matrices, whose rows are summed where they belong
    int64_t rows = 1, row = 0, pitch = 0;  // of row floats each
  };

  void run_part(size_t part, void* const* arrays, const std::byte* shared, std::byte* partial,
                std::byte* own) const;
  void run_sums(void* const* arrays, std::byte* partial) const;

  std::vector<Part> parts_;
  std::vector<Bound> bound_;
  std::vector<Shared> shared_;
  std::vector<Sum> sums_;
  size_t shared_bytes_ = 0, partial_bytes_ = 0, thread_bytes_ = 0, own_bytes_ = 0;
  std::string name_;
};

// Sizes of n in `parts` parts that differ by one `step` at most.
struct Even {
  int64_t n, parts, step;
  Even(int64_t n, int64_t parts, int64_t step = 1)
      : n(n), parts(parts < 1 ? 1 : parts), step(step) {
    const int64_t steps = (n + step - 1) / step;
    if (this->parts > steps) this->parts = steps;
  }
  int64_t begin(int64_t part) const {
    const int64_t steps = (n + step - 1) / step, at = part * steps / parts * step;
    return at < n ? at : n;
  }
  int64_t size(int64_t part) const { return begin(part + 1) - begin(part); }
};

// A node whose operands, then its result, are the arrays of parts.
class OneDnnKernel : public Kernel {
 public:
  OneDnnKernel(Parts parts, const Node& node, std::optional<Neuron> after = std::nullopt)
      : parts_(std::move(parts)),
        operands_(node.in.size()),
        elements_(node.out[0].elements()),
        after_(after) {}

  std::string implementation() const override { return parts_.name(); }
  size_t scratch_bytes() const override { return parts_.scratch_bytes(); }
  void run(const Buffers& buffers) const override;

 private:
  Parts parts_;
  size_t operands_;
  int64_t elements_;
  std::optional<Neuron> after_;
};

// How many parts are worth while of so much work, in floating-point operations.
int64_t worthwhile_parts(double flops);

}  // namespace jax_mps::cpu
#endif
