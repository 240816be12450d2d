// Host programs with one planted bug each: bugs NAME runs it. Each must be reported by the
// simulator.
#include <sys/mman.h>
#include <unistd.h>

#include <map>

#include "host.h"

namespace {

const char* kSource = R"(
#include <metal_stdlib>
using namespace metal;
struct Parameters { uint count; float a; float b; };
[[kernel]] void scale(constant Parameters& p [[buffer(0)]], device const float* x [[buffer(1)]],
                      device float* y [[buffer(2)]], uint i [[thread_position_in_grid]]) {
  if (i < p.count) y[i] = x[i] * p.a + p.b;
}
[[kernel]] void dynamic(device float* x [[buffer(0)]], threadgroup float* t [[threadgroup(0)]],
                        uint i [[thread_position_in_grid]]) {
  t[i] = x[i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  x[i] = t[63 - i];
}
[[kernel]] void big(device float* x [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  threadgroup float t[8193];
  t[i] = x[i];
  x[i] = t[i];
}
)";
struct Parameters {
  unsigned count = 64;
  float a = 2, b = 1;
} parameters;

struct Bug : Host {
  MTL::ComputePipelineState* scale = pipeline(kSource, "scale");
  MTL::Buffer *x = buffer(std::vector<float>(64, 1)), *y = buffer(std::vector<float>(64, 0)),
              *z = buffer(std::vector<float>(64, 0));
  MTL::CommandBuffer* commands = queue->commandBuffer();
  MTL::ComputeCommandEncoder* encoder = nullptr;

  ~Bug() {
    for (NS::Object* o : std::initializer_list<NS::Object*>{scale, x, y, z})
      if (o) o->release();
  }
  void begin(MTL::DispatchType type = MTL::DispatchTypeConcurrent) {
    encoder = commands->computeCommandEncoder(type);
  }
  void step(MTL::Buffer* from, MTL::Buffer* to, NS::UInteger group = 64) {
    encoder->setComputePipelineState(scale);
    encoder->setBytes(&parameters, sizeof(parameters), 0);
    encoder->setBuffer(from, 0, 1);
    encoder->setBuffer(to, 0, 2);
    encoder->dispatchThreads(MTL::Size(64, 1, 1), MTL::Size(group, 1, 1));
  }
  void end() {
    encoder->endEncoding();
    finish(commands);
  }
  MTL::Heap* heap() {
    auto* d = MTL::HeapDescriptor::alloc()->init();
    d->setSize(4096);
    d->setType(MTL::HeapTypePlacement);
    d->setStorageMode(MTL::StorageModePrivate);
    MTL::Heap* h = device->newHeap(d);
    d->release();
    return h;
  }
};
constexpr auto kPrivate = MTL::ResourceStorageModePrivate;

const std::map<std::string, void (*)(Bug&)> kBugs = {
    {"none",
     [](Bug& b) {
       b.begin();
       b.step(b.x, b.y);
       b.encoder->memoryBarrier(MTL::BarrierScopeBuffers);
       b.step(b.y, b.z);
       b.end();
     }},
    {"read_after_write",
     [](Bug& b) {
       b.begin();
       b.step(b.x, b.y);
       b.step(b.y, b.z);
       b.end();
     }},
    {"write_after_read",
     [](Bug& b) {
       b.begin();
       b.step(b.x, b.y);
       b.step(b.z, b.x);
       b.end();
     }},
    {"write_after_write",
     [](Bug& b) {
       b.begin();
       b.step(b.x, b.y);
       b.step(b.z, b.y);
       b.end();
     }},
    {"aliased_heap_block",
     [](Bug& b) {
       MTL::Heap* heap = b.heap();
       MTL::Buffer *first = heap->newBuffer(512, kPrivate, 0),
                   *second = heap->newBuffer(512, kPrivate, 256);
       b.begin();
       b.step(b.x, first);
       b.encoder->memoryBarrier(MTL::BarrierScopeBuffers);
       b.step(first, b.y);
       b.step(b.z, second);  // writes over what the step before may still read
       b.end();
       for (NS::Object* o : std::initializer_list<NS::Object*>{first, second, heap}) o->release();
     }},
    {"untracked_across_encoders",
     [](Bug& b) {
       MTL::Heap* heap = b.heap();
       MTL::Buffer* block = heap->newBuffer(512, kPrivate, NS::UInteger(0));
       b.begin();
       b.step(b.x, block);
       b.encoder->endEncoding();
       b.begin();
       b.step(block, b.y);
       b.end();
       block->release();
       heap->release();
     }},
    {"wrong_buffer_index",
     [](Bug& b) {
       b.begin();
       b.encoder->setComputePipelineState(b.scale);
       b.encoder->setBytes(&parameters, sizeof(parameters), 0);
       b.encoder->setBuffer(b.x, 0, 1);
       b.encoder->setBuffer(b.y, 0, 3);  // the wrong index
       b.encoder->dispatchThreads(MTL::Size(64, 1, 1), MTL::Size(64, 1, 1));
       b.end();
     }},
    {"swapped_buffer_indices",
     [](Bug& b) {
       b.begin();
       b.encoder->setComputePipelineState(b.scale);
       b.encoder->setBytes(&parameters, sizeof(parameters), 2);
       b.encoder->setBuffer(b.x, 0, 1);
       b.encoder->setBuffer(b.y, 0, 0);
       b.encoder->dispatchThreads(MTL::Size(64, 1, 1), MTL::Size(64, 1, 1));
       b.end();
     }},
    {"buffer_index_past_end",
     [](Bug& b) {
       b.begin();
       b.encoder->setBuffer(b.x, 0, 31);
       b.end();
     }},
    {"offset_past_end",
     [](Bug& b) {
       b.begin();
       b.encoder->setBuffer(b.x, 256, 1);
       b.end();
     }},
    {"small_constant_struct",
     [](Bug& b) {
       b.begin();
       b.step(b.x, b.y);
       b.encoder->setBytes(&parameters, 8, 0);
       b.encoder->dispatchThreads(MTL::Size(64, 1, 1), MTL::Size(64, 1, 1));
       b.end();
     }},
    {"long_constants",
     [](Bug& b) {
       std::vector<char> bytes(5000);
       b.begin();
       b.encoder->setBytes(bytes.data(), bytes.size(), 0);
       b.end();
     }},
    {"large_threadgroup",
     [](Bug& b) {
       b.begin();
       b.step(b.x, b.y, 1025);
       b.end();
     }},
    {"threadgroup_memory_unset",
     [](Bug& b) {
       MTL::ComputePipelineState* p = b.pipeline(kSource, "dynamic");
       b.begin();
       b.encoder->setComputePipelineState(p);
       b.encoder->setBuffer(b.x, 0, 0);
       b.encoder->dispatchThreads(MTL::Size(64, 1, 1), MTL::Size(64, 1, 1));
       b.end();
       p->release();
     }},
    {"threadgroup_memory_exceeded",
     [](Bug& b) {
       MTL::ComputePipelineState* p = b.pipeline(kSource, "big");
       b.begin();
       b.encoder->setComputePipelineState(p);
       b.encoder->setBuffer(b.x, 0, 0);
       b.encoder->dispatchThreads(MTL::Size(64, 1, 1), MTL::Size(64, 1, 1));
       b.end();
       p->release();
     }},
    {"missing_end_encoding",
     [](Bug& b) {
       b.begin();
       b.step(b.x, b.y);
       Host::finish(b.commands);
     }},
    {"encode_after_end",
     [](Bug& b) {
       b.begin();
       b.encoder->endEncoding();
       b.step(b.x, b.y);
       Host::finish(b.commands);
     }},
    {"double_commit",
     [](Bug& b) {
       b.commands->commit();
       b.commands->commit();
       b.commands->waitUntilCompleted();
     }},
    {"wait_before_commit", [](Bug& b) { b.commands->waitUntilCompleted(); }},
    {"late_handler",
     [](Bug& b) {
       Host::finish(b.commands);
       b.commands->addCompletedHandler(^(MTL::CommandBuffer*){
       });
     }},
    {"use_after_release",
     [](Bug& b) {
       b.x->release();
       b.x->length();
     }},
    {"released_while_queued",
     [](Bug& b) {
       b.commands = b.queue->commandBufferWithUnretainedReferences();
       b.begin();
       b.step(b.x, b.y);
       b.x->release();
       b.x = nullptr;
       b.end();
     }},
    {"unknown_selector", [](Bug& b) { reinterpret_cast<MTL::Library*>(b.x)->functionNames(); }},
    {"no_pool",
     [](Bug& b) {
       b.pool->release();
       b.queue->commandBuffer();
       b.pool = NS::AutoreleasePool::alloc()->init();
     }},
    {"misaligned_no_copy",
     [](Bug& b) {
       char* memory = static_cast<char*>(aligned_alloc(4096, 8192));
       if (!b.device->newBuffer(memory + 64, 4096, MTL::ResourceStorageModeShared, nullptr))
         printf("nil\n");
       free(memory);
     }},
    {"no_copy_past_mapping",
     [](Bug& b) {
       const size_t page = size_t(getpagesize());
       void* two =
           mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
       munmap(static_cast<char*>(two) + page, page);
       if (!b.device->newBuffer(two, 2 * page, MTL::ResourceStorageModeShared, nullptr))
         printf("nil\n");
     }},
    {"heap_range",
     [](Bug& b) {
       MTL::Heap* heap = b.heap();
       if (!heap->newBuffer(512, kPrivate, 3840)) printf("nil\n");
       heap->release();
     }},
    {"heap_alignment",
     [](Bug& b) {
       MTL::Heap* heap = b.heap();
       if (!heap->newBuffer(512, kPrivate, 100)) printf("nil\n");
       heap->release();
     }},
    {"nil_allocation",  // with METAL_SIM_FAULT=allocation=0 the buffers of Bug are nil already
     [](Bug& b) {
       b.begin();
       b.encoder->setBuffer(b.device->newBuffer(64, MTL::ResourceStorageModeShared), 0, 1);
       b.step(nullptr, b.y);
       b.end();
     }},
    {"private_contents",
     [](Bug& b) {
       MTL::Buffer* hidden = b.device->newBuffer(64, kPrivate);
       memset(hidden->contents(), 0, 64);
       hidden->release();
     }},
    {"leak",
     [](Bug& b) {
       b.y->retain();
       b.y->retain();
     }},
    {"lost_error",  // with METAL_SIM_FAULT=command=1 the command buffer fails, and the program
                    // never asks
     [](Bug& b) {
       b.begin();
       b.step(b.x, b.y);
       b.encoder->endEncoding();
       b.commands->commit();
       b.commands->waitUntilCompleted();
     }},
    {"wrong_constant_type",
     [](Bug& b) {
       MTL::Library* library = b.library(
           "constant int n [[function_constant(0)]];\n"
           "[[kernel]] void k(device float* x [[buffer(0)]]) { x[0] = n; }");
       auto* values = MTL::FunctionConstantValues::alloc()->init();
       const float one = 1;
       values->setConstantValue(&one, MTL::DataTypeFloat, NS::UInteger(0));
       NS::Error* error = nullptr;
       if (!library->newFunction(Host::text("k"), values, &error))
         printf("%s\n", error->localizedDescription()->utf8String());
       values->release();
       library->release();
     }},
};

}  // namespace

extern "C" void metal_sim_live_report(char* text, size_t bytes);

int main(int argc, char** argv) {
  {
    Bug bug;
    kBugs.at(argv[1])(bug);
  }
  char live[4096];
  metal_sim_live_report(live, sizeof(live));
  printf("live: %s\n", live);
}
