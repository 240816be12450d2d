// The few declarations of the Objective-C runtime that metal-cpp names; ../../objc.cc defines them.
#pragma once
#include <cstddef>
#include <cstdint>

typedef signed char BOOL;
typedef struct objc_selector* SEL;
typedef struct objc_class* Class;
struct objc_object {};
typedef struct objc_object* id;
typedef struct objc_protocol Protocol;

extern "C" {
SEL sel_registerName(const char* name);
const char* sel_getName(SEL selector);
Class objc_lookUpClass(const char* name);
Class objc_getClass(const char* name);
Protocol* objc_getProtocol(const char* name);
void* objc_autoreleasePoolPush();
void objc_autoreleasePoolPop(void* pool);
id objc_retain(id object);
void objc_release(id object);
}
