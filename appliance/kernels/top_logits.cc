#include "top_logits.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

namespace gpt_oss {
namespace {

constexpr size_t kPart = 64 * kLogitBlock;  // how many logits a thread takes at a time

}  // namespace

void top_logits(const Path& path, const float* logits, size_t rows, size_t vocab, size_t k, float* values, int64_t* ids,
                float* logsumexp, const RunPhases& run) {
  const size_t parts = (vocab + kPart - 1) / kPart, blocks = (vocab + kLogitBlock - 1) / kLogitBlock;
  std::vector<float> maxima(rows * blocks), largest(rows * parts), sums(rows * parts);

  // 1. The largest logit of each block, and each part's share of the normaliser.
  const auto summarise = [&](size_t unit) {
    const size_t row = unit / parts, part = unit % parts, at = part * kPart;
    path.summarise(logits + row * vocab + at, std::min(kPart, vocab - at),
                   maxima.data() + row * blocks + part * (kPart / kLogitBlock), &largest[unit], &sums[unit]);
  };

  // 2. At least k logits are as large as the k-th largest block maximum, and few more are.
  const auto choose = [&](size_t row) {
    const float *x = logits + row * vocab, *row_maxima = maxima.data() + row * blocks;
    const float top = *std::max_element(&largest[row * parts], &largest[row * parts] + parts);
    double total = 0.0;
    for (size_t p = row * parts; p < (row + 1) * parts; ++p)
      total += static_cast<double>(sums[p]) * std::exp(static_cast<double>(largest[p] - top));
    logsumexp[row] = static_cast<float>(static_cast<double>(top) + std::log(total));

    float least = -std::numeric_limits<float>::infinity();
    if (blocks > k) {
      std::vector<float> sorted(row_maxima, row_maxima + blocks);
      std::nth_element(sorted.begin(), sorted.begin() + static_cast<long>(k - 1), sorted.end(), std::greater<float>());
      least = sorted[k - 1];
    }
    std::vector<std::pair<float, int64_t>> found;
    for (size_t b = 0; b < blocks; ++b) {
      if (row_maxima[b] < least) continue;
      for (size_t i = b * kLogitBlock; i < std::min(vocab, (b + 1) * kLogitBlock); ++i)
        if (!(x[i] < least))
          found.emplace_back(std::isnan(x[i]) ? -std::numeric_limits<float>::infinity() : x[i],
                             static_cast<int64_t>(i));
    }
    std::partial_sort(
        found.begin(), found.begin() + static_cast<long>(k), found.end(),
        [](const auto& a, const auto& b) { return a.first > b.first || (a.first == b.first && a.second < b.second); });
    for (size_t i = 0; i < k; ++i) values[row * k + i] = found[i].first, ids[row * k + i] = found[i].second;
  };

  run({{rows * parts, summarise}, {rows, choose}});
}

}  // namespace gpt_oss
