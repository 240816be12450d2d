#include "guard.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string_view>
#include <vector>

namespace jax_mps::cpu {
namespace {

enum class Mode { off, canaries, pages };

Mode mode() {
  static const Mode mode = [] {
    const char* value = std::getenv("JAX_MPS_GUARD");
    std::string_view wanted = value ? value : "";
    return wanted == "1" ? Mode::canaries : wanted == "2" ? Mode::pages : Mode::off;
  }();
  return mode;
}

constexpr size_t kMargin = 1 << 16;  // on each side, a multiple of every page size
constexpr int kCanary = 0xff;        // NaN in every floating dtype: what is read here shows up

// Memory of its own, aligned to 64 bytes, that ends (up to the alignment) where a margin begins.
class Guarded {
 public:
  explicit Guarded(size_t bytes) : bytes_(bytes) {
    size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    size_ = (bytes + page - 1) / page * page + 2 * kMargin;
    void* all = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) throw std::runtime_error("no memory for the arrays under JAX_MPS_GUARD");
    begin_ = static_cast<std::byte*>(all);
    data_ = end() - kMargin - (bytes + 63) / 64 * 64;
    std::memset(begin_, kCanary, size_);
    if (mode() == Mode::pages) {
      mprotect(begin_, kMargin, PROT_NONE);
      mprotect(end() - kMargin, kMargin, PROT_NONE);
    }
  }
  Guarded(Guarded&& other) noexcept : Guarded(other) { other.begin_ = nullptr; }
  ~Guarded() {
    if (begin_) munmap(begin_, size_);
  }

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

  void require_canaries(const std::string& who, const std::string& what) const {
    size_t closed = mode() == Mode::pages ? kMargin : 0;
    auto broken = [](std::byte b) { return b != std::byte{kCanary}; };
    const std::byte* before = std::find_if(begin_ + closed, data_, broken);
    const std::byte* after = std::find_if(data_ + bytes_, end() - closed, broken);
    auto fail = [&](size_t distance, const char* where) {
      throw std::runtime_error(who + " wrote outside of " + what + ", " + std::to_string(distance) +
                               " bytes " + where);
    };
    if (before != data_) fail(data_ - before, "before its begin");
    if (after != end() - closed) fail(after - data_ - bytes_, "after its end");
  }

 private:
  Guarded(const Guarded&) = default;
  std::byte* end() const { return begin_ + size_; }

  size_t bytes_, size_;
  std::byte *begin_, *data_;
};

size_t span_bytes(const TensorType& type) {
  return static_cast<size_t>(type.span()) * size_of(type.dtype);
}

// f(offset, bytes) of each row of an array of pitched rows, or of the whole array.
template <class F>
void over_rows(const TensorType& type, const F& f) {
  if (!type.row) return f(size_t{0}, span_bytes(type));
  size_t size = size_of(type.dtype), row = type.dim(-1) * size, pitch = type.row * size;
  for (int64_t i = 0; i < type.elements() / type.dim(-1); i++) f(i * pitch, row);
}

class GuardedKernel : public Kernel {
 public:
  GuardedKernel(const Node& node, std::unique_ptr<Kernel> kernel)
      : in_(node.in), out_(node.out), kernel_(std::move(kernel)) {}

  std::string implementation() const override { return kernel_->implementation(); }
  size_t scratch_bytes() const override { return kernel_->scratch_bytes(); }

