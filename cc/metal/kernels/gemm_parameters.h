// A product of two matrices, C[m, n] = sum over k of A[m, k] B[k, n], whose A may be gathered from
// an image: so a convolution and its two gradients are products, too.
#pragma once

// What A[m, k] is.
enum {
  kGemmMatrix,          // A itself, by strides
  kGemmConv,            // m an output pixel, k a tap and a channel: of x
  kGemmDataGradient,    // m an input pixel, k a tap and a channel of y: of dy
  kGemmWeightGradient,  // m a tap and a channel, k an output pixel: of x
  kGemmModes
};

// One convolution over [batch, height, width, channels]; a 1-D one has height 1.
struct ConvParameters {
  int height, width, channels;              // of x
  int out_height, out_width, out_channels;  // of y
  int window_height, window_width;
  int stride_height, stride_width;
  int pad_height, pad_width;  // at the low end
  int gap_height, gap_width;  // dilation
  int group_in, group_out;    // channels of a group
};
static_assert(sizeof(ConvParameters) == 64, "one layout on host and device");

struct GemmParameters {
  int m, n, k;
  int splits, split_k;              // k is cut into `splits` of `split_k` each
  int a_row, a_column, a_batch;     // strides of A; of a convolution, a_batch is that of groups
  int b_inner, b_outer, b_divisor;  // k steps by b_inner, b_divisor of them by b_outer
  int b_column, b_batch;
  int c_row, c_batch;
  int total;             // elements of C, of all batches
  float a, b, c, log_c;  // of the neuron
  ConvParameters conv;
  int first[3];  // threadgroup of this launch
};
static_assert(sizeof(GemmParameters) == 156, "one layout on host and device");

// The simplest kernels, one thread for an element of the result.
struct DirectConvParameters {
  int count, batch, splits;
  float a, b, c, log_c;  // of the neuron
  ConvParameters conv;
  int first[3];  // threadgroup of this launch
};
static_assert(sizeof(DirectConvParameters) == 104, "one layout on host and device");
