// Apple's C++ binding of Metal, and the two ways in which its objects are held here.
#pragma once

#ifndef METALCPP_SYMBOL_VISIBILITY_HIDDEN
#define METALCPP_SYMBOL_VISIBILITY_HIDDEN
#endif
#include <Foundation/Foundation.hpp>
#include <Metal/Metal.hpp>
#include <string>
#include <string_view>

namespace jax_mps::metal {

// What a message named new..., alloc or copy... gives is owned; anything else is autoreleased.
template <class T>
using Owned = NS::SharedPtr<T>;
template <class T>
Owned<T> own(T* object) {
  return NS::TransferPtr(object);
}

// Objects that messages autorelease live until the end of its scope. Every entry from outside has
// one: a host process without a run loop drains none of its own.
class Pool {
 public:
  Pool() : pool_(NS::AutoreleasePool::alloc()->init()) {}
  ~Pool() { pool_->release(); }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

 private:
  NS::AutoreleasePool* pool_;
};

// Autoreleased.
inline NS::String* ns_string(const std::string& text) {
  return NS::String::string(text.c_str(), NS::UTF8StringEncoding);
}
inline std::string text_of(const NS::String* string) { return string ? string->utf8String() : ""; }
inline std::string words_of(const NS::Error* error) {
  return error ? text_of(error->localizedDescription()) : "no reason given";
}

}  // namespace jax_mps::metal
