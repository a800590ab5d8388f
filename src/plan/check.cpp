// Proves a plan right from its arrays and the forest's tables alone; shares nothing with the planner.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "base/check.hpp"
#include "trunkline/plan.hpp"

namespace trunkline {
namespace {

std::string entry(const char* array, std::size_t index) {
  std::string name(array);
  name.append("[").append(std::to_string(index)).append("]");
  return name;
}
std::string range(std::int64_t begin, std::int64_t end) {
  std::string text("[");
  text.append(std::to_string(begin)).append(", ").append(std::to_string(end)).append(")");
  return text;
}

class Checker {
 public:
  Checker(const Plan& plan, const Forest& forest) : plan_(plan), forest_(forest) {}

  void check() {
    check_query_tokens();
    check_phases();
    check_schedule();
    check_items();
    check_coverage();
    check_partials_apart();
    check_merges();
    check_finished();
  }

 private:
  // What an item gives a row.
  struct Part {
    std::int32_t begin, end;
    std::int64_t partial;  // -1: direct
    std::size_t item;
  };

  template <class Expected, class Got>
  [[noreturn]] static void fail(const std::string& argument, const Expected& expected, const Got& got) {
    throw Error(ErrorCode::corrupt, argument, text(expected), text(got));
  }
  // Per entry; loops over rows use fail(), which makes its texts only then.
  template <class Expected, class Got>
  static void ensure(bool holds, const std::string& argument, const Expected& expected, const Got& got) {
    if (!holds) fail(argument, expected, got);
  }
  static std::string text(const std::string& value) { return value; }
  static std::string text(const char* value) { return value; }
  static std::string text(std::int64_t value) { return std::to_string(value); }
  static std::string text(std::size_t value) { return std::to_string(value); }
  static std::string text(std::int32_t value) { return std::to_string(value); }

  std::size_t num_rows() const { return plan_.query_tokens.size() * static_cast<std::size_t>(plan_.group_size); }
  const QueryToken& token_of(std::size_t row) const { return plan_.query_tokens[row / plan_.group_size]; }

  void check_query_tokens() {
    ensure(plan_.group_size >= 1, "group_size", "1 or more", plan_.group_size);
    ensure(plan_.num_kv_heads >= 1, "num_kv_heads", "1 or more", plan_.num_kv_heads);
    ensure(plan_.num_workers >= 1, "num_workers", "1 or more", plan_.num_workers);
    ensure(static_cast<std::int64_t>(plan_.query_tokens.size()) == forest_.num_query_tokens(), "query_tokens.size",
           forest_.num_query_tokens(), plan_.query_tokens.size());
    std::vector<std::int32_t> q_begin;
    std::int32_t q_index = 0;
    for (const std::int32_t qo_len : forest_.qo_lens()) q_begin.push_back(std::exchange(q_index, q_index + qo_len));
    std::size_t next = 0;
    for (const std::int32_t request : forest_.request_order()) {
      const std::int32_t seq_len = forest_.seq_lens()[request], qo_len = forest_.qo_lens()[request];
      for (std::int32_t j = 0; j < qo_len; ++j, ++next) {
        const QueryToken& token = plan_.query_tokens[next];
        const std::string name = entry("query_tokens", next);
        ensure(token.request == request, name + ".request", request, token.request);
        ensure(token.q_index == q_begin[request] + j, name + ".q_index", q_begin[request] + j, token.q_index);
        ensure(token.visible_begin == 0, name + ".visible_begin", 0, token.visible_begin);
        const std::int32_t visible_end = seq_len == 0 ? 0 : seq_len - qo_len + j + 1;
        ensure(token.visible_end == visible_end, name + ".visible_end", visible_end, token.visible_end);
      }
    }
  }

  void check_phases() {
    std::int32_t next = 0;
    for (std::size_t p = 0; p < plan_.phases.size(); ++p) {
      const Phase& phase = plan_.phases[p];
      const std::string name = entry("phases", p);
      ensure(phase.item_begin == next, name + ".item_begin", next, phase.item_begin);
      ensure(phase.item_begin <= phase.wide_end && phase.wide_end <= phase.item_end, name + ".wide_end",
             "within the phase's items " + range(phase.item_begin, phase.item_end), phase.wide_end);
      ensure(phase.item_end > phase.item_begin, name + ".item_end", "at least one item", phase.item_end);
      next = phase.item_end;
    }
    ensure(static_cast<std::size_t>(next) == plan_.items.size(), "phases",
           std::to_string(plan_.items.size()) + " items", next);
  }

