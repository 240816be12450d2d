// The one custom call and the module that hands it to Python.
#include "xla/ffi/api/ffi.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "arena.h"
#include "cpu/device.h"
#include "executable.h"
#include "idle_memory.h"
#include "ir/check.h"
#ifdef JAX_MPS_METAL
#include "metal/recipe.h"
#include "metal/runtime/information.h"
#include "metal/runtime/verdicts.h"
#endif

namespace nb = nanobind;
namespace ffi = xla::ffi;

namespace jax_mps {
namespace {

constexpr size_t kInline = 64;  // buffers bound without a heap allocation

// A buffer as large as its value, or nullptr with `error` set.
void* bind(ffi::AnyBuffer buffer, const TensorType& type, std::string& error) {
  if (buffer.size_bytes() != type.bytes())
    error =
        "a buffer of " + std::to_string(buffer.size_bytes()) + " bytes is bound to " + type.text();
  return buffer.untyped_data();
}

ffi::Error run(ffi::RemainingArgs args, ffi::RemainingRets rets, ffi::Dictionary attributes) {
  try {
    // A call may have other attributes, which are there to be read by people and to tell calls
    // apart.
    ffi::ErrorOr<std::string_view> text = attributes.get<std::string_view>("program");
    if (text.has_error())
      return ffi::Error::InvalidArgument("jax_mps: the call has no string named program");
    auto executable = compile_cached(*text);
    const Program& program = executable->program();
    // A call may have a result of no bytes behind the program's outputs: jax_mps/ffi.py says why.
    size_t outputs = program.outputs.size();
    size_t results = rets.size();
    if (results > 2 && (*rets.get<ffi::AnyBuffer>(results - 1))->size_bytes() == 0) results--;
    if (args.size() != program.inputs.size() || results != outputs)
      return ffi::Error::InvalidArgument(
          "jax_mps: the program takes " + std::to_string(program.inputs.size()) +
          " inputs and gives " + std::to_string(outputs) + " outputs, but the call has " +
          std::to_string(args.size()) + " and " + std::to_string(results));
    const void* inline_in[kInline];
    void* inline_out[kInline];
    std::vector<const void*> heap_in(args.size() > kInline ? args.size() : 0);
    std::vector<void*> heap_out(outputs > kInline ? outputs : 0);
    const void** in = heap_in.empty() ? inline_in : heap_in.data();
    void** out = heap_out.empty() ? inline_out : heap_out.data();
    std::string error;
    for (size_t i = 0; i < args.size(); i++)
      in[i] = bind(*args.get<ffi::AnyBuffer>(i), program.values[program.inputs[i]].type, error);
    for (size_t i = 0; i < outputs; i++)
      out[i] = bind(**rets.get<ffi::AnyBuffer>(i), program.values[program.outputs[i]].type, error);
    if (!error.empty()) return ffi::Error::InvalidArgument("jax_mps: " + error);
    Busy busy;
    executable->run(in, out);
    return ffi::Error::Success();
  } catch (const ProgramError& error) {
    return ffi::Error::InvalidArgument(std::string("jax_mps: ") + error.what());
  } catch (const OutOfMemory& error) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, std::string("jax_mps: ") + error.what());
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted,
                      "jax_mps: program: the system has no memory for its tables. Use a smaller "
                      "batch, or free memory.");
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("jax_mps: ") + error.what());
  }
}

XLA_FFI_DEFINE_HANDLER(kRun, run, ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attrs());

}  // namespace
}  // namespace jax_mps

NB_MODULE(_ext, m) {
  using namespace jax_mps;
  m.doc() = "The native half of jax_mps.";
  m.attr("ffi_api") = nb::make_tuple(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR);
  m.def("target",
        [] { return nb::capsule(reinterpret_cast<void*>(kRun), "xla._CUSTOM_CALL_TARGET"); });
  m.def(
      "implementations",
      [](const std::string& text) { return compile_cached(text)->implementations(); },
      nb::arg("text"),
      "Compiles a program and names the implementation of each step; ValueError with the reason if "
      "one has none.");
  m.def("cache_info", [] {
    CacheInfo info = cache_info();
    nb::dict d;
    d["count"] = info.count, d["bytes"] = info.bytes, d["limit"] = info.limit;
    d["hits"] = info.hits, d["misses"] = info.misses, d["arena_bytes"] = info.arena_bytes;
    return d;
  });
  m.def("set_cache_limit", &set_cache_limit, nb::arg("programs"));
  m.def("clear_cache", &clear_cache);
  m.def("versions", &cpu::versions);
  m.def("give_back_when_idle", &give_back_when_idle, nb::arg("seconds"));
  m.def("give_back_memory", &give_back_memory, nb::call_guard<nb::gil_scoped_release>());
#ifdef JAX_MPS_METAL
  m.def("metal_information", [] {
    nb::dict d;
    for (const auto& [name, value] : metal::information()) d[name.c_str()] = value;
    return d;
  });
  m.def("metal_verdicts", [] {
    nb::list all;
    for (const metal::Verdict& v : metal::verdicts())
      all.append(nb::make_tuple(v.node, v.implementation, v.outcome, v.seconds));
    return all;
  });
#endif
  m.def(
      "ops",
      [] {
        nb::dict d;
        d["cpu"] = cpu::ops(), d["checked"] = checked_ops();
#ifdef JAX_MPS_METAL
        d["metal"] = metal::ops();
#endif
        return d;
      },
      "The ops of each device, and those whose nodes are checked.");
  m.def("devices", &devices, "The devices of this build and machine, best first.");
  nb::register_exception_translator([](const std::exception_ptr& p, void*) {
    try {
      std::rethrow_exception(p);
    } catch (const ProgramError& error) {
      PyErr_SetString(PyExc_ValueError, error.what());
    }
  });
}
