// The Blocks runtime: enough to copy a block to the heap with what it captures, and to release it.
#include <Block.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace {

struct Descriptor {
  unsigned long reserved, size;
  void (*copy)(void* to, const void* from);
  void (*dispose)(const void* block);
};
struct Block {
  void* isa;
  std::atomic<int> flags;
  int reserved;
  void (*invoke)();
  Descriptor* descriptor;
};
// A captured __block variable.
struct ByRef {
  void* isa;
  ByRef* forwarding;
  std::atomic<int> flags;
  int size;
  void (*keep)(ByRef* to, ByRef* from);
  void (*destroy)(ByRef* variable);
};
constexpr int kNeedsFree = 1 << 24, kHelpers = 1 << 25, kGlobal = 1 << 28, kCounted = 0xfffe,
              kOne = 2;
constexpr int kFieldBlock = 7, kFieldByRef = 8;

ByRef* copy_variable(ByRef* from) {
  if (from->forwarding->flags & kNeedsFree) {
    from->forwarding->flags += kOne;
    return from->forwarding;
  }
  auto* to = static_cast<ByRef*>(malloc(from->size));
  memcpy(static_cast<void*>(to), from, from->size);
  to->flags = (from->flags & ~kCounted) | kNeedsFree | 2 * kOne;  // the stack frame holds one too
  to->forwarding = from->forwarding = to;
  if (from->flags & kHelpers) from->keep(to, from);
  return to;
}

void release_variable(ByRef* variable) {
  variable = variable->forwarding;
  if (!(variable->flags & kNeedsFree)) return;
  if (((variable->flags -= kOne) & kCounted) != 0) return;
  if (variable->flags & kHelpers) variable->destroy(variable);
  free(variable);
}

}  // namespace

extern "C" {

void* _NSConcreteStackBlock[32];
void* _NSConcreteGlobalBlock[32];
void* _NSConcreteMallocBlock[32];

void* _Block_copy(const void* block) {
  if (!block) return nullptr;
  auto* from = static_cast<Block*>(const_cast<void*>(block));
  if (from->flags & kGlobal) return from;
  if (from->flags & kNeedsFree) {
    from->flags += kOne;
    return from;
  }
  auto* to = static_cast<Block*>(malloc(from->descriptor->size));
  memcpy(static_cast<void*>(to), from, from->descriptor->size);
  to->isa = _NSConcreteMallocBlock;
  to->flags = (from->flags & ~kCounted) | kNeedsFree | kOne;
  if (to->flags & kHelpers) to->descriptor->copy(to, from);
  return to;
}

void _Block_release(const void* block) {
  auto* b = static_cast<Block*>(const_cast<void*>(block));
  if (!b || (b->flags & kGlobal) || !(b->flags & kNeedsFree)) return;
  if (((b->flags -= kOne) & kCounted) != 0) return;
  if (b->flags & kHelpers) b->descriptor->dispose(b);
  free(b);
}

void _Block_object_assign(void* to, const void* object, int kind) {
  const void* value = object;
  if ((kind & 15) == kFieldBlock) value = _Block_copy(object);
  if ((kind & 15) == kFieldByRef)
    value = copy_variable(static_cast<ByRef*>(const_cast<void*>(object)));
  *static_cast<const void**>(to) = value;
}

void _Block_object_dispose(const void* object, int kind) {
  if ((kind & 15) == kFieldBlock) _Block_release(object);
  if ((kind & 15) == kFieldByRef && object)
    release_variable(static_cast<ByRef*>(const_cast<void*>(object)));
}
}
