// The library that ONNX Runtime loads, and the functions that the host program calls. Its operators are in the domain
// "gpt_oss" and are described where they are defined, in operators/.
//
// The products read packed weights (paths.h). The host packs them once, keeps them in a cache and offers them under the
// node's key (gpt_oss_offer) before it creates the session. A node without an offer packs its own weights.
#include "dense_layer.h"
#include "expert_layer.h"
#include "host.h"
#include "operators/operator.h"
#include "operators/operators.h"
#include "reading.h"

#include <algorithm>
#include <string>

#define EXPORT extern "C" __attribute__((visibility("default")))

using namespace gpt_oss;

EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* table = base->GetApi(kApiVersion);
  if (!table) return nullptr;  // a runtime older than this library's ABI: the session reports unknown operators
  api.table = table;
  chosen_path();  // asks the processor now, before a system call filter can refuse the question
  static OrtCustomOpDomain* domain = nullptr;  // lives as long as the process
  if (!domain) {
    if (OrtStatus* status = api.create_domain("gpt_oss", &domain)) return status;
    for (const CustomOp* op :
         {embedding_operator(), expert_layer_operator(), dense_operator(), attention_operator(), top_logits_operator()})
      if (OrtStatus* status = api.domain_add(domain, op)) return status;
  }
  return api.add_domain(options, domain);
}

// The names of the paths this processor supports, best first, separated by spaces.
EXPORT const char* gpt_oss_paths() {
  static const std::string names = [] {
    std::string text;
    for (const Path* path : supported_paths()) text += (text.empty() ? "" : " ") + std::string(path->name);
    return text;
  }();
  return names.c_str();
}

// Chooses the path of every session by name. 0: done; 1: this processor lacks the path, or there is no such path.
EXPORT int gpt_oss_use_path(const char* name) { return choose_path(name) ? 0 : 1; }

// How many threads share a layer: the sessions' intra-op threads.
EXPORT void gpt_oss_set_threads(size_t count) { set_thread_count(count); }

EXPORT size_t gpt_oss_expert_bytes(size_t experts, size_t hidden, size_t inner) {
  return ExpertShape{experts, hidden, inner}.bytes();
}

EXPORT size_t gpt_oss_dense_bytes(int kind, size_t rows, size_t inner) {
  return DenseShape{rows, inner}.bytes(static_cast<DenseKind>(kind));
}

// Packs the experts first .. last - 1. `out` is the buffer of the whole layer, so that threads can share the work.
EXPORT void gpt_oss_pack_experts(size_t experts, size_t hidden, size_t inner, const uint8_t* gate_up,
                                 const uint8_t* gate_up_scales, const uint8_t* down, const uint8_t* down_scales,
                                 size_t first, size_t last, uint8_t* out) {
  pack_experts({experts, hidden, inner}, gate_up, gate_up_scales, down, down_scales, first, last, out);
}

// Packs the groups (of 16 rows) first .. last - 1 of a dense weight. `out` is the buffer of the whole weight.
EXPORT void gpt_oss_pack_dense(int kind, size_t rows, size_t inner, const uint16_t* weight, size_t first, size_t last,
                               uint8_t* out) {
  const DenseShape shape{rows, inner};
  pack_dense(static_cast<DenseKind>(kind), shape, weight, first, std::min(last, shape.groups()), out);
}

// Offers packed weights to the sessions created from now on. They must stay mapped as long as such a session exists.
EXPORT void gpt_oss_offer(int64_t key, const uint8_t* bytes, size_t size) { offer(key, {bytes, size}); }

// Reads memory as the products do, and nothing else; see reading.h.
EXPORT uint64_t gpt_oss_read(const uint8_t* bytes, size_t size, size_t streams) {
  return read_streams(bytes, size, streams);
}

// Withdraws every offer. Sessions that took one keep using it.
EXPORT void gpt_oss_withdraw_offers() { withdraw_offers(); }
