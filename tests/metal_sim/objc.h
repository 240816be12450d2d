// An Objective-C runtime in C++: a message is a C++ member function registered under its selector.
#pragma once
#include <objc/runtime.h>

#include <atomic>
#include <string>
#include <unordered_map>

namespace sim {

struct ClassObject;

// Every object that a client can send a message to.
struct Object {
  static constexpr const char* kName = "NSObject";
  ClassObject* cls = nullptr;
  std::atomic<long> references{1};
  virtual ~Object() = default;

  Object* retain();
  void release();
  Object* autorelease();
  unsigned long retain_count() { return references; }
  Object* self() { return this; }
  virtual bool is_equal(Object* other) { return this == other; }
  virtual unsigned long hash() { return reinterpret_cast<unsigned long>(this); }
  virtual std::string text();  // what description returns
};

// A class; itself the receiver of class messages.
struct ClassObject : Object {
  std::string name;
  ClassObject* parent = nullptr;
  bool meta = false;
  std::unordered_map<SEL, void*> methods;
  Object* (*create)() = nullptr;
  std::atomic<long> live{0}, made{0};
};

ClassObject* find_class(const char* name, bool create);
void adopt(Object* object, ClassObject* cls);
void* find_method(ClassObject* cls, SEL selector);

template <class T>
ClassObject* class_of() {
  static ClassObject* cls = find_class(T::kName, true);
  return cls;
}

// A new object with one reference, as alloc/init or new... return.
template <class T, class... Args>
T* make(Args&&... args) {
  T* object = new T(static_cast<Args&&>(args)...);
  adopt(object, class_of<T>());
  return object;
}
template <class T>
T* autoreleased(T* object) {
  if (object) object->autorelease();
  return object;
}
template <class T>
T* retained(T* object) {
  if (object) object->retain();
  return object;
}
inline void drop(Object* object) {
  if (object) object->release();
}

// Owns one reference.
template <class T>
class Ref {
 public:
  Ref() = default;
  Ref(T* object) : object_(retained(object)) {}
  Ref(const Ref& other) : object_(retained(other.object_)) {}
  Ref& operator=(const Ref& other) {
    T* old = object_;
    object_ = retained(other.object_);
    drop(old);
    return *this;
  }
  ~Ref() { drop(object_); }
  static Ref take(T* object) {
    Ref ref;
    ref.object_ = object;
    return ref;
  }
  T* get() const { return object_; }
  T* operator->() const { return object_; }
  explicit operator bool() const { return object_ != nullptr; }

 private:
  T* object_ = nullptr;
};

// The C function (self, selector, arguments...) that runs a member function or a plain one.
template <auto F>
struct Imp;
template <class R, class C, class... Args, R (C::*F)(Args...)>
struct Imp<F> {
  static R call(C* self, SEL, Args... args) { return (self->*F)(args...); }
};
template <class R, class... Args, R (*F)(Args...)>
struct Imp<F> {
  static R call(Object*, SEL, Args... args) { return F(args...); }
};

// Registers a class: Define<Buffer>("NSObject").on<&Buffer::contents>("contents")...
template <class T>
struct Define {
  ClassObject* cls = class_of<T>();
  explicit Define(const char* parent = "NSObject") {
    if (cls->name != parent) cls->parent = find_class(parent, true);
    if (cls->parent) cls->cls->parent = cls->parent->cls;
  }
  template <auto F>
  Define& on(const char* selector) {
    cls->methods[sel_registerName(selector)] = reinterpret_cast<void*>(&Imp<F>::call);
    return *this;
  }
  template <auto F>
  Define& on_class(const char* selector) {
    cls->cls->methods[sel_registerName(selector)] = reinterpret_cast<void*>(&Imp<F>::call);
    return *this;
  }
  Define& creatable() {
    cls->create = [] { return static_cast<Object*>(make<T>()); };
    return *this;
  }
};

}  // namespace sim