  void run(const Buffers& b) const override {
    // A result in the place of an operand shares its copy.
    std::vector<Guarded> copies;
    std::vector<const void*> in;
    std::vector<void*> out;
    for (size_t i = 0; i < in_.size(); i++) {
      copies.emplace_back(span_bytes(in_[i]));
      std::memcpy(copies.back().data(), b.in[i], copies.back().bytes());
      in.push_back(copies.back().data());
    }
    for (size_t i = 0; i < out_.size(); i++) {
      const void* const* same = std::find(b.in, b.in + in_.size(), b.out[i]);
      if (same != b.in + in_.size()) {
        out.push_back(copies[same - b.in].data());
        continue;
      }
      copies.emplace_back(span_bytes(out_[i]));
      out.push_back(copies.back().data());
    }
    Guarded scratch(kernel_->scratch_bytes());
    kernel_->run({in.data(), out.data(), scratch.data()});

    const std::string name = kernel_->implementation();
    scratch.require_canaries(name, "its scratch memory");
    for (size_t i = 0; i < copies.size(); i++)
      copies[i].require_canaries(name,
                                 i < in_.size() ? "operand " + std::to_string(i) : "a result");
    for (size_t i = 0; i < in_.size(); i++)
      if (std::find(out.begin(), out.end(), in[i]) == out.end() &&
          std::memcmp(in[i], b.in[i], span_bytes(in_[i])) != 0)
        throw std::runtime_error(name + " wrote into operand " + std::to_string(i));
    for (size_t i = 0; i < out_.size(); i++) {
      auto *to = static_cast<std::byte*>(b.out[i]), *from = static_cast<std::byte*>(out[i]);
      over_rows(out_[i], [&](size_t at, size_t n) {
        std::memcpy(to + at, from + at, n);
        std::memset(from + at, kCanary, n);
      });
      auto broken = [](std::byte b) { return b != std::byte{kCanary}; };
      if (out_[i].row && std::any_of(from, from + span_bytes(out_[i]), broken))
        throw std::runtime_error(name + " wrote between the rows of result " + std::to_string(i));
    }
  }

 private:
  Types in_, out_;
  std::unique_ptr<Kernel> kernel_;
};

}  // namespace

std::unique_ptr<Kernel> guarded(const Node& node, std::unique_ptr<Kernel> kernel) {
  if (mode() == Mode::off || node.body) return kernel;  // a loop's steps are guarded themselves
  return std::make_unique<GuardedKernel>(node, std::move(kernel));
}

#ifdef JAX_MPS_ONEDNN

namespace {

// Bytes from the first to the last element: pitched rows may lie in an array that ends
// before the descriptor's own size does.
size_t extent(const dnnl::memory::desc& desc) {
  if (desc.is_zero() || desc.get_size() == 0 || desc.get_inner_nblks() > 0) return desc.get_size();
  Dims dims = desc.get_padded_dims(), strides = desc.get_strides();
  int64_t last = 0;
  for (size_t i = 0; i < dims.size(); i++) last += (dims[i] - 1) * strides[i];
  return (last + 1) * dnnl::memory::data_type_size(desc.get_data_type());
}

const char* place_of(int id) {
  switch (id) {
    case DNNL_ARG_SCRATCHPAD:
      return "its scratchpad";
    case DNNL_ARG_DST:
    case DNNL_ARG_DIFF_SRC:
    case DNNL_ARG_DIFF_WEIGHTS:
      return "its result";
    default:
      return "an operand";
  }
}

}  // namespace

void execute(const dnnl::primitive& primitive,
             const std::unordered_map<int, dnnl::memory>& arguments, const std::string& name) {
  OneThread one;
  if (mode() == Mode::off) return primitive.execute(stream(), arguments);
  // One after another: what a copy brings back may lie between what others write.
  static std::mutex mutex;
  std::lock_guard lock(mutex);
  std::unordered_map<int, dnnl::memory> bound;
  std::unordered_map<int, Guarded> copies;
  for (const auto& [id, memory] : arguments) {
    if (memory.get_desc().get_submemory_offset() != 0) {  // its size is not to be known
      bound.emplace(id, memory);
      continue;
    }
    Guarded& copy = copies.emplace(id, extent(memory.get_desc())).first->second;
    // Of a result too: the primitive may add to it.
    if (id != DNNL_ARG_SCRATCHPAD && copy.bytes())
      std::memcpy(copy.data(), memory.get_data_handle(), copy.bytes());
    bound.emplace(id, dnnl::memory(memory.get_desc(), engine(), copy.data()));
  }
  primitive.execute(stream(), bound);
  const bool reorder = primitive.get_kind() == dnnl::primitive::kind::reorder;
  for (const auto& [id, copy] : copies) {
    copy.require_canaries(reorder ? "a reorder for " + name : name, place_of(id));
    if (id != DNNL_ARG_SCRATCHPAD && copy.bytes())
      std::memcpy(arguments.at(id).get_data_handle(), copy.data(), copy.bytes());
  }
}

#endif

}  // namespace jax_mps::cpu