  void check_schedule() {
    const std::size_t size = plan_.schedule_offset(plan_.phases.size(), 0, 0);
    ensure(plan_.schedule.size() == size, "schedule.size", size, plan_.schedule.size());
    for (std::size_t p = 0; p < plan_.phases.size(); ++p) {
      const Phase& phase = plan_.phases[p];
      const std::int32_t items[2] = {phase.wide_end - phase.item_begin, phase.item_end - phase.wide_end};
      for (int lane = 0; lane < 2; ++lane) {
        const bool paired = plan_.paired && lane == 0;
        std::int64_t next = 0;
        for (int band = 0; band < 2; ++band) {
          const std::size_t at = plan_.schedule_offset(p, lane, band);
          ensure(plan_.schedule[at] == next, entry("schedule", at), next, plan_.schedule[at]);
          for (int w = 0; w < plan_.num_workers; ++w) {
            ensure(plan_.schedule[at + w] <= plan_.schedule[at + w + 1], entry("schedule", at + w + 1),
                   "at least " + std::to_string(plan_.schedule[at + w]), plan_.schedule[at + w + 1]);
            ensure(!paired || w % 2 == 0 || plan_.schedule[at + w + 1] == plan_.schedule[at + w],
                   entry("schedule", at + w + 1), std::to_string(plan_.schedule[at + w]) + ", the units of a pair",
                   plan_.schedule[at + w + 1]);
          }
          next = plan_.schedule[at + plan_.num_workers];
        }
        const std::int64_t units = std::int64_t{items[lane]} * plan_.num_kv_heads;
        ensure(next == units, entry("schedule", plan_.schedule_offset(p, lane, 1) + plan_.num_workers), units, next);
      }
    }
  }

  void check_items() {
    parts_.assign(num_rows(), {});
    used_rows_.assign(static_cast<std::size_t>(forest_.table().num_rows), -1);
    for (std::size_t r = 0; r < forest_.table_rows().size(); ++r) {
      used_rows_[forest_.table_rows()[r]] = static_cast<std::int32_t>(r);
    }
    for (std::size_t i = 0; i < plan_.items.size(); ++i) {
      const WorkItem& item = plan_.items[i];
      const std::string name = entry("items", i);
      ensure(item.num_rows >= 1, name + ".num_rows", "1 or more", item.num_rows);
      ensure(item.row_begin >= 0 && static_cast<std::size_t>(item.row_begin) + item.num_rows <= num_rows(),
             name + ".row_begin", "rows within [0, " + std::to_string(num_rows()) + ")",
             range(item.row_begin, std::int64_t{item.row_begin} + item.num_rows));
      ensure(item.num_segments >= 1, name + ".num_segments", "1 or more", item.num_segments);
      ensure(item.segment_begin >= 0 &&
                 static_cast<std::size_t>(item.segment_begin) + item.num_segments <= plan_.segments.size(),
             name + ".segment_begin", "segments within [0, " + std::to_string(plan_.segments.size()) + ")",
             range(item.segment_begin, std::int64_t{item.segment_begin} + item.num_segments));
      ensure(item.partial_begin >= -1 &&
                 item.partial_begin + item.num_rows * std::int64_t{item.partial_begin >= 0} <= plan_.num_partial_rows,
             name + ".partial_begin", "-1 or partial rows within [0, " + std::to_string(plan_.num_partial_rows) + ")",
             item.partial_begin);
      ensure(item.masked == 0 || item.masked == 1, name + ".masked", "0 or 1", item.masked);
      for (std::int32_t s = 0; s < item.num_segments; ++s) check_segment(i, item.segment_begin + s, s > 0);
    }
  }

