#include "phases.h"

#include <algorithm>
#include <thread>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace gpt_oss {
namespace {

constexpr size_t kSpins = 20000;  // some 0.2 ms, longer than a unit takes; then the thread yields its core

void wait_a_little(size_t turn) {
  if (turn >= kSpins) return std::this_thread::yield();
#if defined(__x86_64__)
  _mm_pause();
#endif
}

}  // namespace

SharedPhases::SharedPhases(const std::vector<Phase>& phases, size_t threads)
    : phases_(phases), threads_(threads), progress_(phases.size()) {}

// Takes neighbouring units, because they read neighbouring weights. It takes a share of what is left, so that all
// threads finish together however fast each is.
bool SharedPhases::claim(size_t phase, size_t* first, size_t* last) {
  std::atomic<size_t>& next = progress_[phase].next;
  const size_t units = phases_[phase].units;
  *first = next.load(std::memory_order_relaxed);
  do {
    if (*first >= units) return false;
    *last = *first + std::max<size_t>(1, (units - *first) / (2 * threads_));
  } while (!next.compare_exchange_weak(*first, *last, std::memory_order_relaxed));
  return true;
}

void SharedPhases::work() {
  try {
    for (size_t p = 0; p < phases_.size(); ++p) {
      for (size_t first, last; claim(p, &first, &last);) {
        const Phase& phase = phases_[p];
        for (size_t unit = first; unit < last && !failed_.load(std::memory_order_relaxed);) {
          const bool two = phase.run_two && last - unit >= 2;
          (two ? phase.run_two : phase.run)(unit);
          unit += two ? 2 : 1;
        }
        progress_[p].done.fetch_add(last - first, std::memory_order_release);
      }
      for (size_t turn = 0; progress_[p].done.load(std::memory_order_acquire) < phases_[p].units; ++turn) {
        if (failed_.load(std::memory_order_relaxed)) return;
        wait_a_little(turn);
      }
    }
  } catch (...) {
    std::lock_guard<std::mutex> lock(error_mutex_);
    if (!error_) error_ = std::current_exception();
    failed_.store(true);
  }
}

void SharedPhases::rethrow() const {
  if (error_) std::rethrow_exception(error_);  // every work() has returned, so no thread writes it any more
}

}  // namespace gpt_oss
