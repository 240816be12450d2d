// MSL text to a shared library: clang's preprocessor, translate.py, clang. Kept on disk by a hash
// of all that matters.
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <map>
#include <mutex>
#include <sstream>
#include <thread>

#include "library.h"
#include "rule.h"

namespace sim {
namespace {

std::string setting(const char* name, const char* otherwise) {
  const char* value = getenv(name);
  return value && *value ? value : otherwise;
}
std::string read(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}
void write(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

uint64_t hash(const std::string& text, uint64_t h) {
  for (unsigned char c : text) h = (h ^ c) * 1099511628211u;
  return h;
}

// The runner's own files are part of the key.
const std::string& version() {
  static const std::string all = [] {
    const std::string here = METAL_SIM_DIR;
    std::string text = read(here + "/translate.py") + read(here + "/msl/metal_stdlib");
    for (const char* f : {"abi", "types", "functions", "simd", "matrix", "bind"})
      text += read(here + "/msl/shim/" + f + ".h");
    return text;
  }();
  return all;
}

// How all text is read, as it runs and as it is only checked.
const std::string kLanguage =
    " -std=c++20 -w -fno-exceptions -fno-rtti -Xclang -cl-single-precision-constant";

std::string running() {
  std::string text =
      kLanguage +
      " -fPIC -ffp-contract=off -fno-math-errno -fvisibility=hidden -Xclang "
      "-ffloat16-excess-precision=none"
      " -Xclang -fbfloat16-excess-precision=none -fno-omit-frame-pointer -gline-tables-only";
  if (read("/proc/cpuinfo").find(" f16c ") != std::string::npos &&
      read("/proc/cpuinfo").find(" avx2 ") != std::string::npos)
    text += " -march=x86-64-v3";
  const std::string sanitize = setting("METAL_SIM_SANITIZE", "");
  if (sanitize == "address")
    text +=
        " -O1 -fsanitize=address,undefined -fno-sanitize=vptr,function "
        "-fno-sanitize-recover=undefined -shared-libsan";
  else if (sanitize == "thread")
    text += " -O1 -fsanitize=thread -shared-libsan";
  else
    text += " -O2";
  return text;
}
// Pointers of different address spaces are different types there.
const std::string kChecking = kLanguage + " -DMSL_ADDRESS_SPACES";

std::string clang() { return setting("METAL_SIM_CLANG", METAL_SIM_COMPILER); }
std::string cache() { return setting("METAL_SIM_CACHE", METAL_SIM_CACHE_DIR); }

int run(const std::string& command, std::string& output, const std::string& log) {
  // The compiler itself runs without the sanitizer that this process may have loaded first.
  const int status = std::system(("LD_PRELOAD= " + command + " 2>" + log).c_str());
  output += read(log);
  unlink(log.c_str());
  return status;
}

std::string own_name() {
  return std::to_string(getpid()) + "-" +
         std::to_string(std::hash<std::thread::id>()(std::this_thread::get_id()));
}

// The flags with which clang reads a text: the shim's headers come compiled, for they are most of
// what it would parse.
std::string with_headers(const std::string& flags) {
  static auto& lock = *new std::mutex;
  static auto& known = *new std::map<std::string, std::string>;
  std::lock_guard hold(lock);
  auto [at, made] = known.try_emplace(flags);
  if (!made) return at->second;
  char key[20];
  snprintf(key, sizeof(key), "%016lx", hash(version() + clang() + flags, 14695981039346656037u));
  const std::string header = cache() + "/" + key + ".h", compiled = cache() + "/" + key + ".pch";
  at->second = flags + " -I" METAL_SIM_DIR "/msl -x c++";
  if (access(compiled.c_str(), R_OK) != 0) {
    const std::string stem = cache() + "/" + own_name();
    std::string error;
    write(stem + ".h", "#include <metal_stdlib>\n");
    rename((stem + ".h").c_str(), header.c_str());  // stays: clang looks for it
    const int status = run(clang() + at->second +
                               "-header -fpch-instantiate-templates -Xclang -fno-pch-timestamp " +
                               header + " -o " + stem + ".pch",
                           error, stem + ".log");
    if (!status) rename((stem + ".pch").c_str(), compiled.c_str());
  }
  // Without it the headers are read as they are.
  if (access(compiled.c_str(), R_OK) == 0) at->second += " -include-pch " + compiled;
  return at->second;
}

// METAL_SIM_WITHOUT is cut from all shaders: so a test plants a bug in those of the product.
std::string planted(std::string source) {
  const std::string cut = setting("METAL_SIM_WITHOUT", "");
  for (size_t at = 0; !cut.empty() && (at = source.find(cut, at)) != std::string::npos;)
    source.erase(at, cut.size());
  return source;
}

// METAL_SIM_MISCOMPILE is what the compiler gets wrong, as miscompile.py has it.
std::string miscompiled() { return setting("METAL_SIM_MISCOMPILE", ""); }

// Whether the text at an offset is of an inline function that nothing calls.
bool is_unused(const std::string& text, size_t at) {
  const size_t function = text.rfind("\ninline ", at), kernel = text.rfind("\nkernel ", at);
  if (function == std::string::npos || (kernel != std::string::npos && kernel > function))
    return false;
  const size_t end = text.find('(', function), begin = text.rfind(' ', end) + 1;
  const std::string call = text.substr(begin, end + 1 - begin);
  return text.find(call, end) == std::string::npos;
}

// METAL_SIM_LACKS lists what this GPU does not have, as bfloat|simd_sum; a text that uses it is
// refused in such words as Apple's compiler has.
std::string lacking(const std::string& preprocessed) {
  std::istringstream list(setting("METAL_SIM_LACKS", ""));
  for (std::string word; std::getline(list, word, '|');)
    for (size_t at = 0; !word.empty() && (at = preprocessed.find(word, at)) != std::string::npos;
         at++) {
      if (is_unused(preprocessed, at)) continue;
      if (word == "bfloat") return "program_source:3:9: error: unknown type name 'bfloat'";
      return "Encountered unlowered function call to air." + word;
    }
  return "";
}

}  // namespace

std::string compile_library(const std::string& given, const std::string& macros,
                            std::string& error) {
  const std::string source = planted(given);
  mkdir(cache().c_str(), 0777);
  const std::string lacks = setting("METAL_SIM_LACKS", "");
  std::string all = version() + clang() + running() + macros;
  if (!lacks.empty() || !miscompiled().empty())
    all += lacks + "/" + miscompiled() + read(METAL_SIM_DIR "/miscompile.py");
  char key[40];
  snprintf(key, sizeof(key), "%016lx%016lx", hash(source, hash(all, 14695981039346656037u)),
           hash(all, hash(source, 1469598103934665603u)));
  const std::string library = cache() + "/" + key + ".so";
  if (access(library.c_str(), R_OK) == 0) return library;
  const std::string stem = cache() + "/" + key + "-" + own_name();
  // Apple's headers are the shim's, which joins after preprocessing; lines keep their numbers.
  std::string text;
  std::istringstream lines(source);
  for (std::string line; std::getline(lines, line);) {
    const size_t at = line.find_first_not_of(" \t");
    const bool own = at != std::string::npos && line[at] == '#' &&
                     line.find("include") != std::string::npos &&
                     line.find("<metal_") != std::string::npos;
    text += (own ? "" : line) + "\n";
  }
  write(stem + ".metal", "# 1 \"program_source\"\n" + text);
  const std::string log = stem + ".log";
  int status =
      run(clang() + " -E -x c++ -std=c++14 -undef -w -D__METAL__=1 -D__METAL_VERSION__=310 " +
              macros + " " + stem + ".metal -o " + stem + ".i",
          error, log);
  if (!status && !(error = lacking(read(stem + ".i"))).empty()) status = 1;
  const std::string python = setting("METAL_SIM_PYTHON", METAL_SIM_PYTHON_EXECUTABLE) + " -S -E ";
  if (!status && !miscompiled().empty())
    status = run(python + METAL_SIM_DIR "/miscompile.py " + miscompiled() + " " + stem + ".i",
                 error, log);
  if (!status)
    status = run(python + METAL_SIM_DIR "/translate.py " + stem + ".i " + stem + ".cc", error, log);
  if (!status) {
    // Both at once: for the processor, and only parsed, with address spaces kept apart. What the
    // library calls is in this process.
    int checked = 0;
    std::string unlike;
    std::thread check(
        [&, command = clang() + with_headers(kChecking) + " -fsyntax-only " + stem + ".spaces.cc"] {
          checked = run(command, unlike, stem + ".spaces.log");
        });
    status = run(clang() + with_headers(running()) + " -shared -nostdlib " + stem +
                     ".cc -lgcc -o " + stem + ".so",
                 error, log);
    check.join();
    if (!status && checked) status = checked, error += unlike;
  }
  if (status && error.empty()) error = "the compiler could not be run: " + clang();
  if (!status)
    rename((stem + ".so").c_str(), library.c_str());
  else
    unlink((stem + ".so").c_str());
  if (!environment("METAL_SIM_KEEP", 0))
    for (const char* end : {".metal", ".i", ".cc", ".spaces.cc"}) unlink((stem + end).c_str());
  return status ? "" : library;
}

}  // namespace sim
