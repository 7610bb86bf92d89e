// An operator's work in phases, shared by the session's threads with one meeting a phase instead of one call of the
// runtime each: between two of its own nodes the runtime wakes its threads anew, between two phases nobody sleeps.
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <vector>

namespace gpt_oss {

// Units that any threads may take in any order. All of a phase are done before one of the next begins.
struct Phase {
  size_t units;
  std::function<void(size_t unit)> run;
};

// Runs the phases, one after the other, and returns when the last is done.
using RunPhases = std::function<void(const std::vector<Phase>& phases)>;

// Phases in progress. It does not matter how many threads call work(), nor whether one calls it twice: a thread waits only
// for units that another is at this moment working on.
class SharedPhases {
 public:
  SharedPhases(const std::vector<Phase>& phases, size_t threads);
  void work();
  void rethrow() const;  // what a unit threw, if one did; the units after it were not run

 private:
  struct alignas(64) Progress {
    std::atomic<size_t> next{0}, done{0};
  };
  bool claim(size_t phase, size_t* first, size_t* last);

  const std::vector<Phase>& phases_;
  const size_t threads_;
  std::vector<Progress> progress_;
  std::atomic<bool> failed_{false};
  std::mutex error_mutex_;
  std::exception_ptr error_;  // under error_mutex_
};

}  // namespace gpt_oss
