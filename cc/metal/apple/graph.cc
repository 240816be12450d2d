// 2-D convolutions and their gradients by Apple's MPSGraph.
#include <memory>

#include "apple.h"
#include "message.h"
#include "metal/runtime/device.h"

namespace jax_mps::metal {
namespace {

class MPSGraph : public NS::Referencing<MPSGraph> {};
class MPSGraphTensor : public NS::Referencing<MPSGraphTensor> {};
class MPSGraphTensorData : public NS::Referencing<MPSGraphTensorData> {};
class MPSGraphConvolution2DOpDescriptor
    : public NS::Referencing<MPSGraphConvolution2DOpDescriptor> {};
class MPSGraphExecutionDescriptor;
class MPSCommandBuffer : public NS::Referencing<MPSCommandBuffer> {};
enum MPSGraphPaddingStyle : NS::UInteger { MPSGraphPaddingStyleExplicit = 0 };
enum MPSGraphTensorNamedDataLayout : NS::UInteger {
  MPSGraphTensorNamedDataLayoutNHWC = 1,
  MPSGraphTensorNamedDataLayoutHWIO = 3,
};

constexpr InitMessage<MPSGraph*()> kGraph("MPSGraph", "init");
constexpr Message<MPSGraphTensor*(NS::Array*, MPSDataType, NS::String*)> kPlaceholder(
    "MPSGraph", "placeholderWithShape:dataType:name:");
constexpr ClassMessage<MPSGraphConvolution2DOpDescriptor*(
    NS::UInteger, NS::UInteger, NS::UInteger, NS::UInteger, NS::UInteger, NS::UInteger,
    NS::UInteger, NS::UInteger, NS::UInteger, MPSGraphPaddingStyle, MPSGraphTensorNamedDataLayout,
    MPSGraphTensorNamedDataLayout)>
    kDescriptor("MPSGraphConvolution2DOpDescriptor",
                "descriptorWithStrideInX:strideInY:dilationRateInX:dilationRateInY:groups:"
                "paddingLeft:paddingRight:paddingTop:paddingBottom:paddingStyle:dataLayout:"
                "weightsLayout:");
constexpr Message<MPSGraphTensor*(MPSGraphTensor*, MPSGraphTensor*,
                                  MPSGraphConvolution2DOpDescriptor*, NS::String*)>
    kForward("MPSGraph", "convolution2DWithSourceTensor:weightsTensor:descriptor:name:");
constexpr Message<MPSGraphTensor*(MPSGraphTensor*, MPSGraphTensor*, NS::Array*,
                                  MPSGraphConvolution2DOpDescriptor*, NS::String*)>
    kDataGradient("MPSGraph",
                  "convolution2DDataGradientWithIncomingGradientTensor:weightsTensor:outputShape:"
                  "forwardConvolutionDescriptor:name:");
constexpr Message<MPSGraphTensor*(MPSGraphTensor*, MPSGraphTensor*, NS::Array*,
                                  MPSGraphConvolution2DOpDescriptor*, NS::String*)>
    kWeightGradient(
        "MPSGraph",
        "convolution2DWeightsGradientWithIncomingGradientTensor:sourceTensor:outputShape:"
        "forwardConvolutionDescriptor:name:");
constexpr InitMessage<MPSGraphTensorData*(MTL::Buffer*, NS::Array*, MPSDataType)> kTensorData(
    "MPSGraphTensorData", "initWithMTLBuffer:shape:dataType:");
constexpr ClassMessage<MPSCommandBuffer*(MTL::CommandBuffer*)> kCommandBuffer(
    "MPSCommandBuffer", "commandBufferWithCommandBuffer:");
constexpr Message<MTL::CommandBuffer*()> kRootCommandBuffer("MPSCommandBuffer",
                                                            "rootCommandBuffer");
constexpr Message<void(MPSCommandBuffer*, NS::Dictionary*, NS::Array*, NS::Dictionary*,
                       MPSGraphExecutionDescriptor*)>
    kEncode("MPSGraph",
            "encodeToCommandBuffer:feeds:targetOperations:resultsDictionary:executionDescriptor:");

using Shape = std::array<int, 4>;
Owned<NS::Array> array_of(const Shape& shape) {
  std::array<const NS::Object*, 4> numbers;
  for (int i = 0; i < 4; i++) numbers[i] = NS::Number::number(shape[i]);
  return NS::RetainPtr(NS::Array::array(numbers.data(), numbers.size()));
}

// What lies after the image of one axis, so that the windows come out as many as there are;
// negative if that cannot be.
int padding_after(int in, int out, int window, int stride, int gap, int before) {
  int reach = (window - 1) * gap + 1, room = in + before - reach;
  if (before < 0 || room >= out * stride) return -1;
  return std::max(0, (out - 1) * stride - room);
}

void copy(MTL::CommandBuffer* commands, Bound from, Bound to) {
  MTL::BlitCommandEncoder* encoder = commands->blitCommandEncoder();
  if (!encoder) throw MetalError("Metal gives no encoder");
  encoder->copyFromBuffer(from.buffer, from.offset, to.buffer, to.offset, from.bytes);
  encoder->endEncoding();
}

// One convolution as a graph. MPSGraph compiles it when it first encodes it.
class Convolution {
 public:
  Convolution(const AppleConvolutionCall& call, int right, int bottom)
      : call_(call), right_(right), bottom_(bottom) {
    const ConvParameters& g = call.g;
    Shape x{call.batch, g.height, g.width, g.channels};
    Shape w{g.window_height, g.window_width, g.group_in, g.out_channels};
    Shape y{call.batch, g.out_height, g.out_width, g.out_channels};
    switch (call.which) {
      case AppleConvolution::forward:
        shapes_ = {x, w, y};
        break;
      case AppleConvolution::data_gradient:
        shapes_ = {y, w, x};
        break;
      case AppleConvolution::weight_gradient:
        shapes_ = {y, x, w};
    }
  }

