// The device of a build without CUDA: none. No test comes this far.
#include <stdexcept>

#include "grids/device.hpp"

namespace trunkline::grids {
namespace {

[[noreturn]] void refuse() { throw std::logic_error("this build has no CUDA"); }

}  // namespace

struct DeviceArray::Impl {};

DeviceArray::DeviceArray(const std::vector<std::byte>&) { refuse(); }
DeviceArray::~DeviceArray() = default;
DeviceArray::DeviceArray(DeviceArray&&) noexcept = default;
DeviceArray& DeviceArray::operator=(DeviceArray&&) noexcept = default;
std::byte* DeviceArray::data() const { refuse(); }
std::vector<std::byte> DeviceArray::copy_back() const { refuse(); }

Shape nearest_covered(Shape) { refuse(); }
std::vector<Target> targets(const Shape&) { refuse(); }
DeviceSpec device_spec(const Target&, const AttentionConfig&, int) { refuse(); }
Stream stream() { refuse(); }
const char* to_string(Way) { refuse(); }
std::vector<Way> ways() { refuse(); }
void carry_out(Way, const std::function<void(Stream)>&) { refuse(); }

}  // namespace trunkline::grids
