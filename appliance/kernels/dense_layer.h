// A dense layer with weights packed in 8 bits (blocks of 32) or kept in bfloat16.
#pragma once

#include "rows.h"

namespace gpt_oss {

enum class DenseKind { kInt8, kBf16 };

struct DenseShape {
  size_t rows, inner;  // inner is a multiple of 32; rows are padded with zeros to a multiple of 32
  size_t groups() const { return (rows + 31) / 32 * 2; }
  size_t group_bytes(DenseKind kind) const { return (kind == DenseKind::kInt8 ? kInt8 : kBf16).bytes(inner / kBlock); }
  size_t bytes(DenseKind kind) const { return groups() * group_bytes(kind); }
};

// Packs the groups first .. last - 1 of weights (rows, inner), given as bfloat16 bits. With 8 bits the scale of each
// row and block of 32 is the largest magnitude / 127 as bfloat16, rounded up; the values are rounded to nearest.
void pack_dense(DenseKind kind, const DenseShape& shape, const uint16_t* weights, size_t first, size_t last,
                uint8_t* out);

// A packed matrix that computes some columns of the output.
struct DensePart {
  DenseShape shape;
  const uint8_t* packed;
};

// out (tokens, all rows of the parts) = x (tokens, inner) * weights^T + bias, with the parts side by side; bias (all
// rows,) may be null. All parts have the same inner dimension.
void dense_layer(const Path& path, DenseKind kind, const std::vector<DensePart>& parts, const float* bias,
                 const float* x, const Tokens& tokens, float* out, const RunPhases& run);

}  // namespace gpt_oss
