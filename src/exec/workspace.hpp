// What a workspace is on the host.
#pragma once

#include <cstdint>
#include <memory>

#include "exec/executor.hpp"

namespace trunkline {

struct Workspace::Impl {
  Impl(const exec::Executor& executor, const exec::WorkspaceSizes& workspace_sizes, std::byte* block)
      : sizes(workspace_sizes), memory(executor.make_memory(workspace_sizes, block)) {}

  exec::WorkspaceSizes sizes;
  std::unique_ptr<exec::WorkspaceMemory> memory;

  Plan plan;   // the last one that was made
  Plan spare;  // the next one is made here, so that an error leaves the last as it was
  bool planned = false;
  std::int64_t num_query_tokens = 0;
};

}  // namespace trunkline
