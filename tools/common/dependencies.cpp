#include "common/dependencies.hpp"

#include <cblas.h>
#include <fmt/core.h>

#include <CLI/Version.hpp>

namespace trunkline::tools {

nlohmann::ordered_json dependencies_json() {
  return {{"CLI11", CLI11_VERSION},
          {"fmt", fmt::format("{}.{}.{}", FMT_VERSION / 10000, FMT_VERSION / 100 % 100, FMT_VERSION % 100)},
          {"nlohmann-json", fmt::format("{}.{}.{}", NLOHMANN_JSON_VERSION_MAJOR, NLOHMANN_JSON_VERSION_MINOR,
                                        NLOHMANN_JSON_VERSION_PATCH)},
          {"OpenBLAS", openblas_get_config()}};
}

}  // namespace trunkline::tools
