// MPSGraph: placeholders, 2-D convolution, its data and weight gradients, and matrix products, in
// plain arithmetic.
#include <map>

#include "mps.h"
#include "rule.h"

namespace sim {
namespace {

using Shape = std::vector<long>;
long size_of(const Shape& shape) {
  long n = 1;
  for (long d : shape) n *= d;
  return n;
}

struct ConvDescriptor : Object {
  static constexpr const char* kName = "MPSGraphConvolution2DOpDescriptor";
  long stride[2], dilation[2], groups = 1, before[2] = {0, 0}, after[2] = {0, 0};  // y, x
  unsigned long style = 0, data = 1, weights = 3;
};
enum { kNchw, kNhwc, kOihw, kHwio };
enum { kExplicit, kValid, kSame };
ConvDescriptor* conv_explicit(unsigned long sx, unsigned long sy, unsigned long dx,
                              unsigned long dy, unsigned long groups, unsigned long left,
                              unsigned long right, unsigned long top, unsigned long bottom,
                              unsigned long style, unsigned long data, unsigned long weights) {
  auto* d = make<ConvDescriptor>();
  d->stride[0] = long(sy), d->stride[1] = long(sx);
  d->dilation[0] = long(dy), d->dilation[1] = long(dx);
  d->groups = long(groups);
  d->before[0] = long(top), d->before[1] = long(left);
  d->after[0] = long(bottom), d->after[1] = long(right);
  d->style = style, d->data = data, d->weights = weights;
  if (style > kSame || data > kNhwc || (weights != kOihw && weights != kHwio))
    violation("MPS",
              "convolution descriptor: padding style %lu, layouts %lu and %lu are not simulated",
              style, data, weights);
  return autoreleased(d);
}
ConvDescriptor* conv_style(unsigned long sx, unsigned long sy, unsigned long dx, unsigned long dy,
                           unsigned long groups, unsigned long style, unsigned long data,
                           unsigned long weights) {
  return conv_explicit(sx, sy, dx, dy, groups, 0, 0, 0, 0, style, data, weights);
}
const auto conv_class =
    Define<ConvDescriptor>()
        .on_class<&conv_explicit>(
            "descriptorWithStrideInX:strideInY:dilationRateInX:dilationRateInY:groups:paddingLeft:"
            "paddingRight:paddingTop:paddingBottom:paddingStyle:dataLayout:weightsLayout:")
        .on_class<&conv_style>(
            "descriptorWithStrideInX:strideInY:dilationRateInX:dilationRateInY:groups:paddingStyle:"
            "dataLayout:weightsLayout:");

enum Kind { kPlaceholder, kConv, kDataGradient, kWeightGradient, kProduct };
struct Tensor : Object {
  static constexpr const char* kName = "MPSGraphTensor";
  Kind kind = kPlaceholder;
  Shape shape;
  unsigned type = kFloat32;
  Ref<Tensor> inputs[2];
  Ref<ConvDescriptor> conv;
  Array* get_shape() {
    auto* array = make<Array>();
    for (long d : shape) {
      auto* n = make<Number>();
      n->value = double(d), n->whole = d;
      array->add(n);
      n->release();
    }
    return autoreleased(array);
  }
  unsigned get_type() { return type; }
};
const auto tensor_class =
    Define<Tensor>().on<&Tensor::get_shape>("shape").on<&Tensor::get_type>("dataType");

struct TensorData : Object {
  static constexpr const char* kName = "MPSGraphTensorData";
  Ref<Buffer> buffer;
  Shape shape;
  unsigned type = 0;
  TensorData* init(Buffer* b, Array* s, unsigned t) {
    buffer = Ref<Buffer>(b);
    shape = shape_of(s);
    type = t;
    return this;
  }
};
const auto data_class =
    Define<TensorData>().creatable().on<&TensorData::init>("initWithMTLBuffer:shape:dataType:");

// Positions of a convolution's images and weights: where (n, y, x, c) and (ky, kx, i, o) lie.
struct Geometry {
  long n, in[2], ci, k[2], cg, co, out[2], before[2];
  const ConvDescriptor* d;
  Geometry(const Shape& x, const Shape& w, const ConvDescriptor* d) : d(d) {
    const bool nhwc = d->data == kNhwc, hwio = d->weights == kHwio;
    n = x[0], ci = nhwc ? x[3] : x[1], co = hwio ? w[3] : w[0], cg = hwio ? w[2] : w[1];
    for (int i = 0; i < 2; i++) {
      in[i] = x[(nhwc ? 1 : 2) + i];
      k[i] = w[(hwio ? 0 : 2) + i];
      const long reach = (k[i] - 1) * d->dilation[i] + 1;
      before[i] = d->style == kExplicit ? d->before[i] : 0;
      if (d->style == kSame) {
        out[i] = (in[i] + d->stride[i] - 1) / d->stride[i];
        before[i] = std::max(0l, (out[i] - 1) * d->stride[i] + reach - in[i]) / 2;
      } else {
        out[i] =
            (in[i] + before[i] + (d->style == kExplicit ? d->after[i] : 0) - reach) / d->stride[i] +
            1;
      }
    }
  }
  Shape result() const {
    return d->data == kNhwc ? Shape{n, out[0], out[1], co} : Shape{n, co, out[0], out[1]};
  }
  bool good() const { return cg * d->groups == ci && co % d->groups == 0; }
  long image(long b, long y, long x, long c, long h, long w, long channels) const {
    return d->data == kNhwc ? ((b * h + y) * w + x) * channels + c
                            : ((b * channels + c) * h + y) * w + x;
  }
  // Calls f(index of x, index of w, index of y) for every product of the convolution.
  template <class F>
  void each(F f) const {
    for (long b = 0; b < n; b++)
      for (long y = 0; y < out[0]; y++)
        for (long x = 0; x < out[1]; x++)
          for (long ky = 0; ky < k[0]; ky++)
            for (long kx = 0; kx < k[1]; kx++) {
              const long iy = y * d->stride[0] - before[0] + ky * d->dilation[0];
              const long ix = x * d->stride[1] - before[1] + kx * d->dilation[1];
              if (iy < 0 || iy >= in[0] || ix < 0 || ix >= in[1]) continue;
              for (long o = 0; o < co; o++)
                for (long i = 0; i < cg; i++)
                  f(image(b, iy, ix, o / (co / d->groups) * cg + i, in[0], in[1], ci),
                    d->weights == kHwio ? ((ky * k[1] + kx) * cg + i) * co + o
                                        : ((o * cg + i) * k[0] + ky) * k[1] + kx,
                    image(b, y, x, o, out[0], out[1], co));
            }
  }
};

using Values = std::vector<double>;
using Known = std::map<const Tensor*, Values>;
const Values& evaluate(const Tensor* t, Known& known) {
  if (auto found = known.find(t); found != known.end()) return found->second;
  const Values a = evaluate(t->inputs[0].get(), known), b = evaluate(t->inputs[1].get(), known);
  const Shape &sa = t->inputs[0]->shape, &sb = t->inputs[1]->shape;
  Values out(size_of(t->shape), 0);
  if (t->kind == kConv)
    Geometry(sa, sb, t->conv.get()).each([&](long x, long w, long y) { out[y] += a[x] * b[w]; });
  if (t->kind == kDataGradient)
    Geometry(t->shape, sb, t->conv.get()).each([&](long x, long w, long y) {
      out[x] += a[y] * b[w];
    });
  if (t->kind == kWeightGradient)
    Geometry(sb, t->shape, t->conv.get()).each([&](long x, long w, long y) {
      out[w] += a[y] * b[x];
    });
  if (t->kind == kProduct) {
    const long m = sa[sa.size() - 2], k = sa.back(), n = sb.back(),
               batch = size_of(t->shape) / (m * n);
    const bool shared = size_of(sb) == k * n;
    for (long i = 0; i < batch * m * n; i++)
      for (long j = 0; j < k; j++)
        out[i] += a[i / n * k + j] * b[(shared ? 0 : i / (m * n) * k * n) + j * n + i % n];
  }
  return known[t] = out;
}

struct Graph : Object {
  static constexpr const char* kName = "MPSGraph";
  std::vector<Ref<Tensor>> tensors;

