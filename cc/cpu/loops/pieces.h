// How the rows of a [rows, channels] array are cut for a reduction over rows: into the same pieces
// on every machine, so that sums repeat bit for bit.
#pragma once

#include <cstdint>

namespace jax_mps::cpu {

constexpr int64_t kMaxPieces = 64;

constexpr int64_t rows_per_piece(int64_t rows) {
  return rows <= 64 ? rows : (rows + kMaxPieces - 1) / kMaxPieces;
}
constexpr int64_t pieces_of(int64_t rows) {
  return rows == 0 ? 0 : (rows + rows_per_piece(rows) - 1) / rows_per_piece(rows);
}

}  // namespace jax_mps::cpu
