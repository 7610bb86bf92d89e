// The part of ONNX Runtime's C ABI that this library uses, declared by us.
//
// ONNX Runtime hands a plugin a table of function pointers whose order never changes (new functions are appended). No
// package has its headers, so the slots that this library needs are named here by index; `struct OrtCustomOp` has the
// layout of API version 21. Source: ONNX Runtime's public C API, checked by tests against the installed library.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {
struct OrtStatus;
struct OrtValue;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtCustomOpDomain;
struct OrtSessionOptions;
struct OrtTensorTypeAndShapeInfo;
struct OrtShapeInferContext;

struct OrtApi {
  const void* slots[300];
};
struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};
}

namespace gpt_oss {

constexpr uint32_t kApiVersion = 21;

enum class ElementType : int { kFloat = 1, kUint8 = 2, kInt8 = 3, kInt32 = 6, kInt64 = 7, kBFloat16 = 16 };

// Typed calls through the table; each returns nullptr or an owned OrtStatus.
struct Api {
  const OrtApi* table = nullptr;

  template <typename Function>
  Function* at(size_t slot) const {
    return reinterpret_cast<Function*>(const_cast<void*>(table->slots[slot]));
  }
  OrtStatus* create_status(int code, const char* text) const { return at<OrtStatus*(int, const char*)>(0)(code, text); }
  const char* error_message(const OrtStatus* s) const { return at<const char*(const OrtStatus*)>(2)(s); }
  void release_status(OrtStatus* s) const { at<void(OrtStatus*)>(93)(s); }
  OrtStatus* create_domain(const char* name, OrtCustomOpDomain** out) const {
    return at<OrtStatus*(const char*, OrtCustomOpDomain**)>(26)(name, out);
  }
  OrtStatus* domain_add(OrtCustomOpDomain* d, const struct CustomOp* op) const {
    return at<OrtStatus*(OrtCustomOpDomain*, const CustomOp*)>(27)(d, op);
  }
  OrtStatus* add_domain(OrtSessionOptions* o, OrtCustomOpDomain* d) const {
    return at<OrtStatus*(OrtSessionOptions*, OrtCustomOpDomain*)>(28)(o, d);
  }
  OrtStatus* tensor_data(OrtValue* v, void** out) const { return at<OrtStatus*(OrtValue*, void**)>(51)(v, out); }
  OrtStatus* tensor_shape(const OrtValue* v, OrtTensorTypeAndShapeInfo** out) const {
    return at<OrtStatus*(const OrtValue*, OrtTensorTypeAndShapeInfo**)>(65)(v, out);
  }
  OrtStatus* dimensions_count(const OrtTensorTypeAndShapeInfo* i, size_t* n) const {
    return at<OrtStatus*(const OrtTensorTypeAndShapeInfo*, size_t*)>(61)(i, n);
  }
  OrtStatus* dimensions(const OrtTensorTypeAndShapeInfo* i, int64_t* d, size_t n) const {
    return at<OrtStatus*(const OrtTensorTypeAndShapeInfo*, int64_t*, size_t)>(62)(i, d, n);
  }
  void release_shape(OrtTensorTypeAndShapeInfo* i) const { at<void(OrtTensorTypeAndShapeInfo*)>(99)(i); }
  OrtStatus* attribute_float(const OrtKernelInfo* i, const char* n, float* v) const {
    return at<OrtStatus*(const OrtKernelInfo*, const char*, float*)>(85)(i, n, v);
  }
  OrtStatus* attribute_int(const OrtKernelInfo* i, const char* n, int64_t* v) const {
    return at<OrtStatus*(const OrtKernelInfo*, const char*, int64_t*)>(86)(i, n, v);
  }
  OrtStatus* input_count(const OrtKernelContext* c, size_t* n) const {
    return at<OrtStatus*(const OrtKernelContext*, size_t*)>(88)(c, n);
  }
  OrtStatus* input(const OrtKernelContext* c, size_t i, const OrtValue** v) const {
    return at<OrtStatus*(const OrtKernelContext*, size_t, const OrtValue**)>(90)(c, i, v);
  }
  OrtStatus* output(OrtKernelContext* c, size_t i, const int64_t* d, size_t n, OrtValue** v) const {
    return at<OrtStatus*(OrtKernelContext*, size_t, const int64_t*, size_t, OrtValue**)>(91)(c, i, d, n, v);
  }
  OrtStatus* constant_input(const OrtKernelInfo* i, size_t index, int* is_constant, const OrtValue** v) const {
    return at<OrtStatus*(const OrtKernelInfo*, size_t, int*, const OrtValue**)>(249)(i, index, is_constant, v);
  }
  OrtStatus* parallel_for(const OrtKernelContext* c, void (*fn)(void*, size_t), size_t total, size_t batches,
                          void* data) const {
    return at<OrtStatus*(const OrtKernelContext*, void (*)(void*, size_t), size_t, size_t, void*)>(274)(c, fn, total,
                                                                                                        batches, data);
  }
};

// OrtCustomOp of API 21: 34 words. Members this library leaves null are optional to ONNX Runtime.
struct CustomOp {
  uint32_t version;
  void* (*create_kernel)(const CustomOp*, const OrtApi*, const OrtKernelInfo*);
  const char* (*name)(const CustomOp*);
  const char* (*provider)(const CustomOp*);
  int (*input_type)(const CustomOp*, size_t);
  size_t (*input_count)(const CustomOp*);
  int (*output_type)(const CustomOp*, size_t);
  size_t (*output_count)(const CustomOp*);
  void (*compute)(void*, OrtKernelContext*);
  void (*destroy)(void*);
  int (*input_characteristic)(const CustomOp*, size_t);
  int (*output_characteristic)(const CustomOp*, size_t);
  int (*input_memory_type)(const CustomOp*, size_t);
  int (*variadic_input_min_arity)(const CustomOp*);
  int (*variadic_input_homogeneity)(const CustomOp*);
  int (*variadic_output_min_arity)(const CustomOp*);
  int (*variadic_output_homogeneity)(const CustomOp*);
  OrtStatus* (*create_kernel_v2)(const CustomOp*, const OrtApi*, const OrtKernelInfo*, void**);
  OrtStatus* (*compute_v2)(void*, OrtKernelContext*);
  OrtStatus* (*infer_shape)(const CustomOp*, OrtShapeInferContext*);
  int (*start_version)(const CustomOp*);
  int (*end_version)(const CustomOp*);
  size_t (*may_inplace)(int**, int**);
  void (*release_may_inplace)(int*, int*);
  size_t (*alias_map)(int**, int**);
  void (*release_alias_map)(int*, int*);
};
static_assert(sizeof(CustomOp) == 208, "OrtCustomOp of API 21 has 208 bytes");
static_assert(offsetof(CustomOp, create_kernel_v2) == 136 && offsetof(CustomOp, may_inplace) == 176, "slot offsets");

}  // namespace gpt_oss