  Tensor* add(Kind kind, Shape shape, unsigned type, Tensor* a, Tensor* b, ConvDescriptor* conv) {
    auto* t = make<Tensor>();
    t->kind = kind;
    t->shape = std::move(shape);
    t->type = type;
    t->inputs[0] = Ref<Tensor>(a);
    t->inputs[1] = Ref<Tensor>(b);
    t->conv = Ref<ConvDescriptor>(conv);
    tensors.push_back(Ref<Tensor>(t));
    return autoreleased(t);
  }
  Tensor* placeholder(Array* shape, unsigned type, String*) {
    if (!element_bytes(type)) violation("MPS", "placeholder: data type %#x", type);
    return add(kPlaceholder, shape_of(shape), type, nullptr, nullptr, nullptr);
  }
  void check(const Geometry& g, const Shape& y, const char* what) {
    if (!g.good() || g.result() != y) violation("MPS", "%s: shapes do not fit each other", what);
  }
  Tensor* conv(Tensor* x, Tensor* w, ConvDescriptor* d, String*) {
    const Geometry g(x->shape, w->shape, d);
    check(g, g.result(), "convolution2D");
    return add(kConv, g.result(), x->type, x, w, d);
  }
  Tensor* data_gradient(Tensor* dy, Tensor* w, Array* shape, ConvDescriptor* d, String*) {
    check(Geometry(shape_of(shape), w->shape, d), dy->shape, "convolution2DDataGradient");
    return add(kDataGradient, shape_of(shape), dy->type, dy, w, d);
  }
  Tensor* weight_gradient(Tensor* dy, Tensor* x, Array* shape, ConvDescriptor* d, String*) {
    check(Geometry(x->shape, shape_of(shape), d), dy->shape, "convolution2DWeightsGradient");
    return add(kWeightGradient, shape_of(shape), dy->type, dy, x, d);
  }
  Tensor* product(Tensor* a, Tensor* b, String*) {
    if (a->shape.size() < 2 || b->shape.size() < 2 ||
        a->shape.back() != b->shape[b->shape.size() - 2])
      violation("MPS", "matrixMultiplication: shapes do not fit each other");
    Shape shape = a->shape;
    shape.back() = b->shape.back();
    return add(kProduct, shape, a->type, a, b, nullptr);
  }

