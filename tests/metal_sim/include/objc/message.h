// Message dispatch, as metal-cpp calls it: a function pointer cast to the message's own type.
#pragma once
#include <objc/runtime.h>

extern "C" {
void objc_msgSend();
void objc_msgSend_stret();
void objc_msgSend_fpret();
}
