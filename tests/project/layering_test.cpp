// What may include what. The table is the project's layers: dependencies point down it only.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <regex>
#include <string>
#include <vector>

#include "project/source_tree.hpp"

namespace trunkline::project {
namespace {

struct Layer {
  std::string folder;                // or one file; the first entry that a path starts with holds for it
  std::vector<std::string> project;  // what its quoted includes may start with
  std::vector<std::string> foreign;  // what its <includes> may start with, beside the standard library
};

/// The standard library is open to all but the structs that cross to kernels. "trunkline/" is the public API.
const std::vector<Layer> layers{
    {"include/trunkline/work.hpp", {}, {}},
    {"include/trunkline/", {"trunkline/"}, {}},
    {"src/base/", {"trunkline/", "base/"}, {}},
    {"src/tree/", {"trunkline/", "base/", "tree/"}, {}},
    {"src/forest/", {"trunkline/", "base/", "tree/", "forest/"}, {}},
    {"src/plan/", {"trunkline/", "base/", "plan/"}, {}},
    {"src/merge/", {"trunkline/", "base/", "merge/"}, {}},
    {"src/kernels/params.hpp", {"trunkline/work.hpp"}, {}},
    {"src/kernels/reference/", {"trunkline/", "kernels/reference/"}, {}},
    {"src/kernels/cpu/", {"kernels/params.hpp", "kernels/cpu/", "merge/"}, {"hwy/"}},
    {"src/kernels/cuda/divisor.hpp", {}, {}},
    {"src/kernels/cuda_params.hpp", {"kernels/params.hpp", "kernels/cuda/divisor.hpp"}, {}},
    {"src/kernels/cuda/", {"kernels/params.hpp", "kernels/cuda_params.hpp", "kernels/cuda/", "merge/"}, {"cuda"}},
    {"src/kernels/sm80/",
     {"kernels/params.hpp", "kernels/cuda_params.hpp", "kernels/cuda/", "kernels/sm80/", "merge/"},
     {"cuda"}},
    {"src/kernels/sm90/",
     {"kernels/params.hpp", "kernels/cuda_params.hpp", "kernels/cuda/", "kernels/sm90/", "merge/"},
     {"cuda"}},
    {"src/exec/cuda/",
     {"trunkline/", "base/", "plan/", "exec/", "kernels/params.hpp", "kernels/cuda_params.hpp",
      "kernels/cuda/kv_ops.hpp", "kernels/cuda/table.hpp", "kernels/sm80/attention.hpp", "kernels/sm90/attention.hpp"},
     {"cuda"}},
    {"src/exec/",
     {"trunkline/", "base/", "plan/", "merge/", "exec/", "kernels/params.hpp", "kernels/cpu/kernels.hpp"},
     {"sched.h", "pthread.h", "unistd.h"}},
    {"src/capi/", {"trunkline/", "capi/"}, {}},
    {"tools/cuda/", {"trunkline/", "common/", "cuda/"}, {"cuda", "cublas", "dlfcn.h", "fmt/"}},
    {"tools/",
     {"trunkline/", "commands/", "common/", "cuda/", "sim/", "trace/", "trunkline_commit.hpp"},
     {"cuda", "cublas", "CLI/", "nlohmann/", "fmt/", "simdjson.h", "cblas.h", "immintrin.h", "spawn.h", "sys/",
      "unistd.h"}},
    // It times the kernels apart from planner and executor, so it alone sees their entry points.
    {"bench/cpu_kernels_bench.cpp", {"trunkline/", "kernels/params.hpp", "kernels/cpu/kernels.hpp"}, {"benchmark/"}},
    {"bench/", {"trunkline/", "common/", "bench/"}, {"benchmark/"}},
    {"python/", {"trunkline/", "binding/"}, {"nanobind/"}},
    {"examples/", {}, {"trunkline/"}},
    {"tests/", {""}, {""}},
};

bool starts_with_any(const std::string& text, const std::vector<std::string>& prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(), [&](const auto& prefix) { return text.rfind(prefix, 0) == 0; });
}

const Layer* layer_of(const std::string& path) {
  const auto found =
      std::find_if(layers.begin(), layers.end(), [&](const Layer& layer) { return path.rfind(layer.folder, 0) == 0; });
  return found == layers.end() ? nullptr : &*found;
}

bool is_cpp(const std::string& path) { return std::regex_search(path, std::regex(R"(\.(hpp|cpp|h|c|cu|cuh)$)")); }

/// Why this line may not stand in a file of this path; empty when it may.
std::string objection(const std::string& path, const std::string& line) {
  static const std::regex include(R"re(^\s*#\s*include\s*(["<])([^">]+)[">])re");
  static const std::regex standard("[a-z_0-9]+");  // <vector>, <cstdint>: no dot, no slash
  std::smatch match;
  if (!std::regex_search(line, match, include)) return {};
  const Layer* layer = layer_of(path);
  if (layer == nullptr) return path + " belongs to no layer";
  const std::string name = match[2];
  const bool fine = match[1] == "\"" ? starts_with_any(name, layer->project)
                                     : std::regex_match(name, standard) || starts_with_any(name, layer->foreign);
  return fine ? "" : path + " must not include " + name;
}

