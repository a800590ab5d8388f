#include "common/shape_options.hpp"

#include <fmt/core.h>

#include <CLI/CLI.hpp>

#include "trunkline/error.hpp"

namespace trunkline::tools {

void ShapeOptions::add_to(CLI::App& command, bool with_grid) {
  const std::string group = "Shape";
  auto* batch_option = command.add_option("--batch", batch, "requests")->capture_default_str()->group(group);
  auto* shared_option =
      command.add_option("--shared", shared, "tokens that all requests have")->capture_default_str()->group(group);
  auto* unique_option =
      command.add_option("--unique", unique, "tokens of each request's own")->capture_default_str()->group(group);
  command.add_option("--heads", heads, "query heads / KV heads [32/8]")->group(group);
  command.add_option("--head-dim", head_dim, "elements of a head, 1 to 256 [128]")->group(group);
  command.add_option("--dtype", dtype, "float32, float16 or bfloat16, of q, out and KV [bfloat16]")->group(group);
  command.add_option("--page-size", page_size, "tokens of a KV page, 1 to 1024 [16]")->group(group);
  command.add_option("--qo-len", qo_len, "new query tokens of each request [1]")->group(group);
  if (!with_grid) return;
  auto* grid_option =
      command
          .add_option("--grid", grid, "a grid file: measure every case of it; the options above override its fields")
          ->excludes(batch_option)
          ->excludes(shared_option)
          ->excludes(unique_option)
          ->group(group);
  command.add_option("--cases", chosen_cases, "of the grid, by number from 1: 1,3,5-8 [all]")
      ->needs(grid_option)
      ->group(group);
}

Grid ShapeOptions::cases() const {
  Grid result;
  if (grid.empty()) {
    result.name = "command line";
    result.cases.push_back(make_case(batch, shared, unique));
  } else {
    result = load_grid(grid);
    if (!chosen_cases.empty()) {
      std::vector<GridCase> chosen;
      for (int number : parse_case_numbers(chosen_cases, static_cast<int>(result.cases.size()))) {
        chosen.push_back(result.cases[static_cast<std::size_t>(number - 1)]);
      }
      result.cases = std::move(chosen);
    }
  }
  for (GridCase& shape : result.cases) {
    if (!heads.empty()) shape.heads = parse_heads(heads);
    if (!dtype.empty()) shape.dtype = dtype_from_string(dtype);
    shape.head_dim = head_dim.value_or(shape.head_dim);
    shape.page_size = page_size.value_or(shape.page_size);
    shape.qo_len = qo_len.value_or(shape.qo_len);
    shape.validate();
    shape.fields["heads"] = {shape.heads.qo, shape.heads.kv};
    shape.fields["head_dim"] = shape.head_dim;
    shape.fields["qo_len"] = shape.qo_len;
  }
  return result;
}

}  // namespace trunkline::tools