  void encode(Object* target, Dictionary* feeds, Array*, Dictionary* results, Object*) {
    auto* mps = dynamic_cast<MpsCommandBuffer*>(target);
    if (!mps) return violation("MPS", "encodeToCommandBuffer: needs an MPSCommandBuffer");
    if (environment("METAL_SIM_CONTINUE", 0)) {  // what -commitAndContinue does
      Ref<CommandBuffer> before = mps->root;
      mps->root = Ref<CommandBuffer>(new_command_buffer(before->queue.get(), true));
      before->commit();
    }
    encode_to(mps->root.get(), feeds, results);
  }
  void run(Queue* queue, Dictionary* feeds, Array*, Dictionary* results) {
    CommandBuffer* commands = new_command_buffer(queue, true);
    encode_to(commands, feeds, results);
    commands->commit();
    commands->wait_completed();
  }
  void encode_to(CommandBuffer* commands, Dictionary* feeds, Dictionary* results) {
    std::vector<Region> regions;
    std::vector<Ref<Tensor>> tensors;
    std::vector<unsigned> types;
    for (Dictionary* list : {feeds, results})
      for (auto& [key, value] : list->items) {
        auto* tensor = static_cast<Tensor*>(key.get());
        auto* data = static_cast<TensorData*>(value.get());
        if (size_of(tensor->shape) != size_of(data->shape) || tensor->type != data->type) {
          violation("MPS", "MPSGraph: a tensor and its data differ in size or type");
          commands->broken = "MPSGraph: a tensor and its data differ in size or type";
          return;
        }
        tensors.push_back(Ref<Tensor>(tensor));
        types.push_back(data->type);
        regions.push_back({data->buffer.get(), 0, size_of(data->shape) * element_bytes(data->type),
                           list == results,
                           list == results ? "MPSGraph's result" : "MPSGraph's feed"});
      }
    const size_t inputs = feeds->items.size();
    Ref<Graph> self(this);
    encode_work(commands, regions, [=](const std::vector<char*>& memory) {
      (void)self;
      Known known;
      for (size_t i = 0; i < tensors.size(); i++) {
        const size_t bytes = element_bytes(types[i]);
        if (i < inputs) {
          Values& v = known[tensors[i].get()];
          for (long j = 0; j < size_of(tensors[i]->shape); j++)
            v.push_back(read_element(memory[i] + j * bytes, types[i]));
        } else {
          const Values& v = evaluate(tensors[i].get(), known);
          for (size_t j = 0; j < v.size(); j++)
            write_element(memory[i] + j * bytes, types[i], v[j]);
        }
      }
    });
  }
};
const auto graph_class =
    Define<Graph>()
        .creatable()
        .on<&Graph::placeholder>("placeholderWithShape:dataType:name:")
        .on<&Graph::conv>("convolution2DWithSourceTensor:weightsTensor:descriptor:name:")
        .on<&Graph::data_gradient>(
            "convolution2DDataGradientWithIncomingGradientTensor:weightsTensor:outputShape:"
            "forwardConvolutionDescriptor:name:")
        .on<&Graph::weight_gradient>(
            "convolution2DWeightsGradientWithIncomingGradientTensor:sourceTensor:outputShape:"
            "forwardConvolutionDescriptor:name:")
        .on<&Graph::product>("matrixMultiplicationWithPrimaryTensor:secondaryTensor:name:")
        .on<&Graph::encode>(
            "encodeToCommandBuffer:feeds:targetOperations:resultsDictionary:executionDescriptor:")
        .on<&Graph::run>("runWithMTLCommandQueue:feeds:targetOperations:resultsDictionary:");

MpsCommandBuffer* wrap(CommandBuffer* root) {
  auto* b = make<MpsCommandBuffer>();
  b->root = Ref<CommandBuffer>(root);
  return autoreleased(b);
}
CommandBuffer* root_of(MpsCommandBuffer* b) { return b->root.get(); }
struct WrapMessages : MpsCommandBuffer {
  CommandBuffer* get_root() { return root_of(this); }
  void commit() { root->commit(); }
  void wait() { root->wait_completed(); }
};
const auto wrap_class = Define<MpsCommandBuffer>()
                            .on_class<&wrap>("commandBufferWithCommandBuffer:")
                            .on<&WrapMessages::get_root>("commandBuffer")
                            .on<&WrapMessages::get_root>("rootCommandBuffer")
                            .on<&WrapMessages::commit>("commit")
                            .on<&WrapMessages::wait>("waitUntilCompleted");

}  // namespace
}  // namespace sim