  // The command buffer to go on with: MPSGraph may commit the given one.
  MTL::CommandBuffer* encode(MTL::CommandBuffer* commands, const std::vector<Bound>& bound) {
    std::lock_guard lock(mutex_);
    if (!graph_) build();
    std::array<Bound, 3> at;
    std::array<Owned<MPSGraphTensorData>, 3> data;
    for (int i = 0; i < 3; i++) {
      at[i] = place(i, bound[i], commands->device());
      if (i < 2 && at[i].buffer != bound[i].buffer) copy(commands, bound[i], at[i]);
      data[i] = kTensorData(at[i].buffer, arrays_[i].get(), type());
      if (!data[i]) throw MetalError("MPSGraph does not take an operand");
    }
    auto dictionary = [&](int from, int count) {
      std::array<const NS::Object*, 2> keys, values;
      for (int i = 0; i < count; i++) keys[i] = tensors_[from + i].get();
      for (int i = 0; i < count; i++) values[i] = data[from + i].get();
      return NS::Dictionary::dictionary(values.data(), keys.data(), count);
    };
    MPSCommandBuffer* wrapped = kCommandBuffer(commands);
    kEncode(graph_.get(), wrapped, dictionary(0, 2), nullptr, dictionary(2, 1), nullptr);
    MTL::CommandBuffer* next = kRootCommandBuffer(wrapped);
    if (at[2].buffer != bound[2].buffer) copy(next, at[2], bound[2]);
    return next;
  }

 private:
  MPSDataType type() const {
    return call_.dtype == DType::f32 ? MPSDataTypeFloat32 : MPSDataTypeFloat16;
  }

  // MPSGraph takes buffers from their start: an array that begins later is copied there. These
  // buffers are the convolution's own, and Metal orders the runs that use them.
  Bound place(int i, const Bound& bound, MTL::Device* device) {
    if (bound.offset == 0) return bound;
    if (!staging_[i])
      staging_[i] = own(device->newBuffer(bound.bytes, MTL::ResourceStorageModePrivate));
    if (!staging_[i])
      throw MetalError("Metal has no memory for a copy of " + std::to_string(bound.bytes) +
                       " bytes");
    return {staging_[i].get(), 0, bound.bytes};
  }

  void build() {
    const ConvParameters& g = call_.g;
    for (int i = 0; i < 3; i++) arrays_[i] = array_of(shapes_[i]);
    Owned<MPSGraph> graph = kGraph();
    auto* descriptor =
        kDescriptor(g.stride_width, g.stride_height, g.gap_width, g.gap_height, call_.groups,
                    g.pad_width, right_, g.pad_height, bottom_, MPSGraphPaddingStyleExplicit,
                    MPSGraphTensorNamedDataLayoutNHWC, MPSGraphTensorNamedDataLayoutHWIO);
    MPSGraphTensor *first = kPlaceholder(graph.get(), arrays_[0].get(), type(), nullptr),
                   *second = kPlaceholder(graph.get(), arrays_[1].get(), type(), nullptr), *result;
    switch (call_.which) {
      case AppleConvolution::forward:
        result = kForward(graph.get(), first, second, descriptor, nullptr);
        break;
      case AppleConvolution::data_gradient:
        result = kDataGradient(graph.get(), first, second, arrays_[2].get(), descriptor, nullptr);
        break;
      case AppleConvolution::weight_gradient:
        result = kWeightGradient(graph.get(), first, second, arrays_[2].get(), descriptor, nullptr);
    }
    if (!descriptor || !first || !second || !result)
      throw MetalError("MPSGraph does not take this convolution");
    tensors_ = {NS::RetainPtr(first), NS::RetainPtr(second), NS::RetainPtr(result)};
    graph_ = graph;
  }

  AppleConvolutionCall call_;
  int right_, bottom_;
  std::array<Shape, 3> shapes_;
  std::mutex mutex_;
  Owned<MPSGraph> graph_;
  std::array<Owned<NS::Array>, 3> arrays_;
  std::array<Owned<MPSGraphTensor>, 3> tensors_;
  std::array<Owned<MTL::Buffer>, 3> staging_;
};

}  // namespace

std::string add_apple_convolution(Recipe& recipe, const AppleConvolutionCall& call) {
  const ConvParameters& g = call.g;
  if (call.dtype == DType::bf16) return "Apple's convolutions take float or half";
  for (const Span& span : {call.first, call.second, call.result})
    if (span.bytes % 4 != 0) return "copies of Apple's are of whole words";
  int right =
      padding_after(g.width, g.out_width, g.window_width, g.stride_width, g.gap_width, g.pad_width);
  int bottom = padding_after(g.height, g.out_height, g.window_height, g.stride_height, g.gap_height,
                             g.pad_height);
  if (right < 0 || bottom < 0) return "Apple's convolutions take no negative padding";
  Dispatch& dispatch = recipe.dispatch("", "MPSGraph");
  dispatch.reads(call.first).reads(call.second).writes(call.result);
  dispatch.computes(2.0 * call.batch * g.out_height * g.out_width * g.out_channels *
                    g.window_height * g.window_width * g.group_in);
  dispatch.apple = [shared = std::make_shared<Convolution>(call, right, bottom)](
                       MTL::CommandBuffer* commands, const std::vector<Bound>& bound) {
    return shared->encode(commands, bound);
  };
  add_tail(recipe, call.result, g.out_channels, call.bias, call.neuron, call.dtype);
  return "";
}

}  // namespace jax_mps::metal
