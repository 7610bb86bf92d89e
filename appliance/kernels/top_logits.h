// What a sampler needs of each row of logits: the largest ones and the normaliser.
#pragma once

#include "rows.h"

namespace gpt_oss {

// logits (rows, vocab). values, ids (rows, k): the k largest, falling; among equal ones the lower id comes first, and
// NaN counts as the smallest. logsumexp (rows,): the logarithm of the sum of all exponentials. 1 <= k <= vocab.
void top_logits(const Path& path, const float* logits, size_t rows, size_t vocab, size_t k, float* values, int64_t* ids,
                float* logsumexp, const RunPhases& run);

}  // namespace gpt_oss