  void check_segment(std::size_t i, std::int32_t s, bool follows) {
    const WorkItem& item = plan_.items[i];
    const Segment& segment = plan_.segments[s];
    const std::string name = entry("segments", s);
    ensure(segment.token_begin >= 0 && segment.token_begin < segment.token_end, name + ".token_begin",
           "0 or more and below token_end " + std::to_string(segment.token_end), segment.token_begin);
    ensure(!follows || plan_.segments[s - 1].token_end <= segment.token_begin, name + ".token_begin",
           "ascending segments of an item", segment.token_begin);
    ensure(segment.table_row >= 0 && segment.table_row < forest_.table().num_rows && used_rows_[segment.table_row] >= 0,
           name + ".table_row", "a table row in use", segment.table_row);
    const std::int32_t owner_len = forest_.seq_lens()[used_rows_[segment.table_row]];
    ensure(segment.token_end <= owner_len, name + ".token_end",
           "at most the " + std::to_string(owner_len) + " tokens of its table row", segment.token_end);

    std::int32_t last_request = -1;
    for (std::int32_t r = 0; r < item.num_rows; ++r) {
      const std::size_t row = static_cast<std::size_t>(item.row_begin) + r;
      const QueryToken& token = token_of(row);
      if (token.request != std::exchange(last_request, token.request)) check_pages(s, token.request);
      if (segment.token_end > token.visible_end && item.masked == 0) {
        fail(entry("items", i) + ".masked",
             "1, since row " + std::to_string(row) + " sees only tokens before " + std::to_string(token.visible_end),
             0);
      }
      const bool direct = item.partial_begin < 0;
      parts_[row].push_back({segment.token_begin, segment.token_end, direct ? -1 : item.partial_begin + r, i});
    }
  }

  // The segment's table row names the pages that the request itself has at those positions.
  void check_pages(std::int32_t s, std::int32_t request) {
    const Segment& segment = plan_.segments[s];
    const Forest::Table table = forest_.table();
    const std::int32_t own_row = forest_.table_rows()[request];
    if (own_row == segment.table_row) return;
    const std::int32_t page_size = forest_.page_size();
    const std::int32_t end = std::min(segment.token_end, forest_.seq_lens()[request]);
    for (std::int32_t p = segment.token_begin / page_size; p * std::int64_t{page_size} < end; ++p) {
      const std::int32_t read = table.entries[std::size_t(segment.table_row) * table.row_stride + p];
      const std::int32_t own = table.entries[std::size_t(own_row) * table.row_stride + p];
      if (read == own) continue;
      fail(entry("segments", s) + ".table_row",
           "page " + std::to_string(own) + ", which request " + std::to_string(request) + " has at entry " +
               std::to_string(p),
           "page " + std::to_string(read));
    }
  }

  void check_coverage() {
    for (std::size_t row = 0; row < num_rows(); ++row) {
      std::vector<Part>& parts = parts_[row];
      std::sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.begin < b.begin; });
      const QueryToken& token = token_of(row);
      std::int32_t covered = token.visible_begin;
      for (const Part& part : parts) {
        if (part.begin >= token.visible_end) break;  // masked: sees nothing of it
        if (part.begin < covered) fail_coverage(row, part.begin, std::min(covered, part.end), "covered twice");
        if (part.begin > covered) fail_coverage(row, covered, part.begin, "not covered");
        covered = part.end;
      }
      if (covered < token.visible_end) fail_coverage(row, covered, token.visible_end, "not covered");
    }
  }

  [[noreturn]] static void fail_coverage(std::size_t row, std::int32_t begin, std::int32_t end, const char* how) {
    fail("row " + std::to_string(row), "every visible token covered once", "tokens " + range(begin, end) + " " + how);
  }

  void check_partials_apart() {
    writer_.assign(static_cast<std::size_t>(plan_.num_partial_rows), -1);
    for (std::size_t i = 0; i < plan_.items.size(); ++i) {
      const WorkItem& item = plan_.items[i];
      if (item.partial_begin < 0) continue;
      for (std::int32_t r = 0; r < item.num_rows; ++r) {
        std::int64_t& writer = writer_[static_cast<std::size_t>(item.partial_begin) + r];
        if (writer >= 0) {
          fail(entry("items", i) + ".partial_begin", "partial rows of its own",
               "partial row " + std::to_string(item.partial_begin + r) + " of " +
                   entry("items", static_cast<std::size_t>(writer)));
        }
        writer = static_cast<std::int64_t>(i);
      }
    }
  }

