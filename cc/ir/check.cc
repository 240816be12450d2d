#include "check.h"

#include <map>

#include "require.h"

namespace jax_mps {
namespace {

using Check = void (*)(const Node& node);

std::map<std::string, Check>& table() {
  static std::map<std::string, Check> table;
  return table;
}

void check_step(const Program& program, const Step& step) {
  auto found = table().find(step.node.op);
  require(found != table().end(), "there is no such op");
  found->second(step.node);
  require(!step.is_alias() || program.values[step.results[0]].offset < 0,
          "lies where its operand does, and takes no offset");
}

}  // namespace

Checker::Checker(const char* op, Check check) { table()[op] = check; }

void check(const Program& program) {
  for (const Step& step : program.steps) {
    try {
      check_step(program, step);
    } catch (const ProgramError& error) {
      throw ProgramError("line " + std::to_string(step.line) + ": " + step.node.op + ": " +
                         error.what());
    }
    if (step.node.body) check(*step.node.body);
  }
}

std::vector<std::string> checked_ops() {
  std::vector<std::string> names;
  for (const auto& [name, check] : table()) names.push_back(name);
  return names;
}

}  // namespace jax_mps
