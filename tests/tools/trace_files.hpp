// Files for tests of the trace readers: written for a test and removed with it, and the real ones where there are any.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace trunkline::test {

/// A folder of its own under the test's temporary folder.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::path(::testing::TempDir()) / "trunkline-XXXXXX").string();
    if (!::mkdtemp(name.data())) throw std::runtime_error("no temporary folder");
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::filesystem::path write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
    return path_ / name;
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// Real traces lie beside the repository when there are any.
inline std::filesystem::path real_trace(const std::string& name) {
  return std::filesystem::path(TRUNKLINE_SOURCE_DIR) / ".." / "shared" / "traces" / name;
}

}  // namespace trunkline::test

/// A path of a real trace; the test is skipped where it is absent.
#define TRUNKLINE_REAL_TRACE(variable, name)                                  \
  const std::filesystem::path variable = ::trunkline::test::real_trace(name); \
  if (!std::filesystem::exists(variable)) GTEST_SKIP() << "no trace at " << variable.string()
