// What a workspace is on the host.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "exec/executor.hpp"

namespace trunkline {

struct Workspace::Impl {
  Impl(const exec::Executor& executor, const exec::WorkspaceSizes& workspace_sizes, std::byte* block)
      : sizes(workspace_sizes), memory(executor.make_memory(workspace_sizes, block)) {
    if (block != nullptr) given = {block, executor.block_bytes(workspace_sizes)};
  }

  exec::WorkspaceSizes sizes;
  std::span<const std::byte> given;  // the caller's memory that it lies in, if any
  std::unique_ptr<exec::WorkspaceMemory> memory;

  Plan plan;   // the last one that was made
  Plan spare;  // the next one is made here, so that an error leaves the last as it was
  bool planned = false;
  std::int64_t num_query_tokens = 0;
};

}  // namespace trunkline
