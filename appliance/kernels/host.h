// What the host program sets for all sessions: the path, the number of threads and the packed weights that it offers.
#pragma once

#include "paths.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace gpt_oss {

// The paths that this processor supports, best first.
std::vector<const Path*> supported_paths();

// The path of every session: the best one until the host chooses another.
const Path& chosen_path();
// False, and nothing changes, if this processor lacks the path or no path has that name.
bool choose_path(const char* name);

// How many threads share a layer.
size_t thread_count();
void set_thread_count(size_t count);

// Packed weights that the host owns. They stay mapped while a session uses them.
struct Offer {
  const uint8_t* bytes;
  size_t size;
};
void offer(int64_t key, Offer weights);
std::optional<Offer> offer_of(int64_t key);
void withdraw_offers();

}  // namespace gpt_oss
