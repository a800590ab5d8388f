#include "grids/device.hpp"

namespace trunkline::grids {

struct DeviceArray::Impl {
  std::vector<std::byte> bytes;
};

DeviceArray::DeviceArray(const std::vector<std::byte>& host) : impl_(std::make_unique<Impl>(Impl{host})) {}
DeviceArray::~DeviceArray() = default;
DeviceArray::DeviceArray(DeviceArray&&) noexcept = default;
DeviceArray& DeviceArray::operator=(DeviceArray&&) noexcept = default;

std::byte* DeviceArray::data() const { return impl_->bytes.data(); }
std::vector<std::byte> DeviceArray::copy_back() const { return impl_->bytes; }

Shape nearest_covered(Shape shape) { return shape; }

std::vector<Target> targets(const Shape&) {
  std::vector<Target> result;
  for (const std::string& name : simd_targets()) {
    Target& target = result.emplace_back(Target{name, {}, {}});
    target.execution.simd_target = name;
  }
  return result;
}

DeviceSpec device_spec(const Target& target, const AttentionConfig&, int num_workers) {
  return DeviceSpec::generic_cpu(num_workers > 0 ? num_workers : target.execution.num_threads);
}

Stream stream() { return {}; }

const char* to_string(Way) { return "directly"; }
std::vector<Way> ways() { return {Way::direct}; }
void carry_out(Way, const std::function<void(Stream)>& work) { work({}); }

}  // namespace trunkline::grids
