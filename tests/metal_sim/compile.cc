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

std::string flags() {
  std::string text =
      "-x c++ -std=c++20 -fPIC -w -fno-exceptions -fno-rtti -ffp-contract=off -fno-math-errno"
      " -fvisibility=hidden -Xclang -cl-single-precision-constant -Xclang "
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

int run(const std::string& command, std::string& output, const std::string& log) {
  // The compiler itself runs without the sanitizer that this process may have loaded first.
  const int status = std::system(("LD_PRELOAD= " + command + " 2>" + log).c_str());
  output += read(log);
  return status;
}

}  // namespace

std::string compile_library(const std::string& source, const std::string& macros,
                            std::string& error) {
  const std::string cache = setting("METAL_SIM_CACHE", METAL_SIM_CACHE_DIR);
  mkdir(cache.c_str(), 0777);
  const std::string all = version() + flags() + macros;
  char key[40];
  snprintf(key, sizeof(key), "%016lx%016lx", hash(source, hash(all, 14695981039346656037u)),
           hash(all, hash(source, 1469598103934665603u)));
  const std::string library = cache + "/" + key + ".so";
  if (access(library.c_str(), R_OK) == 0) return library;
  const std::string stem = cache + "/" + key + "-" + std::to_string(getpid()) + "-" +
                           std::to_string(std::hash<std::thread::id>()(std::this_thread::get_id()));
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
  const std::string clang = setting("METAL_SIM_CLANG", METAL_SIM_COMPILER), here = METAL_SIM_DIR;
  const std::string log = stem + ".log";
  int status =
      run(clang + " -E -x c++ -std=c++14 -undef -w -D__METAL__=1 -D__METAL_VERSION__=310 " +
              macros + " " + stem + ".metal -o " + stem + ".i",
          error, log);
  if (!status)
    status = run(setting("METAL_SIM_PYTHON", METAL_SIM_PYTHON_EXECUTABLE) + " -S -E " + here +
                     "/translate.py " + stem + ".i " + stem + ".cc",
                 error, log);
  if (!status)
    status = run(
        clang + " " + flags() + " -shared -I" + here + "/msl " + stem + ".cc -o " + stem + ".so",
        error, log);
  // The same once more, only parsed: pointers of different address spaces are different types
  // there.
  if (!status)
    status = run(clang +
                     " -x c++ -std=c++20 -fsyntax-only -w -fno-exceptions -fno-rtti -Xclang "
                     "-cl-single-precision-constant"
                     " -DMSL_ADDRESS_SPACES -I" +
                     here + "/msl " + stem + ".spaces.cc",
                 error, log);
  if (status && error.empty()) error = "the compiler could not be run: " + clang;
  if (!status) rename((stem + ".so").c_str(), library.c_str());
  if (!environment("METAL_SIM_KEEP", 0))
    for (const char* end : {".metal", ".i", ".cc", ".spaces.cc", ".log"})
      unlink((stem + end).c_str());
  return status ? "" : library;
}

}  // namespace sim
