// A small Metal program's skeleton, for the tests of the rig: one device, one queue, kernels from a
// string.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "Foundation/Foundation.hpp"
#include "Metal/Metal.hpp"

struct Host {
  NS::AutoreleasePool* pool = NS::AutoreleasePool::alloc()->init();
  MTL::Device* device = MTL::CreateSystemDefaultDevice();
  MTL::CommandQueue* queue = device->newCommandQueue();

  ~Host() {
    queue->release();
    pool->release();
    device->release();
  }
  static NS::String* text(const char* s) { return NS::String::string(s, NS::UTF8StringEncoding); }
  MTL::Library* library(const std::string& source) {
    NS::Error* error = nullptr;
    MTL::Library* library = device->newLibrary(text(source.c_str()), nullptr, &error);
    if (!library) printf("compile: %s\n", error->localizedDescription()->utf8String());
    return library;
  }
  MTL::ComputePipelineState* pipeline(const std::string& source, const char* name) {
    MTL::Library* lib = library(source);
    if (!lib) exit(3);
    NS::Error* error = nullptr;
    MTL::Function* function = lib->newFunction(text(name));
    MTL::ComputePipelineState* state = device->newComputePipelineState(function, &error);
    function->release();
    lib->release();
    return state;
  }
  template <class T>
  MTL::Buffer* buffer(const std::vector<T>& values) {
    MTL::Buffer* b = device->newBuffer(values.size() * sizeof(T), MTL::ResourceStorageModeShared);
    memcpy(b->contents(), values.data(), values.size() * sizeof(T));
    return b;
  }
  // Commits, waits, and prints how it ended.
  static bool finish(MTL::CommandBuffer* commands) {
    commands->commit();
    commands->waitUntilCompleted();
    const bool good = commands->status() == MTL::CommandBufferStatusCompleted;
    printf("%s\n", good ? "completed" : commands->error()->localizedDescription()->utf8String());
    return good;
  }
};
