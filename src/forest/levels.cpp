#include "forest/levels.hpp"

#include <algorithm>
#include <limits>
#include <string>

#include "base/check.hpp"
#include "forest/block_tables.hpp"

namespace trunkline::forest {
namespace {

class LevelCheck {
 public:
  LevelCheck(std::span<const Level> levels, int page_size, std::int32_t max_page)
      : levels_(levels), page_size_(page_size), max_page_(max_page) {}

  std::vector<std::int32_t> run() {
    for (level_ = 0; level_ < levels_.size(); ++level_) {
      check_indptr("request_indptr", level().request_indptr);
      check_indptr("page_indptr", level().page_indptr);
      if (level_ == 0) {
        require(level().request_indptr[0] == 0, name("request_indptr[0]").c_str(), "0", level().request_indptr[0]);
        requests_.resize(level().request_indptr.back());
      }
      check_sizes();
      above_ = 0;
      for (std::size_t group = 0; group < level().num_tokens.size(); ++group) {
        check_pages_of(group);
        check_nesting(group);
        add_tokens(group);
      }
    }
    std::vector<std::int32_t> seq_lens;
    seq_lens.reserve(requests_.size());
    for (const Request& request : requests_) {
      seq_lens.push_back(request.seq_len);
    }
    return seq_lens;
  }

 private:
  struct Request {
    std::int32_t seq_len = 0;
    std::size_t last_level = 0, last_group = 0;  // that gave it tokens
  };

  const Level& level() const { return levels_[level_]; }
  std::string name(const std::string& field) const { return element("levels", level_) + "." + field; }

  void check_indptr(const char* field, std::span<const std::int32_t> indptr) const {
    require(!indptr.empty(), name(field).c_str(), "one entry more than groups", "none");
    for (std::size_t i = 0; i < indptr.size(); ++i) {
      const std::int32_t least = i == 0 ? 0 : indptr[i - 1];
      if (indptr[i] < least) {
        refuse(name(element(field, i)), "at least " + std::to_string(least), std::to_string(indptr[i]));
      }
    }
  }

  void check_sizes() const {
    const std::size_t num_groups = level().request_indptr.size() - 1;
    require(level().page_indptr.size() == num_groups + 1, name("page_indptr").c_str(),
            std::to_string(num_groups + 1) + " entries", level().page_indptr.size());
    require(level().num_tokens.size() == num_groups, name("num_tokens").c_str(),
            std::to_string(num_groups) + " entries", level().num_tokens.size());
    require(static_cast<std::size_t>(level().page_indptr.back()) <= level().page_indices.size(),
            name("page_indptr").c_str(),
            "entries up to the number of page indices, " + std::to_string(level().page_indices.size()),
            level().page_indptr.back());
  }

  void check_pages_of(std::size_t group) const {
    const std::int32_t num_tokens = level().num_tokens[group];
    if (num_tokens < 0) {
      refuse(name(element("num_tokens", group)), ">= 0", std::to_string(num_tokens));
    }
    const std::int32_t begin = level().page_indptr[group], end = level().page_indptr[group + 1];
    if (end - begin != ceil_div(num_tokens, page_size_)) {
      refuse(name(element("page_indptr", group + 1)),
             std::to_string(ceil_div(num_tokens, page_size_)) + " pages for the " + std::to_string(num_tokens) +
                 " tokens of group " + std::to_string(group),
             std::to_string(end - begin));
    }
    check_pages(level().page_indices.subspan(begin, end - begin), max_page_,
                [&](std::size_t page) { return name(element("page_indices", begin + page)); });
  }

  void check_nesting(std::size_t group) {
    const std::int32_t begin = level().request_indptr[group], end = level().request_indptr[group + 1];
    if (level_ == 0 || begin == end) {
      return;
    }
    const auto above = levels_[level_ - 1].request_indptr;
    while (above_ + 1 < above.size() && above[above_ + 1] <= begin) {
      ++above_;
    }
    if (above_ + 1 == above.size() || begin < above[above_] || end > above[above_ + 1]) {
      refuse(name(element("request_indptr", group)), "a group within one group of level " + std::to_string(level_ - 1),
             "requests " + interval(begin, end));
    }
  }

  void add_tokens(std::size_t group) {
    const std::int32_t num_tokens = level().num_tokens[group];
    const std::int32_t begin = level().request_indptr[group], end = level().request_indptr[group + 1];
    if (num_tokens == 0 || begin == end) {
      return;
    }
    const Request& first = requests_[begin];  // nesting makes all of the group equal so far
    if (first.seq_len % page_size_ != 0) {
      refuse(element("levels", first.last_level) + "." + element("num_tokens", first.last_group),
             "a multiple of page_size " + std::to_string(page_size_) + ", because group " + std::to_string(group) +
                 " of level " + std::to_string(level_) + " goes on after it",
             std::to_string(levels_[first.last_level].num_tokens[first.last_group]));
    }
    const std::int32_t room = std::numeric_limits<std::int32_t>::max() - first.seq_len;
    if (num_tokens > room) {
      refuse(name(element("num_tokens", group)), "at most " + std::to_string(room), std::to_string(num_tokens));
    }
    std::fill(requests_.begin() + begin, requests_.begin() + end, Request{first.seq_len + num_tokens, level_, group});
  }

  const std::span<const Level> levels_;
  const int page_size_;
  const std::int32_t max_page_;
  std::vector<Request> requests_;
  std::size_t level_ = 0;  // being checked
  std::size_t above_ = 0;  // the group of the level above that the last one checked lies in
};

}  // namespace

std::vector<std::int32_t> check_levels(std::span<const Level> levels, int page_size, std::int32_t max_page) {
  return LevelCheck(levels, page_size, max_page).run();
}

std::span<const std::int32_t> LevelRows::next() {
  pages_.clear();
  for (std::size_t i = 0; i < levels_.size(); ++i) {
    const Level& level = levels_[i];
    std::size_t& group = groups_[i];
    while (group < level.num_tokens.size() && level.request_indptr[group + 1] <= request_) {
      ++group;
    }
    if (group < level.num_tokens.size() && level.request_indptr[group] <= request_) {
      pages_.insert(pages_.end(), level.page_indices.begin() + level.page_indptr[group],
                    level.page_indices.begin() + level.page_indptr[group + 1]);
    }
  }
  ++request_;
  return pages_;
}

}  // namespace trunkline::forest
