// MPSMatrixMultiplication and MPSGraph's convolution with its two gradients, by message dispatch.
#include <objc/message.h>

#include <cmath>

#include "host.h"

template <class R = void*, class... Args>
R send(const void* self, const char* selector, Args... args) {
  return reinterpret_cast<R (*)(const void*, SEL, Args...)>(&objc_msgSend)(
      self, sel_registerName(selector), args...);
}
void* cls(const char* name) { return reinterpret_cast<void*>(objc_lookUpClass(name)); }
constexpr unsigned kFloat = 0x10000020;

void* shape(std::vector<long> dims) {
  std::vector<void*> numbers;
  for (long d : dims) numbers.push_back(send(cls("NSNumber"), "numberWithLong:", d));
  return send(cls("NSArray"), "arrayWithObjects:count:", numbers.data(), numbers.size());
}
void* data(MTL::Buffer* b, void* s) {
  return send(send(send(cls("MPSGraphTensorData"), "alloc"), "initWithMTLBuffer:shape:dataType:", b,
                   s, kFloat),
              "autorelease");
}
double dot(MTL::Buffer* a, MTL::Buffer* b) {
  double sum = 0;
  for (size_t i = 0; i < a->length() / 4; i++)
    sum += double(static_cast<float*>(a->contents())[i]) * static_cast<float*>(b->contents())[i];
  return sum;
}
std::vector<float> wave(size_t n, float f) {
  std::vector<float> v(n);
  for (size_t i = 0; i < n; i++) v[i] = std::sin(f * float(i + 1));
  return v;
}

bool matmul(Host& host) {  // (2 x 3)^T stored, times 2 x 4
  MTL::Buffer *a = host.buffer(wave(6, 1)), *b = host.buffer(wave(8, 2)),
              *c = host.buffer(std::vector<float>(12));
  auto matrix = [&](MTL::Buffer* buffer, unsigned long rows, unsigned long columns) {
    void* d = send(cls("MPSMatrixDescriptor"),
                   "matrixDescriptorWithRows:columns:rowBytes:dataType:", rows, columns,
                   columns * 4, kFloat);
    return send(send(cls("MPSMatrix"), "alloc"), "initWithBuffer:descriptor:", buffer, d);
  };
  void *left = matrix(a, 2, 3), *right = matrix(b, 2, 4), *result = matrix(c, 3, 4);
  void* kernel = send(send(cls("MPSMatrixMultiplication"), "alloc"),
                      "initWithDevice:transposeLeft:transposeRight:resultRows:resultColumns:"
                      "interiorColumns:alpha:beta:",
                      host.device, true, false, 3ul, 4ul, 2ul, 2.0, 0.0);
  MTL::CommandBuffer* commands = host.queue->commandBuffer();
  send<void>(kernel, "encodeToCommandBuffer:leftMatrix:rightMatrix:resultMatrix:", commands, left,
             right, result);
  bool good = Host::finish(commands);
  for (int i = 0; i < 3; i++)
    for (int j = 0; j < 4; j++) {
      float want = 0;
      for (int k = 0; k < 2; k++)
        want += 2 * static_cast<float*>(a->contents())[k * 3 + i] *
                static_cast<float*>(b->contents())[k * 4 + j];
      good = good && std::abs(want - static_cast<float*>(c->contents())[i * 4 + j]) < 1e-6f;
    }
  for (void* o : {left, right, result, kernel}) send<void>(o, "release");
  for (auto* o : {a, b, c}) o->release();
  return good;
}

// <dy, conv(x, w)> = <dx, x> = <dw, w>, with strides, dilation, groups and uneven padding.
bool convolution(Host& host) {
  void* sx = shape({2, 9, 8, 4});
  void* sw = shape({3, 2, 2, 6});
  void* sy = shape({2, 5, 6, 6});
  void* d = send(cls("MPSGraphConvolution2DOpDescriptor"),
                 "descriptorWithStrideInX:strideInY:dilationRateInX:dilationRateInY:groups:"
                 "paddingLeft:paddingRight:"
                 "paddingTop:paddingBottom:paddingStyle:dataLayout:weightsLayout:",
                 1ul, 2ul, 3ul, 1ul, 2ul, 1ul, 0ul, 1ul, 1ul, 0ul, 1ul, 3ul);
  MTL::Buffer *x = host.buffer(wave(576, 1)), *w = host.buffer(wave(72, 2)),
              *dy = host.buffer(wave(360, 3));
  MTL::Buffer *y = host.buffer(wave(360, 0)), *dx = host.buffer(wave(576, 0)),
              *dw = host.buffer(wave(72, 0));
  void* graph = send(cls("MPSGraph"), "new");
  void* placed[3];
  void* shapes[3] = {sx, sw, sy};
  for (int i = 0; i < 3; i++)
    placed[i] = send(graph, "placeholderWithShape:dataType:name:", shapes[i], kFloat,
                     static_cast<void*>(nullptr));
  void* none = nullptr;
  void* out[3] = {
      send(graph, "convolution2DWithSourceTensor:weightsTensor:descriptor:name:", placed[0],
           placed[1], d, none),
      send(graph,
           "convolution2DDataGradientWithIncomingGradientTensor:weightsTensor:outputShape:"
           "forwardConvolutionDescriptor:name:",
           placed[2], placed[1], sx, d, none),
      send(graph,
           "convolution2DWeightsGradientWithIncomingGradientTensor:sourceTensor:outputShape:"
           "forwardConvolutionDescriptor:name:",
           placed[2], placed[0], sw, d, none)};
  void* fed[3] = {data(x, sx), data(w, sw), data(dy, sy)};
  void* got[3] = {data(y, sy), data(dx, sx), data(dw, sw)};
  void* feeds = send(cls("NSDictionary"), "dictionaryWithObjects:forKeys:count:", fed, placed, 3ul);
  void* results = send(cls("NSDictionary"), "dictionaryWithObjects:forKeys:count:", got, out, 3ul);
  MTL::CommandBuffer* commands = host.queue->commandBuffer();
  void* wrapped = send(cls("MPSCommandBuffer"), "commandBufferWithCommandBuffer:", commands);
  send<void>(graph,
             "encodeToCommandBuffer:feeds:targetOperations:resultsDictionary:executionDescriptor:",
             wrapped, feeds, none, results, none);
  bool good = Host::finish(commands);
  const double one = dot(dy, y), two = dot(dx, x), three = dot(dw, w);
  printf("%g %g %g\n", one, two, three);
  good = good && std::abs(one) > 1e-3 && std::abs(one - two) < 1e-4 && std::abs(one - three) < 1e-4;
  send<void>(graph, "release");
  for (auto* o : {x, w, dy, y, dx, dw}) o->release();
  return good;
}

int main() {
  Host host;
  const bool good = matmul(host) && convolution(host);
  printf(good ? "good\n" : "BAD\n");
  return !good;
}
