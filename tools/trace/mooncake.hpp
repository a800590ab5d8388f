// Facts of Mooncake's format that its reader and the generator share.
#pragma once

#include <cstdint>

namespace trunkline::trace {

inline constexpr std::int64_t default_block_size = 512;  // tokens of a block where a line does not say
inline constexpr std::int64_t max_block_size = 1 << 20;  // more would be a damaged line

}  // namespace trunkline::trace
