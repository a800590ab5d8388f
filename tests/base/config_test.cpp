#include "trunkline/config.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "trunkline/error.hpp"

namespace trunkline {
namespace {

using testing::HasSubstr;

AttentionConfig good() {
  AttentionConfig config;
  config.num_qo_heads = 32;
  config.num_kv_heads = 8;
  config.head_dim = 128;
  config.page_size = 16;
  return config;
}

TEST(AttentionConfig, DerivesWhatFollows) {
  AttentionConfig config = good();
  EXPECT_NO_THROW(config.validate());
  EXPECT_EQ(config.group_size(), 4);
  EXPECT_FLOAT_EQ(config.scale(), 1.0f / std::sqrt(128.0f));
  EXPECT_EQ(config.kv_bytes_per_token(), 4096);
  config.sm_scale = 0.5f;
  EXPECT_EQ(config.scale(), 0.5f);
}

struct BadConfig {
  const char* name;
  std::function<void(AttentionConfig&)> spoil;
  ErrorCode code;
  const char* message;
};

class AttentionConfigRefuses : public testing::TestWithParam<BadConfig> {};

TEST_P(AttentionConfigRefuses, ByName) {
  AttentionConfig config = good();
  GetParam().spoil(config);
  try {
    config.validate();
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), GetParam().code);
    EXPECT_THAT(error.what(), HasSubstr(GetParam().message));
  }
}

const auto invalid = ErrorCode::invalid_argument;
const auto unsupported = ErrorCode::unsupported;
INSTANTIATE_TEST_SUITE_P(
    All, AttentionConfigRefuses,
    testing::Values(
        BadConfig{"NoHeads", [](auto& c) { c.num_qo_heads = 0; }, invalid, "config.num_qo_heads: expected 1 or more"},
        BadConfig{"HeadsThatDoNotDivide", [](auto& c) { c.num_kv_heads = 5; }, invalid,
                  "config.num_kv_heads: expected a divisor of num_qo_heads = 32, got 5"},
        BadConfig{"HeadDim", [](auto& c) { c.head_dim = 257; }, invalid, "config.head_dim: expected 1 to 256, got 257"},
        BadConfig{"PageSize", [](auto& c) { c.page_size = 1025; }, invalid, "config.page_size: expected 1 to 1024"},
        BadConfig{"NanScale", [](auto& c) { c.sm_scale = std::numeric_limits<float>::quiet_NaN(); }, invalid,
                  "config.sm_scale: expected a finite number, got nan"},
        BadConfig{"InfiniteScale", [](auto& c) { c.sm_scale = std::numeric_limits<float>::infinity(); }, invalid,
                  "config.sm_scale: expected a finite number, got inf"},
        BadConfig{"Fp8", [](auto& c) { c.kv_dtype = DType::float8_e4m3; }, unsupported, "fp8 is not built yet"},
        BadConfig{"Mla", [](auto& c) { c.head_dim_vo = 64; }, unsupported, "MLA"},
        BadConfig{"Window", [](auto& c) { c.sliding_window = 4096; }, unsupported, "sliding window"},
        BadConfig{"SoftCap", [](auto& c) { c.logits_soft_cap = 30.0f; }, unsupported, "soft-capping"},
        BadConfig{"Alibi", [](auto& c) { c.alibi = true; }, unsupported, "ALiBi"},
        BadConfig{"Sinks", [](auto& c) { c.attention_sinks = true; }, unsupported, "attention sinks"}),
    [](const auto& test) { return test.param.name; });

TEST(Strategy, NamesRoundTrip) {
  for (Strategy s : {Strategy::automatic, Strategy::unshared, Strategy::two_phase, Strategy::hydragen}) {
    EXPECT_EQ(strategy_from_string(to_string(s)), s);
  }
  EXPECT_THROW(strategy_from_string("fastest"), Error);
}

TEST(DeviceSpec, RefusesNumbersThatCannotBe) {
  auto message = [](auto&& spoil) {
    DeviceSpec spec;
    spec.narrow = {.max_rows = 8, .row_granule = 1, .flops = 1e9, .item_seconds = 0};
    spoil(spec);
    try {
      spec.validate();
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_EQ(message([](DeviceSpec&) {}), "no error");
  EXPECT_THAT(message([](DeviceSpec& s) { s.num_workers = 0; }), HasSubstr("device.num_workers"));
  EXPECT_THAT(message([](DeviceSpec& s) { s.narrow.max_rows = 0; }), HasSubstr("at least one lane"));
  EXPECT_THAT(message([](DeviceSpec& s) { s.narrow.flops = -1; }), HasSubstr("device.narrow.flops"));
  EXPECT_THAT(message([](DeviceSpec& s) { s.read_bandwidth = NAN; }), HasSubstr("device.read_bandwidth"));
}

TEST(Capacity, RefusesNegativeSizes) {
  EXPECT_NO_THROW((Capacity{0, 0, 0}.validate()));
  EXPECT_THROW((Capacity{-1, 1, 1}.validate()), Error);
  EXPECT_THROW((Capacity{1, -1, 1}.validate()), Error);
  EXPECT_THROW((Capacity{1, 1, -1}.validate()), Error);
}

}  // namespace
}  // namespace trunkline
