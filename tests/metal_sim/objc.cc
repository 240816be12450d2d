// Classes, selectors, reference counts, autorelease pools. Released objects stay as zombies, so
// that a late message is an error and not luck.
#include "objc.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <new>
#include <set>
#include <vector>

#include "rule.h"

namespace sim {
namespace {

std::mutex& lock() {
  static auto& m = *new std::mutex;
  return m;
}
std::set<std::string>& selectors() {
  static auto& s = *new std::set<std::string>;
  return s;
}
std::unordered_map<std::string, ClassObject*>& classes() {
  static auto& c = *new std::unordered_map<std::string, ClassObject*>;
  return c;
}

// What is left of an object whose last reference is gone.
struct Zombie : Object {
  static constexpr const char* kName = "_Zombie";
  ClassObject* was;
  explicit Zombie(ClassObject* was) : was(was) {}
};
constexpr size_t kZombies = 1 << 16;

void bury(Object* object) {
  ClassObject* was = object->cls;
  was->live--;
  object->~Object();
  auto* zombie = new (static_cast<void*>(object)) Zombie(was);
  zombie->cls = class_of<Zombie>();
  zombie->references = 0;
  static auto& graves = *new std::deque<void*>;
  std::lock_guard hold(lock());
  graves.push_back(object);
  if (graves.size() > kZombies) {
    ::operator delete(graves.front());
    graves.pop_front();
  }
}

struct Pool : Object {
  static constexpr const char* kName = "NSAutoreleasePool";
  Pool();
  ~Pool() override;
  void drain() { release(); }
  std::vector<Object*> objects;
};
thread_local std::vector<Pool*> pools;
Pool::Pool() { pools.push_back(this); }
Pool::~Pool() {
  while (!pools.empty()) {  // an older pool takes the younger ones along
    Pool* top = pools.back();
    pools.pop_back();
    for (size_t i = 0; i < top->objects.size(); i++) top->objects[i]->release();
    if (top == this) break;
  }
}

}  // namespace

ClassObject* find_class(const char* name, bool create) {
  std::lock_guard hold(lock());
  auto& slot = classes()[name];
  if (!slot && create) {
    slot = new ClassObject;
    slot->name = name;
    slot->cls = new ClassObject;
    slot->cls->name = name;
    slot->cls->meta = true;
    slot->cls->cls = slot->cls;
  }
  return slot;
}

void adopt(Object* object, ClassObject* cls) {
  object->cls = cls;
  cls->live++;
  cls->made++;
}

void* find_method(ClassObject* cls, SEL selector) {
  for (ClassObject* c = cls; c; c = c->parent)
    if (auto found = c->methods.find(selector); found != c->methods.end()) return found->second;
  return nullptr;
}

Object* Object::retain() {
  references++;
  return this;
}
void Object::release() {
  if (dynamic_cast<ClassObject*>(this)) return;
  if (--references == 0) bury(this);
}
Object* Object::autorelease() {
  if (pools.empty())
    violation("autorelease pool",
              "an object of class %s is autoreleased with no pool in place: it leaks",
              cls->name.c_str());
  else
    pools.back()->objects.push_back(this);
  return this;
}
std::string Object::text() { return "<" + cls->name + ">"; }

namespace {

bool responds(Object* self, SEL asked) { return find_method(self->cls, asked) != nullptr; }
struct RootObject : Object {
  bool responds_to(SEL asked) { return responds(this, asked); }
  void* signature(SEL asked) { return responds(this, asked) ? this : nullptr; }
  ClassObject* get_class() { return cls; }
  RootObject* init() { return this; }
  Object* alloc() {
    auto* c = static_cast<ClassObject*>(static_cast<Object*>(this));
    if (!c->create)
      die("unrecognized selector",
          "+[%s alloc]: the class is a protocol's, or the simulator lacks it", c->name.c_str());
    return c->create();
  }
};

const auto object_class = Define<RootObject>()
                              .on<&Object::retain>("retain")
                              .on<&Object::release>("release")
                              .on<&Object::autorelease>("autorelease")
                              .on<&Object::retain_count>("retainCount")
                              .on<&Object::self>("self")
                              .on<&Object::is_equal>("isEqual:")
                              .on<&Object::hash>("hash")
                              .on<&RootObject::get_class>("class")
                              .on<&RootObject::init>("init")
                              .on<&RootObject::responds_to>("respondsToSelector:")
                              .on<&RootObject::signature>("methodSignatureForSelector:")
                              .on_class<&RootObject::alloc>("alloc")
                              .on_class<&RootObject::alloc>("new")
                              .on_class<&RootObject::responds_to>("respondsToSelector:")
                              .on_class<&Object::retain>("retain")
                              .on_class<&Object::release>("release");
const auto pool_class = Define<Pool>().creatable().on<&Pool::drain>("drain");

}  // namespace
}  // namespace sim

