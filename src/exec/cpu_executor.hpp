// The CPU backend.
#pragma once

#include <memory>

#include "exec/executor.hpp"

namespace trunkline::exec {

/// Throws invalid_argument or unsupported, naming the option, and device_error when the system has no more threads.
std::unique_ptr<Executor> make_cpu_executor(const AttentionConfig& config, const ExecutionOptions& options);

}  // namespace trunkline::exec
