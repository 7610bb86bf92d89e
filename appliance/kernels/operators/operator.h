// What every operator needs: errors that become an OrtStatus, the shapes, data and threads of a call, and the table of
// functions that ONNX Runtime calls. An operator is a class that is constructed from OrtKernelInfo and has compute().
#pragma once

#include "host.h"
#include "ort_abi.h"
#include "rows.h"

#include <memory>
#include <new>
#include <string>
#include <vector>

namespace gpt_oss {

extern Api api;  // set when ONNX Runtime registers the library, before any operator exists

// Thrown inside this library only. Every function that ONNX Runtime calls turns it into an OrtStatus.
struct Failure {
  OrtStatus* status;
};
void check(OrtStatus* status);
[[noreturn]] void fail(const std::string& text);

template <typename Body>
OrtStatus* guarded(const Body& body) {
  try {
    body();
    return nullptr;
  } catch (const Failure& failure) {
    return failure.status;
  } catch (const std::bad_alloc&) {
    return api.create_status(1, "gpt_oss: out of memory");
  }
}

std::vector<int64_t> shape_of(const OrtValue* value);
std::string text_of(const std::vector<int64_t>& dims);
// Fails if the value has another shape; the error names both shapes.
void expect(const OrtValue* value, const std::vector<int64_t>& dims, const std::string& name);

template <typename T>
const T* data_of(const OrtValue* value) {
  void* data = nullptr;
  check(api.tensor_data(const_cast<OrtValue*>(value), &data));
  return static_cast<const T*>(data);
}

// The inputs that must be initialisers, by index.
std::vector<const OrtValue*> constant_inputs(const OrtKernelInfo* info, const std::vector<size_t>& indices);

// The tokens of x and the place for its result, whose last dimension is `columns`.
struct Rows {
  const float* x;
  size_t count;
  float* out;
};
Rows rows_of(OrtKernelContext* context, size_t inner, size_t columns);

// The tokens of a call (rows.h, Tokens): its second input `decoded_tokens` says how many of them, from the first on,
// are decoded; the others belong to a prompt.
Tokens tokens_of(OrtKernelContext* context, size_t count);

// Phases on the session's threads.
RunPhases run_phases_of(OrtKernelContext* context);

// The weights offered under a key; without an offer, those that `pack` writes into the operator's own memory.
template <typename Pack>
const uint8_t* offered_or_packed(int64_t key, size_t size, std::unique_ptr<Aligned<uint8_t>>* own, const Pack& pack) {
  if (const auto offered = offer_of(key)) {
    if (offered->size != size) fail("the packed weights offered have another size");
    return offered->bytes;
  }
  *own = std::make_unique<Aligned<uint8_t>>(size);
  pack((*own)->data);
  return (*own)->data;
}

inline int type(ElementType t) { return static_cast<int>(t); }

template <typename Kernel>
CustomOp operator_of() {
  CustomOp o{};
  o.version = kApiVersion;
  o.provider = [](const CustomOp*) { return "CPUExecutionProvider"; };
  o.output_type = [](const CustomOp*, size_t) { return type(ElementType::kFloat); };
  o.output_count = [](const CustomOp*) { return size_t{1}; };
  o.input_characteristic = [](const CustomOp*, size_t) { return 0; };   // required
  o.output_characteristic = [](const CustomOp*, size_t) { return 0; };  // required
  o.input_memory_type = [](const CustomOp*, size_t) { return 0; };      // default memory
  o.variadic_input_min_arity = [](const CustomOp*) { return 0; };
  o.variadic_input_homogeneity = [](const CustomOp*) { return 0; };
  o.variadic_output_min_arity = [](const CustomOp*) { return 0; };
  o.variadic_output_homogeneity = [](const CustomOp*) { return 0; };
  o.create_kernel_v2 = [](const CustomOp*, const OrtApi*, const OrtKernelInfo* info, void** kernel) {
    return guarded([&] { *kernel = new Kernel(info); });
  };
  o.compute_v2 = [](void* kernel, OrtKernelContext* context) {
    return guarded([&] { static_cast<const Kernel*>(kernel)->compute(context); });
  };
  o.destroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  o.start_version = [](const CustomOp*) { return 1; };
  o.end_version = [](const CustomOp*) { return 0x7fffffff; };
  return o;
}

}  // namespace gpt_oss
