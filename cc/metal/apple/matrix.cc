// Products of matrices by Apple's MPSMatrixMultiplication.
#include <memory>

#include "apple.h"
#include "message.h"
#include "metal/runtime/device.h"

namespace jax_mps::metal {
namespace {

class MPSMatrixDescriptor : public NS::Referencing<MPSMatrixDescriptor> {};
class MPSMatrix : public NS::Referencing<MPSMatrix> {};
class MPSMatrixMultiplication : public NS::Referencing<MPSMatrixMultiplication> {};

constexpr ClassMessage<MPSMatrixDescriptor*(NS::UInteger, NS::UInteger, NS::UInteger, NS::UInteger,
                                            NS::UInteger, MPSDataType)>
    kDescriptor("MPSMatrixDescriptor",
                "matrixDescriptorWithRows:columns:matrices:rowBytes:matrixBytes:dataType:");
constexpr InitMessage<MPSMatrix*(MTL::Buffer*, NS::UInteger, MPSMatrixDescriptor*)> kMatrix(
    "MPSMatrix", "initWithBuffer:offset:descriptor:");
constexpr InitMessage<MPSMatrixMultiplication*(MTL::Device*, BOOL, BOOL, NS::UInteger, NS::UInteger,
                                               NS::UInteger, double, double)>
    kMultiplication("MPSMatrixMultiplication",
                    "initWithDevice:transposeLeft:transposeRight:resultRows:resultColumns:"
                    "interiorColumns:alpha:beta:");
constexpr Message<void(MTL::CommandBuffer*, MPSMatrix*, MPSMatrix*, MPSMatrix*)> kEncode(
    "MPSMatrixMultiplication", "encodeToCommandBuffer:leftMatrix:rightMatrix:resultMatrix:");

// Matrices as they lie in memory: rows of contiguous numbers, `row` apart, and matrices `matrix`
// apart.
struct Stored {
  int64_t rows, columns, row, matrix, count;
  bool transposed;
};

// None if neither axis is contiguous, or if the last row would reach past the array's end.
std::optional<Stored> stored(int64_t rows, int64_t columns, int64_t row, int64_t column,
                             int64_t matrix, int64_t count, int64_t elements) {
  bool transposed = !(column == 1 || columns == 1);
  if (transposed) {
    if (row != 1 && rows != 1) return std::nullopt;
    std::swap(rows, columns), std::swap(row, column);
  }
  if (rows == 1) row = std::max(row, columns);
  if (count == 1) matrix = rows * row;
  bool good = row >= columns && matrix >= rows * row && matrix % row == 0 &&
              (count - 1) * matrix + rows * row <= elements;
  if (!good) return std::nullopt;
  return Stored{rows, columns, row, matrix, count, transposed};
}

Owned<MPSMatrix> matrix(const Bound& bound, const Stored& s, DType dtype) {
  NS::UInteger size = size_of(dtype);
  auto type = dtype == DType::f32 ? MPSDataTypeFloat32 : MPSDataTypeFloat16;
  auto* descriptor = kDescriptor(s.rows, s.columns, s.count, s.row * size, s.matrix * size, type);
  Owned<MPSMatrix> made = kMatrix(bound.buffer, bound.offset, descriptor);
  if (!made) throw MetalError("MPSMatrix does not take an operand");
  return made;
}

// Shared by all copies of the dispatch.
struct Multiplication {
  std::mutex mutex;
  Owned<MPSMatrixMultiplication> kernel;
};

}  // namespace

std::string add_apple_product(Recipe& recipe, const Gemm& gemm, DType dtype) {
  if (dtype == DType::bf16 || gemm.result != dtype) return "Apple's products take float or half";
  const GemmParameters& p = gemm.p;
  auto elements = [&](const Span& span) { return int64_t(span.bytes / size_of(dtype)); };
  auto a = stored(p.m, p.k, p.a_row, p.a_column, p.a_batch, gemm.batches, elements(gemm.a));
  auto b = stored(p.k, p.n, p.b_inner, p.b_column, p.b_batch, gemm.batches, elements(gemm.b));
  auto c = stored(p.m, p.n, p.c_row, 1, p.c_batch, gemm.batches, elements(gemm.c));
  if (!a || !b || !c) return "Apple's products take contiguous rows or columns";
  Dispatch& dispatch = recipe.dispatch("", "MPSMatrixMultiplication");
  dispatch.reads(gemm.a).reads(gemm.b).writes(gemm.c);
  dispatch.computes(2.0 * p.m * p.n * p.k * gemm.batches);
  dispatch.apple = [=, m = p.m, n = p.n, k = p.k, shared = std::make_shared<Multiplication>()](
                       MTL::CommandBuffer* commands, const std::vector<Bound>& bound) {
    Owned<MPSMatrix> left = matrix(bound[0], *a, dtype), right = matrix(bound[1], *b, dtype),
                     result = matrix(bound[2], *c, dtype);
    std::lock_guard lock(shared->mutex);
    if (!shared->kernel)
      shared->kernel =
          kMultiplication(commands->device(), a->transposed, b->transposed, m, n, k, 1, 0);
    if (!shared->kernel) throw MetalError("MPSMatrixMultiplication does not take this GPU");
    kEncode(shared->kernel.get(), commands, left.get(), right.get(), result.get());
    return commands;
  };
  add_tail(recipe, gemm.c, p.n, gemm.bias, gemm.neuron, dtype);
  return "";
}

}  // namespace jax_mps::metal