using namespace sim;

extern "C" {

SEL sel_registerName(const char* name) {
  std::lock_guard hold(lock());
  return reinterpret_cast<SEL>(const_cast<char*>(selectors().insert(name).first->c_str()));
}
const char* sel_getName(SEL selector) { return reinterpret_cast<const char*>(selector); }
Class objc_lookUpClass(const char* name) {
  return reinterpret_cast<Class>(find_class(name, false));
}
Class objc_getClass(const char* name) { return objc_lookUpClass(name); }
Protocol* objc_getProtocol(const char*) { return nullptr; }
void* objc_autoreleasePoolPush() { return make<Pool>(); }
void objc_autoreleasePoolPop(void* pool) { static_cast<Pool*>(pool)->release(); }
id objc_retain(id object) {
  return object ? reinterpret_cast<id>(reinterpret_cast<Object*>(object)->retain()) : object;
}
void objc_release(id object) { drop(reinterpret_cast<Object*>(object)); }

// The number of live objects of a class, or of all classes for null: what a leak test reads.
long metal_sim_live(const char* name) {
  std::lock_guard hold(lock());
  long count = 0;
  for (auto& [n, cls] : classes())
    if (cls && (!name || n == name)) count += cls->live;
  return count;
}
// "Class live made" lines of every class with live objects, into buffer.
void metal_sim_live_report(char* buffer, size_t bytes) {
  std::string text;
  {
    std::lock_guard hold(lock());
    for (auto& [n, cls] : classes())
      if (cls && cls->live)
        text += n + " " + std::to_string(cls->live) + " " + std::to_string(cls->made) + "\n";
  }
  snprintf(buffer, bytes, "%s", text.c_str());
}

// Where objc_msgSend jumps to for a nil receiver and for this selector on this object.
void metal_sim_nil();
void* metal_sim_lookup(Object* self, SEL selector) {
  if (!self) return reinterpret_cast<void*>(&metal_sim_nil);
  if (self->cls == class_of<Zombie>())
    die("use after release", "-[%s %s]: the object has no reference left",
        static_cast<Zombie*>(self)->was->name.c_str(), sel_getName(selector));
  if (void* method = find_method(self->cls, selector)) return method;
  die("unrecognized selector", "%c[%s %s]", self->cls->meta ? '+' : '-', self->cls->name.c_str(),
      sel_getName(selector));
}
}

// The trampolines keep every argument register and jump, so that the method sees the very call that
// was made.
#if defined(__x86_64__)
#define SAVE                                                                                       \
  "push %rdi\npush %rsi\npush %rdx\npush %rcx\npush %r8\npush %r9\npush %rax\nsub $128, %rsp\n"    \
  "movups %xmm0, (%rsp)\nmovups %xmm1, 16(%rsp)\nmovups %xmm2, 32(%rsp)\nmovups %xmm3, 48(%rsp)\n" \
  "movups %xmm4, 64(%rsp)\nmovups %xmm5, 80(%rsp)\nmovups %xmm6, 96(%rsp)\nmovups %xmm7, "         \
  "112(%rsp)\n"
#define RESTORE                                                                                    \
  "mov %rax, %r11\n"                                                                               \
  "movups (%rsp), %xmm0\nmovups 16(%rsp), %xmm1\nmovups 32(%rsp), %xmm2\nmovups 48(%rsp), %xmm3\n" \
  "movups 64(%rsp), %xmm4\nmovups 80(%rsp), %xmm5\nmovups 96(%rsp), %xmm6\nmovups 112(%rsp), "     \
  "%xmm7\n"                                                                                        \
  "add $128, %rsp\npop %rax\npop %r9\npop %r8\npop %rcx\npop %rdx\npop %rsi\npop %rdi\njmp "       \
  "*%r11\n"
asm(".text\n"
    ".globl objc_msgSend\n.type objc_msgSend, @function\n"
    ".globl objc_msgSend_fpret\n.type objc_msgSend_fpret, @function\n"
    "objc_msgSend:\nobjc_msgSend_fpret:\n" SAVE "call metal_sim_lookup@PLT\n" RESTORE
    ".globl objc_msgSend_stret\n.type objc_msgSend_stret, @function\n"
    "objc_msgSend_stret:\n" SAVE
    "mov %rsi, %rdi\nmov %rdx, %rsi\ncall metal_sim_lookup@PLT\n" RESTORE
    ".globl metal_sim_nil\n.type metal_sim_nil, @function\n"
    "metal_sim_nil:\nxor %eax, %eax\nxor %edx, %edx\nxorps %xmm0, %xmm0\nret\n");
#else
#error "the simulated Metal runs on x86-64"
#endif
