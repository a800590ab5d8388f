#include "project/source_tree.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

namespace trunkline::project {
namespace {

namespace fs = std::filesystem;

bool is_text(const fs::path& path) {
  static const std::set<std::string> extensions{".hpp",  ".cpp",   ".cu",   ".cuh", ".h",   ".c",
                                                ".in",   ".cmake", ".txt",  ".py",  ".css", ".md",
                                                ".json", ".sh",    ".html", ".js",  ".yml", ".toml"};
  static const std::set<std::string> names{"Makefile", "run", ".clang-format", ".clang-tidy", ".gitignore", "LICENSE"};
  return extensions.count(path.extension().string()) > 0 || names.count(path.filename().string()) > 0;
}

SourceFile read(const fs::path& root, const fs::path& path) {
  SourceFile file{fs::relative(path, root).generic_string(), {}};
  std::ifstream stream(path);
  for (std::string line; std::getline(stream, line);) file.lines.push_back(line);
  return file;
}

}  // namespace

std::vector<SourceFile> read_files(const std::vector<std::string>& folders) {
  const fs::path root = TRUNKLINE_SOURCE_DIR;
  std::vector<SourceFile> files;
  for (const std::string& folder : folders) {
    const fs::path start = root / folder;
    if (fs::is_regular_file(start)) files.push_back(read(root, start));
    if (!fs::is_directory(start)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(start)) {
      if (entry.is_regular_file() && is_text(entry.path())) files.push_back(read(root, entry.path()));
    }
  }
  std::sort(files.begin(), files.end(), [](const SourceFile& a, const SourceFile& b) { return a.path < b.path; });
  return files;
}

}  // namespace trunkline::project
