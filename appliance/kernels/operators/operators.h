// Every operator of the library, one file each beside this one.
#pragma once

#include "ort_abi.h"

namespace gpt_oss {

const CustomOp* attention_operator();
const CustomOp* dense_operator();
const CustomOp* embedding_operator();
const CustomOp* expert_layer_operator();
const CustomOp* top_logits_operator();

}  // namespace gpt_oss
