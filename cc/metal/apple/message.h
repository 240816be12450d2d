// Messages to Apple's own kernels, which metal-cpp does not know: each is a constant that names its
// class and selector, and has the C types of what it takes and gives. tests/metal/test_selectors.py
// compares them with Apple's headers.
#pragma once

#include <objc/message.h>

#include "metal/runtime/metal_cpp.h"

namespace jax_mps::metal {

// Sent to an object.
template <class Signature>
class Message;
template <class Result, class... Arguments>
class Message<Result(Arguments...)> {
 public:
  constexpr Message(const char* cls, const char* selector) : cls_(cls), selector_(selector) {}
  Result operator()(const void* receiver, Arguments... arguments) const {
    auto* send = reinterpret_cast<Result (*)(const void*, SEL, Arguments...)>(&objc_msgSend);
    return send(receiver, sel_registerName(selector_), arguments...);
  }

 protected:
  const void* cls() const { return objc_lookUpClass(cls_); }

 private:
  const char *cls_, *selector_;
};

// Sent to a class.
template <class Signature>
class ClassMessage;
template <class Result, class... Arguments>
class ClassMessage<Result(Arguments...)> : Message<Result(Arguments...)> {
 public:
  using Message<Result(Arguments...)>::Message;
  Result operator()(Arguments... arguments) const {
    return Message<Result(Arguments...)>::operator()(this->cls(), arguments...);
  }
};

// Sent to a new object of a class: gives it, or nothing where the class refuses.
template <class Signature>
class InitMessage;
template <class Object, class... Arguments>
class InitMessage<Object*(Arguments...)> : Message<Object*(Arguments...)> {
 public:
  using Message<Object*(Arguments...)>::Message;
  Owned<Object> operator()(Arguments... arguments) const {
    Message<const void*()> alloc("NSObject", "alloc");
    return own(Message<Object*(Arguments...)>::operator()(alloc(this->cls()), arguments...));
  }
};

// As the headers of Metal Performance Shaders have it.
enum MPSDataType : uint32_t {
  MPSDataTypeFloat32 = 0x10000000 | 32,
  MPSDataTypeFloat16 = 0x10000000 | 16,
};

}  // namespace jax_mps::metal
