#include "common/table.hpp"

#include <fmt/core.h>

#include <algorithm>

namespace trunkline::tools {

void Table::print(std::FILE* stream) const {
  std::vector<std::size_t> widths;
  for (std::size_t c = 0; c < columns_.size(); ++c) {
    std::size_t width = columns_[c].title.size();
    for (const auto& row : rows_) width = std::max(width, row[c].size());
    widths.push_back(width);
  }
  const auto print_row = [&](const auto& cell) {
    std::string line;
    for (std::size_t c = 0; c < columns_.size(); ++c) {
      const std::string padding(widths[c] - cell(c).size(), ' ');
      if (c > 0) line += "  ";
      line += columns_[c].align == Align::left ? cell(c) + padding : padding + cell(c);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    fmt::print(stream, "{}\n", line);
  };
  print_row([&](std::size_t c) { return columns_[c].title; });
  print_row([&](std::size_t c) { return std::string(widths[c], '-'); });
  for (const auto& row : rows_) print_row([&](std::size_t c) { return row[c]; });
}

}  // namespace trunkline::tools
