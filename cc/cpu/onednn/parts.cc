#include "parts.h"

#ifdef JAX_MPS_ONEDNN

#include <algorithm>
#include <numeric>
#include <utility>

#include "align.h"
#include "cpu/loops/partial_sums.h"
#include "cpu/threads.h"
#include "guard.h"

namespace jax_mps::cpu {
namespace {

using dnnl::memory;
using Kind = PartArgument::Kind;

constexpr int64_t kReorderStep = 64;
constexpr size_t kReorderBytes = 128 * 1024;  // of a piece
constexpr int64_t kMostReorders = 16;
constexpr int64_t kSumPiece = 8 * 1024;  // floats
// Parts of some hundred microseconds, up to a few; more where each is of a millisecond.
constexpr double kSmallPart = 12e6, kFewParts = 8, kLargePart = 128e6, kMostParts = 32;

// [rows, cols] of float32, columns side by side.
bool is_matrix(const memory::desc& desc) {
  return desc.get_ndims() == 2 && desc.get_data_type() == memory::data_type::f32 &&
         desc.get_inner_nblks() == 0 && desc.get_strides()[1] == 1;
}

// Steps along an axis at which a layout can be cut: its blocks.
int64_t block_of(const memory::desc& desc, int axis) {
  const Dims blocks = desc.get_inner_blks(), axes = desc.get_inner_idxs();
  int64_t block = 1;
  for (size_t i = 0; i < blocks.size(); i++)
    if (axes[i] == axis) block *= blocks[i];
  return block;
}

}  // namespace

int64_t worthwhile_parts(double flops) {
  return static_cast<int64_t>(std::max(
      {1.0, std::min(flops / kSmallPart, kFewParts), std::min(flops / kLargePart, kMostParts)}));
}

Reorder::Reorder(const memory::desc& from, const memory::desc& to, int axis) {
  OneThread one;
  auto add = [&](const memory::desc& from, const memory::desc& to) {
    dnnl::reorder::primitive_desc pd(engine(), from, engine(), to, dnnl::primitive_attr(),
                                     /*allow_empty=*/true);
    if (!pd) return false;
    pieces_.push_back({from, to, dnnl::reorder(pd)});
    return true;
  };
  const Dims dims = from.get_dims();
  const int64_t most = std::min<int64_t>(to.get_size() / kReorderBytes, kMostReorders);
  const int64_t block = std::lcm(block_of(from, axis), block_of(to, axis));
  const Even cut(dims[axis], most, (kReorderStep + block - 1) / block * block);
  for (int64_t i = 0; cut.parts > 1 && i < cut.parts; i++) {
    Dims size = dims, at(dims.size(), 0);
    size[axis] = cut.size(i), at[axis] = cut.begin(i);
    const memory::desc part_from = from.submemory_desc(size, at, /*allow_empty=*/true),
                       part_to = to.submemory_desc(size, at, /*allow_empty=*/true);
    if (!part_from || !part_to || !add(part_from, part_to)) {
      pieces_.clear();
      break;
    }
  }
  if (pieces_.empty() && !add(from, to)) throw std::runtime_error("oneDNN has no such reorder");
}

void Reorder::run(int64_t piece, const void* from, void* to, const std::string& name) const {
  const Piece& p = pieces_[piece];
  execute(p.reorder,
          {{DNNL_ARG_FROM, memory(p.from, engine(), const_cast<void*>(from))},
           {DNNL_ARG_TO, memory(p.to, engine(), to)}},
          name);
}

int Parts::add_sum(size_t array, size_t offset, const memory::desc& given, bool adds) {
  Sum& sum = sums_.emplace_back();
  sum.array = array, sum.offset = offset, sum.given = given, sum.adds = adds;
  return static_cast<int>(sums_.size()) - 1;
}

void Parts::finish(int axis, bool always) {
  OneThread one;
  name_ = "oneDNN " + parts_.at(0).implementation;
  for (Part& part : parts_) {
    Bound bound;
    size_t own = 0;
    for (const PartArgument& given : part.arguments) {
      Argument a{given, std::nullopt, 0};
      if (a.kind == Kind::shared && a.given == a.wanted && !always) a.kind = Kind::operand;
      const size_t bytes = align_up(a.wanted.get_size());
      if (a.kind == Kind::shared) {
        auto same = std::ranges::find_if(shared_, [&](const Shared& s) {
          return s.array == a.array && s.offset == a.offset && s.given == a.given &&
                 s.wanted == a.wanted;
        });
        if (same == shared_.end()) {
          shared_.push_back({a.array, a.offset, a.given, a.wanted, Reorder(a.given, a.wanted, axis),
                             shared_bytes_});
          shared_bytes_ += bytes;
          same = shared_.end() - 1;
        }
        a.place = same->place;
      } else if (a.kind == Kind::partial) {
        Sum& sum = sums_[part.sum];
        if (sum.places.empty()) sum.wanted = a.wanted;
        a.sum_place =
            std::exchange(partial_bytes_, partial_bytes_ + align_up(sum.wanted.get_size()));
        sum.places.push_back(a.sum_place);
        if (a.wanted != sum.wanted) {
          a.reorder = dnnl::reorder(
              dnnl::reorder::primitive_desc(engine(), a.wanted, engine(), sum.wanted));
          a.place = std::exchange(own, own + bytes);
        }
      } else if (a.given != a.wanted) {
        const bool result = a.kind == Kind::result;
        a.reorder = dnnl::reorder(dnnl::reorder::primitive_desc(
            engine(), result ? a.wanted : a.given, engine(), result ? a.given : a.wanted));
        a.place = std::exchange(own, own + bytes);
      }
      bound.arguments.push_back(std::move(a));
    }
    bound.scratchpad_place = own;
    own += align_up(part.scratchpad.get_size());
    thread_bytes_ = std::max(thread_bytes_, own);
    bound_.push_back(std::move(bound));
  }
  for (Sum& sum : sums_) {
    const Dims dims = sum.given.get_dims();
    sum.row = sum.pitch = static_cast<int64_t>(sum.wanted.get_size() / sizeof(float));
    if (is_matrix(sum.given) && is_matrix(sum.wanted)) {
      sum.rows = dims[0], sum.row = dims[1], sum.pitch = sum.given.get_strides()[0];
    } else if (sum.given != sum.wanted) {
      sum.reorder.emplace(sum.wanted, sum.given, axis);
    }
  }
  own_bytes_ = partial_bytes_ + thread_bytes_ * std::min<size_t>(max_threads(), parts_.size());
}

void Parts::share(void* const* arrays, std::byte* shared) const {
  for (const Shared& s : shared_) {
    const std::byte* from = static_cast<const std::byte*>(arrays[s.array]) + s.offset;
    cpu::share(s.reorder.pieces(),
               [&](int64_t piece, int) { s.reorder.run(piece, from, shared + s.place, name_); });
  }
}

void Parts::run(void* const* arrays, const std::byte* shared, std::byte* scratch) const {
  std::byte* threads = scratch + partial_bytes_;
  cpu::share(static_cast<int64_t>(parts_.size()), [&](int64_t part, int thread) {
    run_part(part, arrays, shared, scratch, threads + thread * thread_bytes_);
  });
  if (!sums_.empty()) run_sums(arrays, scratch);
}

void Parts::run_part(size_t part, void* const* arrays, const std::byte* shared, std::byte* partial,
                     std::byte* own) const {
  const Bound& bound = bound_[part];
  std::unordered_map<int, memory> arguments;
  auto given_at = [&](const Argument& a) {
    return static_cast<void*>(static_cast<std::byte*>(arrays[a.array]) + a.offset);
  };
  for (const Argument& a : bound.arguments) {
    void* place = a.kind == Kind::shared    ? const_cast<std::byte*>(shared) + a.place
                  : a.reorder               ? own + a.place
                  : a.kind == Kind::partial ? partial + a.sum_place
                                            : given_at(a);
    memory memory(a.wanted, engine(), place);
    if (a.reorder && a.kind == Kind::operand)
      execute(
          *a.reorder,
          {{DNNL_ARG_FROM, dnnl::memory(a.given, engine(), given_at(a))}, {DNNL_ARG_TO, memory}},
          name_);
    arguments.emplace(a.id, std::move(memory));
  }
  arguments.emplace(DNNL_ARG_SCRATCHPAD,
                    memory(parts_[part].scratchpad, engine(), own + bound.scratchpad_place));
  execute(parts_[part].primitive, arguments, name_);
  for (const Argument& a : bound.arguments) {
    if (!a.reorder || a.kind == Kind::operand) continue;
    const memory to = a.kind == Kind::result
                          ? memory(a.given, engine(), given_at(a))
                          : memory(sums_[parts_[part].sum].wanted, engine(), partial + a.sum_place);
    execute(*a.reorder, {{DNNL_ARG_FROM, arguments.at(a.id)}, {DNNL_ARG_TO, to}}, name_);
  }
}

void Parts::run_sums(void* const* arrays, std::byte* partial) const {
  // Some floats of a row, or some whole rows.
  struct Range {
    const Sum* sum;
    int64_t row, rows, begin, end;
  };
  std::vector<Range> ranges;
  for (const Sum& sum : sums_) {
    if (sum.places.size() == 1 && sum.reorder) continue;
    const int64_t rows = std::max<int64_t>(1, kSumPiece / sum.row);
    for (int64_t row = 0; row < sum.rows; row += rows)
      for (int64_t at = 0; at < sum.row; at += kSumPiece)
        ranges.push_back(
            {&sum, row, std::min(rows, sum.rows - row), at, std::min(at + kSumPiece, sum.row)});
  }
  auto result_of = [&](const Sum& sum) {
    return static_cast<std::byte*>(arrays[sum.array]) + sum.offset;
  };
  cpu::share(static_cast<int64_t>(ranges.size()), [&](int64_t i, int) {
    const auto& [sum, first, rows, begin, end] = ranges[i];
    std::vector<const float*> from;
    for (size_t place : sum->places) from.push_back(reinterpret_cast<float*>(partial + place));
    float* to = reinterpret_cast<float*>(sum->reorder ? partial + sum->places[0] : result_of(*sum));
    for (int64_t row = first; row < first + rows; row++)
      partial_sums_loops().add(from.data(), static_cast<int>(from.size()), row * sum->row + begin,
                               to + row * sum->pitch + begin, sum->adds, end - begin);
  });
  std::vector<std::pair<const Sum*, int64_t>> pieces;
  for (const Sum& sum : sums_)
    for (int64_t piece = 0; sum.reorder && piece < sum.reorder->pieces(); piece++)
      pieces.emplace_back(&sum, piece);
  cpu::share(static_cast<int64_t>(pieces.size()), [&](int64_t i, int) {
    const auto& [sum, piece] = pieces[i];
    sum->reorder->run(piece, partial + sum->places[0], result_of(*sum), name_);
  });
}

void OneDnnKernel::run(const Buffers& b) const {
  void* arrays[4];
  for (size_t i = 0; i < operands_; i++) arrays[i] = const_cast<void*>(b.in[i]);
  arrays[operands_] = b.out[0];
  parts_.run(arrays, b.scratch);
  if (after_) apply(*after_, b.output<float>(0), b.output<float>(0), elements_);
}

}  // namespace jax_mps::cpu

#endif
