// Reports of broken rules, and injected faults.
#include "rule.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <sstream>
#include <thread>

namespace sim {
namespace {

std::atomic<long> violations{0};
thread_local Watch* watching = nullptr;
std::mutex& lock() {
  static auto& m = *new std::mutex;
  return m;
}
std::string& last() {
  static auto& s = *new std::string;
  return s;
}

std::string render(const char* rule, const char* format, va_list args) {
  char text[4096];
  int n = snprintf(text, sizeof(text), "%s: ", rule);
  vsnprintf(text + n, sizeof(text) - n, format, args);
  return text;
}

// A process in which a rule was broken does not end well, whatever its own tests say.
void finish() {
  if (!violations || getenv("METAL_SIM_FORGIVE")) return;
  fprintf(stderr, "metal_sim: %ld broken rules; the last: %s\n", violations.load(), last().c_str());
  fflush(nullptr);
  _exit(70);
}
const int at_exit = atexit(finish);

}  // namespace

Watch::Watch() : outer(watching) { watching = this; }
Watch::~Watch() { watching = outer; }

void violation(const char* rule, const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::string text = render(rule, format, args);
  va_end(args);
  fprintf(stderr, "metal_sim: %s\n", text.c_str());
  violations++;
  {
    std::lock_guard hold(lock());
    last() = text;
  }
  if (watching && watching->first.empty()) watching->first = text;
  if (environment("METAL_SIM_ABORT", 0)) abort();
}

void die(const char* rule, const char* format, ...) {
  va_list args;
  va_start(args, format);
  fprintf(stderr, "metal_sim: %s\n", render(rule, format, args).c_str());
  va_end(args);
  abort();
}

long environment(const char* name, long otherwise) {
  const char* text = getenv(name);
  return text && *text ? atol(text) : otherwise;
}

bool fault(const char* name) {
  static auto& seen = *new std::map<std::string, long>;
  const char* list = getenv("METAL_SIM_FAULT");
  if (!list) return false;
  std::lock_guard hold(lock());
  for (const char* at = strstr(list, name); at; at = strstr(at + 1, name)) {
    const char* end = at + strlen(name);
    if ((at != list && at[-1] != ',') || *end != '=') continue;
    const long wanted = atol(end + 1);
    return wanted == 0 || ++seen[name] == wanted;
  }
  return false;
}

namespace {

bool has_one_of(const char* variable, const std::string& source) {
  const char* list = getenv(variable);
  std::istringstream texts(list ? list : "");
  for (std::string text; std::getline(texts, text, '|');)
    if (!text.empty() && source.find(text) != std::string::npos) return true;
  return false;
}

}  // namespace

Planted::Planted(const std::string& source)
    : wrong(has_one_of("METAL_SIM_WRONG", source)), slow(has_one_of("METAL_SIM_SLOW", source)) {}

// The exponents of a float or of two halves.
void Planted::spoil(char* result, size_t bytes) const {
  for (size_t i = 1; wrong && i < std::min<size_t>(bytes, 4); i += 2) result[i] ^= 0x40;
}

void Planted::delay() const {
  if (slow) std::this_thread::sleep_for(std::chrono::milliseconds(20));
}

}  // namespace sim

extern "C" {
long metal_sim_violations() { return sim::violations; }
void metal_sim_last_violation(char* buffer, size_t bytes) {
  std::lock_guard hold(sim::lock());
  snprintf(buffer, bytes, "%s", sim::last().c_str());
}
void metal_sim_forget_violations() { sim::violations = 0; }
}
