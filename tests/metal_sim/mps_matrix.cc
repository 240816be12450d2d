// MPSMatrix, MPSMatrixDescriptor and MPSMatrixMultiplication in plain arithmetic.
#include <cstring>

#include "mps.h"
#include "rule.h"

namespace sim {

size_t element_bytes(unsigned type) {
  return type == kFloat32 ? 4 : type == kFloat16 || type == kBFloat16 ? 2 : 0;
}
double read_element(const char* at, unsigned type) {
  if (type == kFloat32) {
    float v;
    memcpy(&v, at, 4);
    return static_cast<double>(v);
  }
  if (type == kFloat16) {
    _Float16 v;
    memcpy(&v, at, 2);
    return static_cast<double>(v);
  }
  uint16_t half;
  memcpy(&half, at, 2);
  const uint32_t bits = uint32_t{half} << 16;
  float v;
  memcpy(&v, &bits, 4);
  return static_cast<double>(v);
}
void write_element(char* at, unsigned type, double value) {
  const float v = static_cast<float>(value);
  if (type == kFloat32) {
    memcpy(at, &v, 4);
  } else if (type == kFloat16) {
    const auto h = static_cast<_Float16>(v);
    memcpy(at, &h, 2);
  } else {
    uint32_t bits;
    memcpy(&bits, &v, 4);
    const auto half =
        static_cast<uint16_t>(v != v ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    memcpy(at, &half, 2);
  }
}

void encode_work(CommandBuffer* commands, std::vector<Region> regions,
                 std::function<void(const std::vector<char*>&)> work) {
  auto refuse = [&](const std::string& text) {
    violation("MPS", "%s", text.c_str());
    commands->broken = text;
  };
  if (commands->open_encoder) return refuse("an MPS kernel is encoded while an encoder is open");
  if (commands->status >= CommandBuffer::kCommitted)
    return refuse("an MPS kernel is encoded after commit");
  for (auto& r : regions) {
    if (!r.buffer) return refuse(r.what + " has no buffer");
    if (r.offset + r.bytes > r.buffer->size)
      return refuse(r.what + " is past the end of " + r.buffer->describe());
    commands->keep(r.buffer);
  }
  commands->actions.push_back([commands, regions, work](Queue& queue) {
    queue.hazards.begin_encoder(commands->number, false);
    std::vector<Access> accesses;
    std::vector<char*> memory;
    for (auto& r : regions) {
      accesses.push_back(access_to(r.buffer, r.offset, r.writes, r.what));
      if (!r.buffer->no_copy) accesses.back().end = accesses.back().begin + r.bytes;
      memory.push_back(r.buffer->memory + r.offset);
    }
    if (std::string text = queue.hazards.dispatch(accesses); !text.empty())
      return "hazard: " + text;
    work(memory);
    const Planted planted("MPS");
    planted.delay();
    for (size_t i = 0; i < regions.size(); i++)
      if (regions[i].writes) planted.spoil(memory[i], regions[i].bytes);
    return std::string();
  });
}

namespace {

struct MatrixDescriptor : Object {
  static constexpr const char* kName = "MPSMatrixDescriptor";
  unsigned long rows = 0, columns = 0, matrices = 1, row_bytes = 0, matrix_bytes = 0;
  unsigned type = 0;
};
MatrixDescriptor* describe(unsigned long rows, unsigned long columns, unsigned long matrices,
                           unsigned long row_bytes, unsigned long matrix_bytes, unsigned type) {
  auto* d = make<MatrixDescriptor>();
  d->rows = rows;
  d->columns = columns;
  d->matrices = matrices;
  d->row_bytes = row_bytes;
  d->matrix_bytes = matrix_bytes;
  d->type = type;
  if (!element_bytes(type)) violation("MPS", "matrixDescriptor: data type %#x", type);
  if (row_bytes < columns * element_bytes(type) ||
      row_bytes % std::max<size_t>(1, element_bytes(type)))
    violation("MPS", "matrixDescriptor: rowBytes %lu for %lu columns", row_bytes, columns);
  return autoreleased(d);
}
MatrixDescriptor* describe_one(unsigned long rows, unsigned long columns, unsigned long row_bytes,
                               unsigned type) {
  return describe(rows, columns, 1, row_bytes, rows * row_bytes, type);
}
unsigned long row_bytes_for(unsigned long columns, unsigned type) {
  return (columns * element_bytes(type) + 15) / 16 * 16;
}
const auto descriptor_class =
    Define<MatrixDescriptor>()
        .on_class<&describe>(
            "matrixDescriptorWithRows:columns:matrices:rowBytes:matrixBytes:dataType:")
        .on_class<&describe_one>("matrixDescriptorWithRows:columns:rowBytes:dataType:")
        .on_class<&describe_one>("matrixDescriptorWithDimensions:columns:rowBytes:dataType:")
        .on_class<&row_bytes_for>("rowBytesForColumns:dataType:")
        .on_class<&row_bytes_for>("rowBytesFromColumns:dataType:");

struct Matrix : Object {
  static constexpr const char* kName = "MPSMatrix";
  Ref<Buffer> buffer;
  size_t offset = 0;
  Ref<MatrixDescriptor> d;
  Matrix* init_at(Buffer* b, unsigned long at, MatrixDescriptor* descriptor) {
    buffer = Ref<Buffer>(b);
    offset = at;
    d = Ref<MatrixDescriptor>(descriptor);
    return this;
  }
  Matrix* init(Buffer* b, MatrixDescriptor* descriptor) { return init_at(b, 0, descriptor); }
  Region region(const char* what, bool writes) {
    const size_t one = d->rows * d->row_bytes;
    return {buffer.get(), offset,
            (d->matrices - 1) * d->matrix_bytes + one -
                (d->row_bytes - d->columns * element_bytes(d->type)),
            writes, what};
  }
};
const auto matrix_class = Define<Matrix>()
                              .creatable()
                              .on<&Matrix::init>("initWithBuffer:descriptor:")
                              .on<&Matrix::init_at>("initWithBuffer:offset:descriptor:");

struct Origin {
  unsigned long x, y, z;
};
struct Multiplication : Labelled {
  static constexpr const char* kName = "MPSMatrixMultiplication";
  bool left_transposed = false, right_transposed = false;
  unsigned long rows = 0, columns = 0, interior = 0, batch_start = 0, batch_size = ~0ul;
  double alpha = 1, beta = 0;
  Origin left_at{}, right_at{}, result_at{};
  Multiplication* init(Device* device, bool left, bool right, unsigned long m, unsigned long n,
                       unsigned long k, double a, double b) {
    if (!device) violation("MPS", "MPSMatrixMultiplication initWithDevice: nil");
    left_transposed = left;
    right_transposed = right;
    rows = m;
    columns = n;
    interior = k;
    alpha = a;
    beta = b;
    return this;
  }
  Multiplication* init_plain(Device* device, unsigned long m, unsigned long n, unsigned long k) {
    return init(device, false, false, m, n, k, 1, 0);
  }
  void set_left(Origin o) { left_at = o; }
  void set_right(Origin o) { right_at = o; }
  void set_result(Origin o) { result_at = o; }
  void set_start(unsigned long n) { batch_start = n; }
  void set_size(unsigned long n) { batch_size = n; }

  void encode(CommandBuffer* commands, Matrix* l, Matrix* r, Matrix* c) {
    auto refuse = [&](const char* text) {
      violation("MPS", "MPSMatrixMultiplication: %s", text);
      commands->broken = std::string("MPSMatrixMultiplication: ") + text;
    };
    if (!l || !r || !c) return refuse("a matrix is nil");
    auto fits = [](Matrix* m, Origin o, unsigned long rows, unsigned long columns) {
      return o.x + rows <= m->d->rows && o.y + columns <= m->d->columns;
    };
    if (!fits(l, left_at, left_transposed ? interior : rows, left_transposed ? rows : interior))
      return refuse("the left matrix is smaller than the product needs");
    if (!fits(r, right_at, right_transposed ? columns : interior,
              right_transposed ? interior : columns))
      return refuse("the right matrix is smaller than the product needs");
    if (!fits(c, result_at, rows, columns))
      return refuse("the result is smaller than the product needs");
    for (Matrix* m : {l, r, c})
      if (m->d->type == kBFloat16) return refuse("bfloat16 is not supported");
    if (l->d->type != r->d->type) return refuse("the sources are of two data types");
    const unsigned long end = std::min({l->d->matrices, r->d->matrices, c->d->matrices,
                                        batch_size == ~0ul ? ~0ul : batch_start + batch_size});
    // The work may run after the kernel object is gone.
    const Multiplication* p = this;
    Ref<Multiplication> self(this);
    Ref<Matrix> left(l), right(r), result(c);
    encode_work(
        commands,
        {l->region("MPSMatrixMultiplication's left", false),
         r->region("MPSMatrixMultiplication's right", false),
         c->region("MPSMatrixMultiplication's result", true)},
        [=](const std::vector<char*>& memory) {
          auto at = [&](int which, Matrix* m, Origin o, unsigned long i, unsigned long row,
                        unsigned long column) {
            return memory[which] + i * m->d->matrix_bytes + (o.x + row) * m->d->row_bytes +
                   (o.y + column) * element_bytes(m->d->type);
          };
          (void)self;
          for (unsigned long i = p->batch_start; i < end; i++)
            for (unsigned long row = 0; row < p->rows; row++)
              for (unsigned long column = 0; column < p->columns; column++) {
                double sum = 0;
                for (unsigned long k = 0; k < p->interior; k++)
                  sum += read_element(at(0, left.get(), p->left_at, i, p->left_transposed ? k : row,
                                         p->left_transposed ? row : k),
                                      left->d->type) *
                         read_element(
                             at(1, right.get(), p->right_at, i, p->right_transposed ? column : k,
                                p->right_transposed ? k : column),
                             right->d->type);
                char* to = at(2, result.get(), p->result_at, i, row, column);
                sum *= p->alpha;
                if (p->beta != 0) sum += p->beta * read_element(to, result->d->type);
                write_element(to, result->d->type, sum);
              }
        });
  }
};
using M = Multiplication;
const auto multiplication_class =
    Define<M>("_Labelled")
        .creatable()
        .on<&M::init>(
            "initWithDevice:transposeLeft:transposeRight:resultRows:resultColumns:interiorColumns:"
            "alpha:beta:")
        .on<&M::init_plain>("initWithDevice:resultRows:resultColumns:interiorColumns:")
        .on<&M::set_left>("setLeftMatrixOrigin:")
        .on<&M::set_right>("setRightMatrixOrigin:")
        .on<&M::set_result>("setResultMatrixOrigin:")
        .on<&M::set_start>("setBatchStart:")
        .on<&M::set_size>("setBatchSize:")
        .on<&M::encode>("encodeToCommandBuffer:leftMatrix:rightMatrix:resultMatrix:");

}  // namespace
}  // namespace sim