  void check_merges() {
    finished_.assign(num_rows(), 0);
    std::vector<char> merged(writer_.size(), 0);
    for (std::size_t m = 0; m < plan_.merges.size(); ++m) {
      const Merge& merge = plan_.merges[m];
      const std::string name = entry("merges", m);
      ensure(merge.num_rows >= 1 && merge.num_rows <= max_merge_rows, name + ".num_rows",
             "1 to " + std::to_string(max_merge_rows), merge.num_rows);
      ensure(merge.row_begin >= 0 && static_cast<std::size_t>(merge.row_begin) + merge.num_rows <= num_rows(),
             name + ".row_begin", "rows within [0, " + std::to_string(num_rows()) + ")",
             range(merge.row_begin, std::int64_t{merge.row_begin} + merge.num_rows));
      ensure(merge.num_sources >= 0 && merge.source_begin >= 0 &&
                 static_cast<std::size_t>(merge.source_begin) + merge.num_sources <= plan_.merge_sources.size(),
             name + ".source_begin", "sources within [0, " + std::to_string(plan_.merge_sources.size()) + ")",
             range(merge.source_begin, std::int64_t{merge.source_begin} + merge.num_sources));
      for (std::int32_t r = 0; r < merge.num_rows; ++r) check_merged_row(m, r, merged);
    }
    for (std::size_t p = 0; p < writer_.size(); ++p) {
      if (writer_[p] < 0) fail("partial row " + std::to_string(p), "written by an item", "by none");
      if (merged[p] == 0) fail("partial row " + std::to_string(p), "merged once", "never merged");
    }
  }

  void check_merged_row(std::size_t m, std::int32_t r, std::vector<char>& merged) {
    const Merge& merge = plan_.merges[m];
    const std::size_t row = static_cast<std::size_t>(merge.row_begin) + r;
    ++finished_[row];
    std::int32_t last_position = -1;
    for (std::int32_t s = 0; s < merge.num_sources; ++s) {
      auto refuse = [&](const std::string& expected, const std::string& got) {
        fail(entry("merge_sources", static_cast<std::size_t>(merge.source_begin) + s), expected, got);
      };
      const std::int64_t partial = std::int64_t{plan_.merge_sources[merge.source_begin + s]} + r;
      if (partial < 0 || partial >= plan_.num_partial_rows) {
        refuse("a partial row within " + range(0, plan_.num_partial_rows), std::to_string(partial));
      }
      const auto part = std::find_if(parts_[row].begin(), parts_[row].end(),
                                     [partial](const Part& candidate) { return candidate.partial == partial; });
      if (part == parts_[row].end()) {
        refuse("a partial of row " + std::to_string(row), "partial row " + std::to_string(partial) + " of another row");
      }
      if (merged[partial] != 0) {
        refuse("every partial merged once", "partial row " + std::to_string(partial) + " again");
      }
      merged[partial] = 1;
      if (part->begin <= last_position) {
        refuse("partials in ascending position",
               "position " + std::to_string(part->begin) + " after " + std::to_string(last_position));
      }
      last_position = part->begin;
    }
  }

  void check_finished() {
    for (std::size_t i = 0; i < plan_.items.size(); ++i) {
      const WorkItem& item = plan_.items[i];
      if (item.partial_begin >= 0) continue;
      for (std::int32_t r = 0; r < item.num_rows; ++r) ++finished_[static_cast<std::size_t>(item.row_begin) + r];
    }
    for (std::size_t row = 0; row < num_rows(); ++row) {
      if (finished_[row] == 1) continue;
      fail("row " + std::to_string(row), "finished once, by an item or a merge",
           std::to_string(finished_[row]) + " times");
    }
  }

  const Plan& plan_;
  const Forest& forest_;
  std::vector<std::vector<Part>> parts_;  // per row, ascending in position
  std::vector<std::int32_t> used_rows_;   // table row -> request, -1: not in use
  std::vector<std::int64_t> writer_;      // partial row -> item
  std::vector<std::int32_t> finished_;    // row -> times
};

}  // namespace

void Plan::check(const Forest& forest) const { Checker(*this, forest).check(); }

}  // namespace trunkline
