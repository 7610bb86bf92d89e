#include "operators/operator.h"

#include <algorithm>

namespace gpt_oss {

Api api;

void check(OrtStatus* status) {
  if (status) throw Failure{status};
}

void fail(const std::string& text) { throw Failure{api.create_status(2, text.c_str())}; }

std::vector<int64_t> shape_of(const OrtValue* value) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api.tensor_shape(value, &info));
  size_t count = 0;
  OrtStatus* status = api.dimensions_count(info, &count);
  std::vector<int64_t> dims(count);
  if (!status) status = api.dimensions(info, dims.data(), count);
  api.release_shape(info);
  check(status);
  return dims;
}

std::string text_of(const std::vector<int64_t>& dims) {
  std::string text = "[";
  for (size_t i = 0; i < dims.size(); ++i) text += (i ? ", " : "") + std::to_string(dims[i]);
  return text + "]";
}

void expect(const OrtValue* value, const std::vector<int64_t>& dims, const std::string& name) {
  const auto actual = shape_of(value);
  if (actual != dims) fail(name + " must be " + text_of(dims) + ", not " + text_of(actual));
}

std::vector<const OrtValue*> constant_inputs(const OrtKernelInfo* info, const std::vector<size_t>& indices) {
  std::vector<const OrtValue*> inputs(indices.back() + 1);
  for (const size_t i : indices) {
    int is_constant = 0;
    check(api.constant_input(info, i, &is_constant, &inputs[i]));
    if (!is_constant) fail("input " + std::to_string(i) + " must be an initialiser");
  }
  return inputs;
}

Rows rows_of(OrtKernelContext* context, size_t inner, size_t columns) {
  const OrtValue* x = nullptr;
  check(api.input(context, 0, &x));
  auto dims = shape_of(x);
  if (dims.empty() || static_cast<size_t>(dims.back()) != inner)
    fail("x must be [.., " + std::to_string(inner) + "], not " + text_of(dims));
  dims.back() = static_cast<int64_t>(columns);
  OrtValue* out = nullptr;
  check(api.output(context, 0, dims.data(), dims.size(), &out));
  size_t count = 1;
  for (size_t i = 0; i + 1 < dims.size(); ++i) count *= static_cast<size_t>(dims[i]);
  return {data_of<float>(x), count, const_cast<float*>(data_of<float>(out))};
}

Tokens tokens_of(OrtKernelContext* context, size_t count) {
  const OrtValue* decoded = nullptr;
  check(api.input(context, 1, &decoded));
  expect(decoded, {}, "decoded_tokens");
  return {count, static_cast<size_t>(std::clamp<int64_t>(*data_of<int64_t>(decoded), 0, static_cast<int64_t>(count)))};
}

RunPhases run_phases_of(OrtKernelContext* context) {
  return [context](const std::vector<Phase>& phases) {
    size_t most = 0;
    for (const Phase& phase : phases) most = std::max(most, phase.units);
    const size_t threads = std::min(most, thread_count());
    SharedPhases shared(phases, threads);
    if (threads > 1)
      check(api.parallel_for(
          context, [](void* data, size_t) { static_cast<SharedPhases*>(data)->work(); }, threads, threads, &shared));
    else
      shared.work();
    shared.rethrow();
  };
}

}  // namespace gpt_oss
