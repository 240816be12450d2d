// A type that metal-cpp's signatures name and nothing here uses.
#pragma once
#include <cstdint>
typedef uint32_t mach_port_t;
typedef mach_port_t task_id_token_t;
typedef int kern_return_t;
