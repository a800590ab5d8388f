// What must not be left in the sources: notes to self, and names of somebody's machine.
#include <gtest/gtest.h>

#include <cctype>
#include <string>
#include <vector>

#include "project/source_tree.hpp"

namespace trunkline::project {
namespace {

/// Written in two halves, so that this file holds none of them.
const std::vector<std::string> words{
    "TO"
    "DO",
    "FIX"
    "ME",
    "X"
    "XX",
    "HA"
    "CK"};
const std::vector<std::string> folders_of_a_machine{
    "/wo"
    "rk/",
    "/ho"
    "me/",
    "/ro"
    "ot/",
    "/Use"
    "rs/"};

bool is_letter(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

bool has_word(const std::string& line, const std::string& word) {
  for (std::size_t at = line.find(word); at != std::string::npos; at = line.find(word, at + 1)) {
    const std::size_t end = at + word.size();
    if ((at == 0 || !is_letter(line[at - 1])) && (end == line.size() || !is_letter(line[end]))) return true;
  }
  return false;
}

std::string objection(const std::string& line) {
  for (const std::string& word : words) {
    if (has_word(line, word)) return word;
  }
  for (const std::string& folder : folders_of_a_machine) {
    if (line.find(folder) != std::string::npos) return folder;
  }
  return {};
}

TEST(Hygiene, NoNotesAndNoMachinePaths) {
  const std::vector<SourceFile> files =
      read_files({"include", "src", "tools", "bench", "python", "examples", "tests", "cmake", "docs", "scripts", ".ci",
                  "CMakeLists.txt", "CMakePresets.json", "Makefile", "README.md", "CONTRIBUTING.md", "CHANGELOG.md",
                  ".clang-format", ".clang-tidy"});
  EXPECT_GT(files.size(), 100u);
  for (const SourceFile& file : files) {
    for (std::size_t i = 0; i < file.lines.size(); ++i) {
      EXPECT_EQ(objection(file.lines[i]), "") << file.path << ":" << i + 1 << ": " << file.lines[i];
    }
  }
}

TEST(Hygiene, TheCheckFindsWhatItShould) {
  EXPECT_NE(objection("// TO"
                      "DO: later"),
            "");
  EXPECT_NE(objection("cd /wo"
                      "rk/somewhere"),
            "");
  EXPECT_EQ(objection("mktemp -t XX"
                      "XXXX"),
            "");
  EXPECT_EQ(objection("work/items and home/pages are fine"), "");
}

}  // namespace
}  // namespace trunkline::project