TEST(Layering, EveryIncludePointsDown) {
  int includes = 0;
  for (const SourceFile& file : read_files({"include", "src", "tools", "bench", "python", "examples", "tests"})) {
    if (!is_cpp(file.path)) continue;
    for (const std::string& line : file.lines) {
      includes += line.rfind("#include", 0) == 0 ? 1 : 0;
      EXPECT_EQ(objection(file.path, line), "");
    }
  }
  EXPECT_GT(includes, 200);  // the files were found
}

TEST(Layering, WorkStructsIncludeOnlyCstdint) {
  const std::vector<SourceFile> files = read_files({"include/trunkline/work.hpp"});
  ASSERT_EQ(files.size(), 1u);
  for (const std::string& line : files[0].lines) {
    const bool is_include = line.rfind("#include", 0) == 0;
    EXPECT_TRUE(!is_include || line == "#include <cstdint>") << line;
  }
}

TEST(Layering, TheTableRefusesWhatItShould) {
  EXPECT_EQ(objection("src/tree/a.cpp", R"(#include "base/check.hpp")"), "");
  EXPECT_EQ(objection("src/tree/a.cpp", "#include <vector>"), "");
  EXPECT_THAT(objection("src/tree/a.cpp", R"(#include "forest/state.hpp")"), testing::HasSubstr("forest/state.hpp"));
  EXPECT_NE(objection("src/plan/a.cpp", R"(#include "kernels/params.hpp")"), "");
  EXPECT_NE(objection("src/kernels/reference/a.cpp", R"(#include "base/check.hpp")"), "");
  EXPECT_NE(objection("src/kernels/cpu/a.cpp", R"(#include "trunkline/plan.hpp")"), "");
  EXPECT_NE(objection("src/exec/a.cpp", R"(#include "kernels/cpu/simd-inl.hpp")"), "");
  EXPECT_NE(objection("src/exec/a.cpp", "#include <cuda_runtime_api.h>"), "");
  EXPECT_EQ(objection("src/exec/cuda/a.cpp", "#include <cuda_runtime_api.h>"), "");
  EXPECT_NE(objection("src/kernels/sm80/a.cu", R"(#include "kernels/sm90/attention.hpp")"), "");
  EXPECT_NE(objection("include/trunkline/a.hpp", "#include <hwy/highway.h>"), "");
  EXPECT_NE(objection("include/trunkline/a.hpp", R"(#include "base/check.hpp")"), "");
  EXPECT_NE(objection("tools/commands/a.cpp", R"(#include "exec/thread_pool.hpp")"), "");
  EXPECT_NE(objection("src/new_folder/a.cpp", "#include <vector>"), "");
}

}  // namespace
}  // namespace trunkline::project
