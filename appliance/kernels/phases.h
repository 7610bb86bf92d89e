// An operator's work in phases, shared by the session's threads. The threads meet after each phase, and no thread
// sleeps in between. With one call of the runtime per phase it would wake its threads anew each time.
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <vector>

namespace gpt_oss {

// Units that any thread may take in any order. All units of a phase are done before the next phase begins. A thread that
// has taken two neighbouring units calls run_two for both, if there is one.
struct Phase {
  size_t units;
  std::function<void(size_t unit)> run;
  std::function<void(size_t unit)> run_two = nullptr;
};

// Runs the phases one after the other and returns when the last is done.
using RunPhases = std::function<void(const std::vector<Phase>& phases)>;

// Phases in progress. Any number of threads may call work(), and a thread may call it twice: a thread only waits for
// units that another thread is working on at that moment.
class SharedPhases {
 public:
  SharedPhases(const std::vector<Phase>& phases, size_t threads);
  void work();
  void rethrow() const;  // throws what a unit has thrown, if one has; the units after it were not run

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
