// A kernel that writes where it may not, under JAX_MPS_GUARD, and the error's words on the standard
// output: guard BYTES PLACE writes one byte so far from the first of PLACE, which is result,
// scratch, operand or gap (between the result's rows); guard primitive runs a oneDNN primitive
// whose result's memory is too small.
#include "cpu/onednn/guard.h"

#include <cstdlib>
#include <cstring>
#include <iostream>
#include <vector>

using namespace jax_mps;

#ifdef JAX_MPS_ONEDNN  // what onednn.cc wants of the neurons
namespace jax_mps::cpu {
namespace baseline {
extern const NeuronLoops neuron_loops_table{};
}
}  // namespace jax_mps::cpu
#endif

namespace {

class Stray : public Kernel {
 public:
  Stray(int64_t bytes, std::string place) : bytes_(bytes), place_(std::move(place)) {}
  std::string implementation() const override { return "stray"; }
  size_t scratch_bytes() const override { return 200; }
  void run(const Buffers& b) const override {
    auto* first = place_ == "operand"   ? const_cast<char*>(b.input<char>(0))
                  : place_ == "scratch" ? reinterpret_cast<char*>(b.scratch)
                                        : b.output<char>(0);
    for (int row = 0; row < 3; row++)  // what it ought to do
      std::memcpy(b.output<float>(0) + row * 8, b.input<float>(0) + row * 5, 5 * sizeof(float));
    if (place_ != "nothing") first[bytes_] = 1;
  }

 private:
  int64_t bytes_;
  std::string place_;
};

void run_kernel(int64_t bytes, const std::string& place) {
  Node node;
  node.op = "copy";
  node.in.push_back({DType::f32, {3, 5}});
  node.out.push_back({DType::f32, {3, 5}, 8});
  auto kernel = cpu::guarded(node, std::make_unique<Stray>(bytes, place));
  std::vector<float> x(15), y(24, -1);
  for (size_t i = 0; i < x.size(); i++) x[i] = static_cast<float>(i);
  const void* in[] = {x.data()};
  void* out[] = {y.data()};
  alignas(64) std::byte scratch[200];
  kernel->run({in, out, scratch});
  bool right = true;
  for (int row = 0; row < 3; row++)
    for (int col = 0; col < 8; col++) right &= y[row * 8 + col] == (col < 5 ? row * 5 + col : -1);
  std::cout << (right ? "right" : "wrong");
}

void run_primitive() {
#ifdef JAX_MPS_ONEDNN
  using dnnl::memory;
  memory::desc large({4, 64}, memory::data_type::f32, memory::format_tag::ab);
  memory::desc small({3, 64}, memory::data_type::f32, memory::format_tag::ab);
  dnnl::eltwise_forward::primitive_desc pd(cpu::engine(), dnnl::prop_kind::forward_inference,
                                           dnnl::algorithm::eltwise_relu, large, large, 0.0f);
  std::vector<float> x(256, 1), y(256);
  cpu::execute(dnnl::eltwise_forward(pd),
               {{DNNL_ARG_SRC, memory(large, cpu::engine(), x.data())},
                {DNNL_ARG_DST, memory(small, cpu::engine(), y.data())}},
               "oneDNN relu");
#endif
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (std::string_view(argv[1]) == "primitive")
      run_primitive();
    else
      run_kernel(std::atoll(argv[1]), argv[2]);
  } catch (const std::runtime_error& error) {
    std::cout << error.what();
  }
}
