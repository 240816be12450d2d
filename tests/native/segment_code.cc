// Writes the machine code of one segment of a chain to the standard output, so that a test can read
// it: segment_code avx2|avx512, with the segment's lines on the standard input:
//   step OP TYPE SCALARS Y OPERAND...     fold X TILE REDUCE     write REGISTER
#include <cstdio>
#include <iostream>
#include <sstream>
#include <string>

#include "cpu/jit/opcodes.h"
#include "cpu/jit/segment.h"

using namespace jax_mps;
using namespace jax_mps::cpu;

int main(int argc, char** argv) {
  ChainSegment segment;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string kind;
    int a = 0, b = 0, c = 0, d = 0;
    words >> kind >> a;
    if (kind == "write") {
      segment.writes.push_back(static_cast<int16_t>(a));
    } else if (kind == "fold") {
      words >> b >> c;
      segment.folds.push_back(
          {static_cast<int16_t>(a), static_cast<int16_t>(b), static_cast<Reduce>(c)});
    } else {
      words >> b >> c >> d;
      ChainStep step;
      step.op = static_cast<ChainOp>(a), step.on = static_cast<ChainType>(b);
      step.scalars = static_cast<uint8_t>(c), step.y = static_cast<int16_t>(d);
      for (int r; words >> r; step.count++)
        (step.count == 0 ? step.a : step.count == 1 ? step.b : step.c) = static_cast<int16_t>(r);
      if (!has_machine_code(step)) return 2;
      segment.body.push_back(step);
    }
  }
  auto out = Assembler::make(argc > 1 && std::string(argv[1]) == "avx512");
  write_machine_code(segment, *out);
  out->finish();
  std::fwrite(out->code.data(), 1, out->code.size(), stdout);
}
