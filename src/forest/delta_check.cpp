#include "forest/delta_check.hpp"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "base/check.hpp"
#include "forest/block_tables.hpp"

namespace trunkline::forest {
namespace {

/// "deltas.grow[3].pages"
std::string field(const char* list, std::size_t index, const std::string& name) {
  return element(list, index) + "." + name;
}

class DeltaCheck {
 public:
  DeltaCheck(const State& state, Scratch& scratch) : state_(state), scratch_(scratch) {}

  void run(const Deltas& deltas) {
    start(deltas);
    check_leave(deltas);
    check_replace(deltas);
    check_grow(deltas);
    check_qo_lens(deltas);
    check_join(deltas);
  }

 private:
  using Touched = Scratch::Touched;

  void start(const Deltas& deltas) {
    scratch_.touched.clear();
    scratch_.touched.reserve(deltas.leave.size() + deltas.replace.size() + deltas.grow.size() + deltas.qo_lens.size());
    scratch_.touched_of_row.assign(state_.table.num_rows(), none);
    scratch_.leave_rows.clear();
    scratch_.replace_rows.clear();
    scratch_.grow_rows.clear();
  }

  /// The named request, which must not have left. Callers name requests mostly in their own order: the one after the
  /// last found is tried first.
  Touched& touch(RequestId id, const char* list, std::size_t i, const char* name = "") {
    const auto& ids = state_.request_ids;
    std::int32_t row = none;
    if (next_ < ids.size() && ids[next_] == id) {
      row = state_.table_rows[next_];
      ++next_;
    } else {
      row = state_.index.find(id);
      if (row != none) {
        next_ = static_cast<std::size_t>(state_.requests[row]) + 1;
      }
    }
    if (row == none || leaves(row)) [[unlikely]] {
      refuse(element(list, i) + name, "the id of a request in the forest", std::to_string(id));
    }
    std::int32_t& place = scratch_.touched_of_row[row];
    if (place == none) {
      place = static_cast<std::int32_t>(scratch_.touched.size());
      const std::int32_t request = state_.requests[row];
      scratch_.touched.push_back({row, state_.seq_lens[request], state_.qo_lens[request], Touched::unchanged, false});
    }
    return scratch_.touched[place];
  }

  bool leaves(std::int32_t row) const {
    const std::int32_t place = scratch_.touched_of_row[row];
    return place != none && scratch_.touched[place].leaves;
  }

  void check_leave(const Deltas& deltas) {
    next_ = 0;
    for (std::size_t i = 0; i < deltas.leave.size(); ++i) {
      Touched& request = touch(deltas.leave[i], "deltas.leave", i);
      request.leaves = true;
      scratch_.leave_rows.push_back(request.row);
    }
  }

  void check_replace(const Deltas& deltas) {
    constexpr const char* list = "deltas.replace";
    next_ = 0;
    for (std::size_t i = 0; i < deltas.replace.size(); ++i) {
      const Deltas::Replacement& replace = deltas.replace[i];
      Touched& request = touch(replace.request, list, i, ".request");
      const auto num_entries = static_cast<std::int64_t>(state_.table.pages(request.row).size());
      const std::int64_t end = replace.first_page + static_cast<std::int64_t>(replace.pages.size());
      if (replace.first_page < 0 || end > num_entries) {
        refuse(element(list, i), "pages within the request's " + interval(0, num_entries),
               interval(replace.first_page, end));
      }
      check_pages(replace.pages, i, list);
      if (!replace.pages.empty()) {
        request.changed_from = std::min(request.changed_from, replace.first_page * state_.page_size);
      }
      scratch_.replace_rows.push_back(request.row);
    }
  }

