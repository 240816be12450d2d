#include "work.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace jax_mps::metal {
namespace {

// An M1 with seven cores does 2.3e12 additions or multiplications and moves 68e9 bytes a second;
// kernels reach a part of that.
constexpr double kOperations = 5e11, kBytes = 4e10, kThreadOperations = 2e8, kLaunch = 5e-6;
constexpr double kUsual = 0.1, kLeast = 1e-3, kLower = 0.25;

double product(const Dispatch::Size& size) { return double(size[0]) * size[1] * size[2]; }

double from_environment() {
  const char* text = std::getenv("JAX_MPS_METAL_BUFFER_MS");
  const double milliseconds = text ? std::strtod(text, nullptr) : 0;
  return milliseconds > 0 ? milliseconds * 1e-3 : kUsual;
}

}  // namespace

double seconds_of(const Dispatch& dispatch) {
  double bytes = 0;
  for (const Use& use : dispatch.uses) bytes += double(use.span.bytes) * (use.reads + use.writes);
  const double operations = std::max(dispatch.operations, bytes / 4);
  // A kernel of Apple's fills the GPU, as far as is known here.
  const double threads =
      dispatch.apple ? INFINITY : product(dispatch.groups) * product(dispatch.threads);
  return kLaunch + std::max({operations / kOperations, bytes / kBytes,
                             operations / threads / kThreadOperations});
}

std::vector<Piece> pieces_of(const Dispatch& dispatch, double seconds, double most) {
  if (!dispatch.first_group || seconds <= most) return {{{}, dispatch.groups}};
  const size_t axis = std::ranges::max_element(dispatch.groups) - dispatch.groups.begin();
  const size_t groups = dispatch.groups[axis];
  const auto each = static_cast<size_t>(std::max(1.0, std::floor(groups * most / seconds)));
  std::vector<Piece> pieces;
  for (size_t from = 0; from < groups; from += each) {
    Piece piece{{}, dispatch.groups};
    piece.first[axis] = from;
    piece.groups[axis] = std::min(each, groups - from);
    pieces.push_back(piece);
  }
  return pieces;
}

Budget::Budget() : seconds_(from_environment()) {}

bool Budget::lower(double tried) {
  if (tried <= kLeast) return false;
  double now = seconds_;
  // Another run may have lowered it since.
  while (now >= tried && !seconds_.compare_exchange_weak(now, std::max(tried * kLower, kLeast))) {
  }
  return true;
}

}  // namespace jax_mps::metal
