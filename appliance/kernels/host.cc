#include "host.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>

namespace gpt_oss {
namespace {

std::atomic<const Path*> path_of_choice{nullptr};  // null until the first use
std::atomic<size_t> threads{1};

std::mutex offers_mutex;
std::map<int64_t, Offer> offers;  // under offers_mutex

std::vector<const Path*> all_paths() {
#if defined(__x86_64__)
  return {&amx_path(), &avx512bf16_path(), &vnni_path(), &avxvnni_path(), &avx2_path(), &portable_path()};
#else
  return {&portable_path()};
#endif
}

}  // namespace

std::vector<const Path*> supported_paths() {
  std::vector<const Path*> paths;
  for (const Path* path : all_paths())
    if (path->supported()) paths.push_back(path);
  return paths;
}

const Path& chosen_path() {
  const Path* path = path_of_choice;
  if (!path) path_of_choice = path = supported_paths().front();  // the portable path is always supported
  return *path;
}

bool choose_path(const char* name) {
  for (const Path* path : supported_paths())
    if (std::strcmp(path->name, name) == 0) {
      path_of_choice = path;
      return true;
    }
  return false;
}

size_t thread_count() { return threads; }
void set_thread_count(size_t count) { threads = std::max<size_t>(1, count); }

void offer(int64_t key, Offer weights) {
  std::lock_guard<std::mutex> lock(offers_mutex);
  offers[key] = weights;
}

std::optional<Offer> offer_of(int64_t key) {
  std::lock_guard<std::mutex> lock(offers_mutex);
  const auto found = offers.find(key);
  if (found == offers.end()) return std::nullopt;
  return found->second;
}

void withdraw_offers() {
  std::lock_guard<std::mutex> lock(offers_mutex);
  offers.clear();
}

}  // namespace gpt_oss
