#include "trunkline/config.hpp"

#include <cmath>

#include "base/check.hpp"

namespace trunkline {
namespace {

[[noreturn]] void refuse(const char* field, const char* feature, std::string got) {
  throw Error(ErrorCode::unsupported, field, std::string("the default, since ") + feature + " is not built yet",
              std::move(got));
}

void check_number(double value, bool may_be_zero, const std::string& field) {
  require(std::isfinite(value) && (may_be_zero ? value >= 0 : value > 0), field.c_str(),
          may_be_zero ? "a finite number, 0 or more" : "a finite number above 0", value);
}

void check_lane(const DeviceSpec::Lane& lane, const std::string& name) {
  require(lane.max_rows >= 0, (name + ".max_rows").c_str(), "0 (no such lane) or more", lane.max_rows);
  if (lane.max_rows == 0) return;
  require(lane.row_granule >= 1, (name + ".row_granule").c_str(), "1 or more", lane.row_granule);
  check_number(lane.flops, false, name + ".flops");
  check_number(lane.item_seconds, true, name + ".item_seconds");
  check_number(lane.masked_seconds, true, name + ".masked_seconds");
}

}  // namespace

const char* to_string(Strategy strategy) noexcept {
  switch (strategy) {
    case Strategy::automatic:
      return "auto";
    case Strategy::unshared:
      return "unshared";
    case Strategy::two_phase:
      return "two_phase";
    case Strategy::hydragen:
      return "hydragen";
  }
  return "unknown";
}

Strategy strategy_from_string(const std::string& name) {
  for (Strategy s : {Strategy::automatic, Strategy::unshared, Strategy::two_phase, Strategy::hydragen}) {
    if (name == to_string(s)) return s;
  }
  throw Error(ErrorCode::invalid_argument, "strategy", "auto, unshared, two_phase or hydragen", "'" + name + "'");
}

float AttentionConfig::scale() const noexcept {
  return sm_scale ? *sm_scale : static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim)));
}

std::int64_t AttentionConfig::kv_bytes_per_token() const noexcept {
  return 2ll * num_kv_heads * head_dim * static_cast<std::int64_t>(size_of(kv_dtype));
}

void AttentionConfig::validate() const {
  require(num_qo_heads >= 1, "config.num_qo_heads", "1 or more", num_qo_heads);
  require(num_kv_heads >= 1, "config.num_kv_heads", "1 or more", num_kv_heads);
  require(num_qo_heads % num_kv_heads == 0, "config.num_kv_heads",
          "a divisor of num_qo_heads = " + std::to_string(num_qo_heads), num_kv_heads);
  require(head_dim >= 1 && head_dim <= max_head_dim, "config.head_dim", "1 to 256", head_dim);
  require(page_size >= 1 && page_size <= max_page_size, "config.page_size", "1 to 1024 tokens", page_size);
  require(!sm_scale || std::isfinite(*sm_scale), "config.sm_scale", "a finite number", sm_scale.value_or(0.0f));
  for (auto [dtype, field] : {std::pair{q_dtype, "config.q_dtype"}, {kv_dtype, "config.kv_dtype"}}) {
    if (dtype == DType::float8_e4m3) {
      throw Error(ErrorCode::unsupported, field, "float32, float16 or bfloat16, since fp8 is not built yet",
                  to_string(dtype));
    }
  }
  if (head_dim_vo != 0 && head_dim_vo != head_dim) {
    refuse("config.head_dim_vo", "MLA (another head_dim for V)", std::to_string(head_dim_vo));
  }
  if (sliding_window != 0) refuse("config.sliding_window", "a sliding window", std::to_string(sliding_window));
  if (logits_soft_cap != 0.0f) refuse("config.logits_soft_cap", "soft-capping", std::to_string(logits_soft_cap));
  if (alibi) refuse("config.alibi", "ALiBi", "true");
  if (attention_sinks) refuse("config.attention_sinks", "attention sinks", "true");
}

void DeviceSpec::validate() const {
  require(num_workers >= 1, "device.num_workers", "1 or more", num_workers);
  require(token_granule >= 1, "device.token_granule", "1 or more", token_granule);
  require(packed_rows >= 1, "device.packed_rows", "1 or more", packed_rows);
  require(packed_tokens >= 0, "device.packed_tokens", "0 or more", packed_tokens);
  check_lane(wide, "device.wide");
  check_lane(narrow, "device.narrow");
  require(wide.max_rows > 0 || narrow.max_rows > 0, "device.wide.max_rows", "at least one lane with rows", 0);
  check_number(overlap_penalty, true, "device.overlap_penalty");
  check_number(paired_flops, true, "device.paired_flops");
  check_number(read_bandwidth, false, "device.read_bandwidth");
  check_number(worker_bandwidth, false, "device.worker_bandwidth");
  check_number(partial_bandwidth, false, "device.partial_bandwidth");
  check_number(cache_bytes, true, "device.cache_bytes");
  check_number(merge_seconds, true, "device.merge_seconds");
  check_number(source_seconds, true, "device.source_seconds");
  check_number(phase_seconds, true, "device.phase_seconds");
  check_number(launch_seconds, true, "device.launch_seconds");
}

void Capacity::validate() const {
  require(max_requests >= 0, "capacity.max_requests", "0 or more", max_requests);
  require(max_query_tokens >= 0, "capacity.max_query_tokens", "0 or more", max_query_tokens);
  require(max_table_width >= 0, "capacity.max_table_width", "0 or more pages", max_table_width);
}

}  // namespace trunkline
