// The thinnest path: kernels from a string with function constants, a heap, a barrier, a completion
// handler, errors.
#include <atomic>

#include "host.h"

static const char* kSource = R"(
#include <metal_stdlib>
using namespace metal;
constant float scale [[function_constant(0)]];
constant bool squared [[function_constant(1)]];
struct Parameters { uint count; float a; };
[[kernel]] void axpy(constant Parameters& p [[buffer(0)]], device const float* x [[buffer(1)]],
                     device float* y [[buffer(2)]], uint i [[thread_position_in_grid]]) {
  if (i < p.count) y[i] += (squared ? x[i] * x[i] : x[i]) * p.a * scale;
}
template <typename T>
[[kernel]] void total(device const T* x [[buffer(0)]], device float* out [[buffer(1)]],
                      uint n [[threads_per_threadgroup]], uint i [[thread_position_in_grid]],
                      uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float parts[32];
  float sum = simd_sum(float(x[i]));
  if (lane == 0) parts[simd] = sum;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (i == 0) {
    float all = 0;
    for (uint s = 0; s < n / 32; s++) all += parts[s];
    out[0] = all;
  }
}
template [[host_name("total_float")]] [[kernel]] void total<float>(device const float* x [[buffer(0)]],
    device float* out [[buffer(1)]], uint n [[threads_per_threadgroup]], uint i [[thread_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]]);
template [[host_name("total_bfloat")]] [[kernel]] decltype(total<bfloat>) total<bfloat>;
kernel void halves(device const half4* x [[buffer(0)]], device half4* y [[buffer(1)]],
                   uint i [[thread_position_in_grid]]) {
  float4 v = float4(x[i]);
  y[i] = half4(tanh(v * 0.5f) + float4(float2(1.0f), v.xy));
}
)";

int main() {
  Host host;
  MTL::Library* library = host.library(kSource);
  if (!library) return 1;
  auto* constants = MTL::FunctionConstantValues::alloc()->init();
  const float scale = 2;
  const bool squared = true;
  constants->setConstantValue(&scale, MTL::DataTypeFloat, NS::UInteger(0));
  constants->setConstantValue(&squared, MTL::DataTypeBool, NS::UInteger(1));
  NS::Error* error = nullptr;
  MTL::Function* function = library->newFunction(Host::text("axpy"), constants, &error);
  constants->release();
  MTL::ComputePipelineState* axpy = host.device->newComputePipelineState(function, &error);
  MTL::Function* total_function = library->newFunction(Host::text("total_float"));
  MTL::ComputePipelineState* total = host.device->newComputePipelineState(total_function, &error);
  auto* descriptor = MTL::HeapDescriptor::alloc()->init();
  descriptor->setSize(65536);
  descriptor->setType(MTL::HeapTypePlacement);
  descriptor->setStorageMode(MTL::StorageModePrivate);
  MTL::Heap* heap = host.device->newHeap(descriptor);
  const auto need = host.device->heapBufferSizeAndAlign(4096, MTL::ResourceStorageModePrivate);
  MTL::Buffer* placed = heap->newBuffer(4096, MTL::ResourceStorageModePrivate, need.align * 4);
  std::vector<float> xs(1000), zeros(1024, 0.5f);
  for (int i = 0; i < 1000; i++) xs[i] = float(i % 10);
  MTL::Buffer *x = host.buffer(xs), *y = host.buffer(zeros),
              *sum = host.buffer(std::vector<float>{0});
  MTL::CommandBuffer* commands = host.queue->commandBuffer();
  std::atomic<int> handled{0}, *handled_at = &handled;
  commands->addCompletedHandler(^(MTL::CommandBuffer* done) {
    *handled_at += done->status() == MTL::CommandBufferStatusCompleted;
  });
  MTL::BlitCommandEncoder* blit = commands->blitCommandEncoder();
  blit->copyFromBuffer(y, 0, placed, 0, 4096);
  blit->endEncoding();
  MTL::ComputeCommandEncoder* encoder =
      commands->computeCommandEncoder(MTL::DispatchTypeConcurrent);
  struct {
    unsigned count;
    float a;
  } parameters{1000, 3};
  encoder->setComputePipelineState(axpy);
  encoder->setBytes(&parameters, sizeof(parameters), 0);
  encoder->setBuffer(x, 0, 1);
  encoder->setBuffer(y, 0, 2);
  encoder->dispatchThreads(MTL::Size(1000, 1, 1), MTL::Size(256, 1, 1));
  encoder->memoryBarrier(MTL::BarrierScopeBuffers);
  encoder->setComputePipelineState(total);
  encoder->setBuffer(y, 0, 0);
  encoder->setBuffer(sum, 0, 1);
  encoder->dispatchThreadgroups(MTL::Size(1, 1, 1), MTL::Size(1024, 1, 1));
  encoder->endEncoding();
  bool good = Host::finish(commands);
  double want = 0.5 * 1024;
  for (float v : xs) want += double(v) * v * 6;
  const float got = *static_cast<float*>(sum->contents());
  good = good && handled == 1 && got == float(want) && placed->contents() == nullptr &&
         commands->GPUEndTime() >= commands->GPUStartTime();
  printf("sum %g, expected %g\n", got, want);
  NS::Error* refused = nullptr;
  good =
      good && !host.device->newLibrary(
                  Host::text("[[kernel]] void k(uint i [[thread_position_in_grid]]) { nonsense; }"),
                  nullptr, &refused);
  printf("error: %s\n", refused ? refused->localizedDescription()->utf8String() : "none");
  for (NS::Object* o : std::initializer_list<NS::Object*>{
           library, function, axpy, total_function, total, descriptor, heap, placed, x, y, sum})
    o->release();
  printf(good ? "good\n" : "BAD\n");
  return !good;
}
