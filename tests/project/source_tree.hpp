// The project's own files, as its tests read them.
#pragma once

#include <string>
#include <vector>

namespace trunkline::project {

struct SourceFile {
  std::string path;  // relative to the project, '/' between folders
  std::vector<std::string> lines;
};

/// Every text file under the given folders or files of the project, in order of path. Build trees are not read.
std::vector<SourceFile> read_files(const std::vector<std::string>& folders);

}  // namespace trunkline::project