  void check_grow(const Deltas& deltas) {
    constexpr const char* list = "deltas.grow";
    constexpr std::int32_t longest = std::numeric_limits<std::int32_t>::max();
    next_ = 0;
    for (std::size_t i = 0; i < deltas.grow.size(); ++i) {
      const Deltas::Growth& grow = deltas.grow[i];
      Touched& request = touch(grow.request, list, i, ".request");
      if (grow.num_tokens < 0 || grow.num_tokens > longest - request.seq_len) {
        refuse(field(list, i, "num_tokens"), "0 to " + std::to_string(longest - request.seq_len),
               std::to_string(grow.num_tokens));
      }
      const std::int32_t seq_len = request.seq_len + grow.num_tokens;
      check_num_pages(grow.pages, ceil_div(seq_len, state_.page_size) - ceil_div(request.seq_len, state_.page_size), i,
                      list);
      check_pages(grow.pages, i, list);
      if (grow.num_tokens > 0) {
        request.changed_from = std::min(request.changed_from, request.seq_len);
      }
      request.seq_len = seq_len;
      scratch_.grow_rows.push_back(request.row);
    }
  }

  void check_qo_lens(const Deltas& deltas) {
    constexpr const char* list = "deltas.qo_lens";
    next_ = 0;
    for (std::size_t i = 0; i < deltas.qo_lens.size(); ++i) {
      Touched& request = touch(deltas.qo_lens[i].request, list, i, ".request");
      request.qo_len = deltas.qo_lens[i].qo_len;
      check_qo_len(request.qo_len, request.seq_len, i, list);
    }
    // Only a request that had no tokens may have had more query tokens than it has tokens now.
    for (std::size_t i = 0; i < deltas.grow.size(); ++i) {
      const Touched& request = scratch_.touched[scratch_.touched_of_row[scratch_.grow_rows[i]]];
      if (request.qo_len > request.seq_len && request.seq_len > 0) [[unlikely]] {
        refuse(field("deltas.grow", i, "num_tokens"), "at least qo_len " + std::to_string(request.qo_len) + " tokens",
               std::to_string(request.seq_len));
      }
    }
  }

  void check_join(const Deltas& deltas) {
    constexpr const char* list = "deltas.join";
    std::vector<std::pair<RequestId, std::size_t>> ids;
    ids.reserve(deltas.join.size());
    for (std::size_t i = 0; i < deltas.join.size(); ++i) {
      const Deltas::Join& join = deltas.join[i];
      const std::int32_t row = state_.index.find(join.request);
      if (row != none && !leaves(row)) {
        refuse(field(list, i, "request"), "an id that is not in the forest", std::to_string(join.request));
      }
      if (join.seq_len < 0) {
        refuse(field(list, i, "seq_len"), ">= 0", std::to_string(join.seq_len));
      }
      check_qo_len(join.qo_len, join.seq_len, i, list);
      check_num_pages(join.pages, ceil_div(join.seq_len, state_.page_size), i, list);
      check_pages(join.pages, i, list);
      ids.emplace_back(join.request, i);
    }
    std::sort(ids.begin(), ids.end());
    for (std::size_t i = 1; i < ids.size(); ++i) {
      if (ids[i].first == ids[i - 1].first) {
        refuse(field(list, ids[i].second, "request"), "an id that joins once", std::to_string(ids[i].first));
      }
    }
  }

  void check_qo_len(std::int32_t qo_len, std::int32_t seq_len, std::size_t i, const char* list) const {
    if (qo_len < 0) {
      refuse(field(list, i, "qo_len"), ">= 0", std::to_string(qo_len));
    }
    if (seq_len > 0 && qo_len > seq_len) {
      refuse(field(list, i, "qo_len"), "at most seq_len " + std::to_string(seq_len), std::to_string(qo_len));
    }
  }

  static void check_num_pages(std::span<const std::int32_t> pages, std::int32_t expected, std::size_t i,
                              const char* list) {
    if (pages.size() != static_cast<std::size_t>(expected)) {
      refuse(field(list, i, "pages"), std::to_string(expected) + " pages", std::to_string(pages.size()));
    }
  }

  void check_pages(std::span<const std::int32_t> pages, std::size_t i, const char* list) const {
    forest::check_pages(pages, state_.max_page,
                        [&](std::size_t page) { return field(list, i, element("pages", page)); });
  }

  const State& state_;
  Scratch& scratch_;
  std::size_t next_ = 0;  // caller's index of the request expected next
};

}  // namespace

void check_deltas(const Deltas& deltas, const State& state, Scratch& scratch) {
  DeltaCheck(state, scratch).run(deltas);
}

}  // namespace trunkline::forest
