// `auto` is never modelled slower than a named strategy on the same device.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "plan/shapes.hpp"

namespace trunkline {
namespace {

constexpr double allowed = 1.01;

// Much like the plain CUDA kernel: more workers, each of them one item of either lane at a time, and items cost more.
DeviceSpec without_overlap() {
  DeviceSpec spec = DeviceSpec::h200();
  spec.name = "H200 without overlap";
  spec.num_workers = 264;
  spec.lanes_overlap = false;
  spec.wide.row_granule = 64;
  spec.wide.flops = 240e12;
  spec.wide.item_seconds = 4e-6;
  spec.narrow.flops = 160e12;
  spec.narrow.item_seconds = 3.2e-6;
  spec.read_bandwidth = 4.5e12;
  spec.worker_bandwidth = 30e9;
  spec.partial_bandwidth = 1.9e12;
  spec.merge_seconds = 0.05e-6;
  spec.source_seconds = 0;
  spec.phase_seconds = 7e-6;
  spec.launch_seconds = 4e-6;
  return spec;
}

void expect_never_slower(const std::string& name, const Forest& forest, AttentionConfig config) {
  for (const DeviceSpec& device :
       {DeviceSpec::h200(), without_overlap(), DeviceSpec::generic_cpu(2), DeviceSpec::generic_cpu(16)}) {
    auto seconds = [&](Strategy strategy) {
      config.strategy = strategy;
      const PlanLimits limits = PlanLimits::of({forest.num_requests(), forest.num_requests(), 1 << 20}, config, device);
      const Plan plan = Planner(device, config).plan(forest, limits);
      EXPECT_FALSE(plan.shed) << name << ", " << to_string(strategy) << " on " << device.name;
      return plan.model.seconds;
    };
    const double automatic = seconds(Strategy::automatic);
    EXPECT_GT(automatic, device.launch_seconds);
    for (const Strategy named : {Strategy::unshared, Strategy::two_phase, Strategy::hydragen}) {
      EXPECT_LE(automatic, allowed * seconds(named))
          << name << " against " << to_string(named) << " on " << device.name;
    }
  }
}

TEST(NeverSlower, PublishedShapes) {
  for (const test::Shape& shape : test::published_shapes()) {
    expect_never_slower(shape.name, shape.forest(), shape.config(Strategy::automatic));
  }
}

TEST(NeverSlower, GridFilesLarge) {
  const std::filesystem::path folder = std::filesystem::path(TRUNKLINE_SOURCE_DIR) / ".." / "shared" / "grids";
  if (!std::filesystem::is_directory(folder)) GTEST_SKIP() << "no grid files beside this source tree";
  int num_cases = 0;
  for (const auto& file : std::filesystem::directory_iterator(folder)) {
    std::ifstream in(file.path());
    const nlohmann::json grid = nlohmann::json::parse(in);
    for (const nlohmann::json& shape : grid.value("cases", nlohmann::json::array())) {
      const nlohmann::json& heads = shape.contains("heads") ? shape["heads"] : grid["defaults"]["heads"];
      std::vector<int> nodes, tokens;
      if (shape.contains("batch")) {
        nodes = {1, shape["batch"]};
        tokens = {shape["shared"], shape["unique"]};
      } else {
        nodes = shape["nodes_per_level"].get<std::vector<int>>();
        tokens = shape["tokens_per_node"].get<std::vector<int>>();
      }
      int page_size = grid["defaults"]["page_size"];
      for (const int t : tokens) page_size = std::gcd(page_size, t);
      expect_never_slower(file.path().filename().string() + " " + shape.dump(),
                          test::tree_forest(nodes, tokens, page_size), test::config_of(heads[0], heads[1], page_size));
      ++num_cases;
    }
  }
  EXPECT_GT(num_cases, 200);
}

TEST(NeverSlower, SharingMuchIsModelledMuchFaster) {
  const test::Shape shape = test::prefix_shape(64, 16384, 64, 32, 8);
  const Forest forest = shape.forest();
  const double shared = Planner(DeviceSpec::h200(), shape.config(Strategy::automatic)).plan(forest).model.seconds;
  const double unshared = Planner(DeviceSpec::h200(), shape.config(Strategy::unshared)).plan(forest).model.seconds;
  EXPECT_LT(10 * shared, unshared);
}

}  // namespace
}  // namespace trunkline
