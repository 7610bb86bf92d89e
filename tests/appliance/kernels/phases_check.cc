// test_phases.py runs this. It prints what went wrong and exits with 1, or exits with 0.
#include "phases.h"

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>

using namespace gpt_oss;

namespace {

void expect(bool holds, const char* what) {
  if (holds) return;
  std::printf("%s\n", what);
  std::exit(1);
}

void run(SharedPhases& shared, size_t threads) {
  std::vector<std::thread> others;
  for (size_t i = 1; i < threads; ++i) others.emplace_back([&] { shared.work(); });
  shared.work();
  for (std::thread& other : others) other.join();
}

// `in_twos`: whether the phases can run two units at a time.
void every_unit_once_and_phases_in_order(size_t threads, bool in_twos) {
  constexpr size_t kUnits[] = {1, 1000, 0, 7, 333};
  std::vector<std::vector<std::atomic<int>>> runs;
  std::atomic<size_t> finished[5] = {}, twos{0};
  std::atomic<bool> early{false};
  std::vector<Phase> phases;
  for (size_t p = 0; p < 5; ++p) runs.emplace_back(kUnits[p]);
  for (size_t p = 0; p < 5; ++p) {
    const auto one = [&, p](size_t unit) {
      for (size_t before = 0; before < p; ++before)
        if (finished[before] != kUnits[before]) early = true;
      ++runs[p].at(unit);
      ++finished[p];
    };
    phases.push_back({kUnits[p], one});
    if (in_twos) phases.back().run_two = [&, one](size_t unit) { ++twos, one(unit), one(unit + 1); };
  }
  SharedPhases shared(phases, threads);
  run(shared, threads);
  shared.rethrow();
  expect(!early, "a unit ran before the phase before it was done");
  for (const auto& phase : runs)
    for (const auto& count : phase) expect(count == 1, "a unit did not run exactly once");
  expect(!in_twos || twos > 300, "a thread did not take two units at a time");
}

void one_thread_may_come_twice() {
  int units = 0;
  const std::vector<Phase> phases{{5, [&](size_t) { ++units; }}, {5, [&](size_t) { ++units; }}};
  SharedPhases shared(phases, 2);
  shared.work();
  shared.work();
  expect(units == 10, "a thread that comes twice did not do all the work once");
}

void what_a_unit_throws_reaches_the_caller(size_t threads) {
  std::atomic<bool> later{false};
  const std::vector<Phase> phases{{100,
                                   [](size_t unit) {
                                     if (unit == 50) throw std::runtime_error("unit 50");
                                   }},
                                  {100, [&](size_t) { later = true; }}};
  SharedPhases shared(phases, threads);
  run(shared, threads);
  std::string caught;
  try {
    shared.rethrow();
  } catch (const std::runtime_error& error) {
    caught = error.what();
  }
  expect(caught == "unit 50", "what a unit threw was lost");
  expect(!later, "the next phase ran although a unit had failed");
}

}  // namespace

int main() {
  for (size_t round = 0; round < 200; ++round)
    for (size_t threads : {1, 2, 4}) {
      for (bool in_twos : {false, true}) every_unit_once_and_phases_in_order(threads, in_twos);
      what_a_unit_throws_reaches_the_caller(threads);
    }
  one_thread_may_come_twice();
}
