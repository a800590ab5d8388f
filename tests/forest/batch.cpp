#include "forest/batch.hpp"

#include <algorithm>

namespace trunkline::test {

Batch Batch::of(int page_size, const std::vector<Plain>& requests) {
  Batch batch;
  batch.page_size = page_size;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    batch.requests.push_back({static_cast<RequestId>(i), requests[i].seq_len, 1, requests[i].pages});
  }
  return batch;
}

Tables::Tables(const Batch& batch, bool dense, int spare) {
  for (const Request& request : batch.requests) {
    max_pages = std::max(max_pages, static_cast<std::int32_t>(request.pages.size()) + spare);
  }
  if (!dense) {
    indptr.push_back(0);
  }
  for (const Request& request : batch.requests) {
    entries.insert(entries.end(), request.pages.begin(), request.pages.end());
    const std::size_t unused = dense ? max_pages - request.pages.size() : spare;
    entries.insert(entries.end(), unused, poison);
    if (!dense) {
      indptr.push_back(static_cast<std::int32_t>(entries.size()));
    }
    seq_lens.push_back(request.seq_len);
    qo_lens.push_back(request.qo_len);
    ids.push_back(request.id);
  }
}

BlockTables Tables::view() const {
  return indptr.empty() ? BlockTables::dense(entries, static_cast<int>(seq_lens.size()), max_pages)
                        : BlockTables::csr(indptr, entries);
}

Forest Batch::dense(int spare, std::int64_t num_pages) const {
  const Tables tables(*this, true, spare);
  return Forest::from_block_tables(tables.view(), tables.seq_lens, page_size, tables.options(num_pages));
}

Forest Batch::csr(int spare, std::int64_t num_pages) const {
  const Tables tables(*this, false, spare);
  return Forest::from_block_tables(tables.view(), tables.seq_lens, page_size, tables.options(num_pages));
}

void Batch::apply(const Deltas& deltas) {
  const auto named = [this](RequestId id) -> Request& {
    return *std::find_if(requests.begin(), requests.end(), [id](const Request& request) { return request.id == id; });
  };
  for (const RequestId id : deltas.leave) {
    std::erase_if(requests, [id](const Request& request) { return request.id == id; });
  }
  for (const auto& replace : deltas.replace) {
    std::copy(replace.pages.begin(), replace.pages.end(), named(replace.request).pages.begin() + replace.first_page);
  }
  for (const auto& grow : deltas.grow) {
    Request& request = named(grow.request);
    request.seq_len += grow.num_tokens;
    request.pages.insert(request.pages.end(), grow.pages.begin(), grow.pages.end());
  }
  for (const auto& qo_len : deltas.qo_lens) {
    named(qo_len.request).qo_len = qo_len.qo_len;
  }
  for (const auto& join : deltas.join) {
    requests.push_back({join.request, join.seq_len, join.qo_len, join.pages});
  }
}

namespace {

/// Whether both requests hold the token at `position` in the same slot, and all tokens before it.
bool share(const Batch& batch, std::int32_t a, std::int32_t b, std::int32_t position) {
  const Request &first = batch.requests[a], &second = batch.requests[b];
  if (position >= first.seq_len || position >= second.seq_len) {
    return false;
  }
  for (std::int32_t entry = 0; entry <= position / batch.page_size; ++entry) {
    if (first.pages[entry] != second.pages[entry]) {
      return false;
    }
  }
  return true;
}

bool all_share(const Batch& batch, const std::vector<std::int32_t>& requests, std::int32_t position) {
  return std::all_of(requests.begin(), requests.end(),
                     [&](std::int32_t request) { return share(batch, requests[0], request, position); });
}

/// Lists what lies below a node (or the root of all) that `requests`, ascending, share and that ends at `position`.
void list_below(const Batch& batch, const std::vector<std::int32_t>& requests, std::int32_t position,
                std::int32_t parent, NaiveForest& result) {
  std::vector<std::int32_t> going_on;
  for (const std::int32_t request : requests) {
    if (batch.requests[request].seq_len == position) {
      result.request_order.push_back(request);
    } else {
      going_on.push_back(request);
    }
  }
  while (!going_on.empty()) {
    std::vector<std::int32_t> together, others;
    for (const std::int32_t request : going_on) {
      (share(batch, going_on[0], request, position) ? together : others).push_back(request);
    }
    std::int32_t end = position + 1;
    while (all_share(batch, together, end)) {
      ++end;
    }
    const auto node = static_cast<std::int32_t>(result.nodes.size());
    const auto request_begin = static_cast<std::int32_t>(result.request_order.size());
    result.nodes.push_back(
        {parent, position, end - position, request_begin, request_begin + static_cast<std::int32_t>(together.size())});
    list_below(batch, together, end, node, result);
    going_on = others;
  }
}

std::string text(std::int64_t value) { return std::to_string(value); }

std::string text(const Node& node) {
  return "{parent " + text(node.parent) + ", tokens " + text(node.first_token) + " + " + text(node.num_tokens) +
         ", requests " + text(node.request_begin) + " to " + text(node.request_end) + "}";
}

template <class Range>
std::string list(const Range& range) {
  std::string result;
  for (const auto& value : range) {
    result += text(value) + " ";
  }
  return result;
}

template <class A, class B>
std::string compare(const char* what, const A& expected, const B& got) {
  if (std::equal(expected.begin(), expected.end(), got.begin(), got.end())) {
    return "";
  }
  return std::string(what) + ": expected " + list(expected) + "got " + list(got) + "\n";
}

std::span<const std::int32_t> used_entries(const Forest& forest, int request) {
  const Forest::Table table = forest.table();
  const std::size_t begin = static_cast<std::size_t>(forest.table_rows()[request]) * table.row_stride;
  const std::int32_t seq_len = forest.seq_lens()[request];
  return table.entries.subspan(begin, seq_len / forest.page_size() + (seq_len % forest.page_size() != 0));
}

}  // namespace

NaiveForest::NaiveForest(const Batch& batch) {
  std::vector<std::int32_t> all(batch.requests.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i] = static_cast<std::int32_t>(i);
  }
  list_below(batch, all, 0, -1, *this);
}

std::string difference(const Forest& forest, const Batch& batch) {
  const Tables expected(batch, true, 0);
  const NaiveForest naive(batch);
  std::string result = compare("seq_lens", expected.seq_lens, forest.seq_lens()) +
                       compare("qo_lens", expected.qo_lens, forest.qo_lens()) +
                       compare("request_ids", expected.ids, forest.request_ids()) +
                       compare("nodes", naive.nodes, forest.nodes()) +
                       compare("request_order", naive.request_order, forest.request_order());
  if (!result.empty()) {
    return result;
  }
  std::int64_t total = 0, distinct = 0, queries = 0;
  std::vector<std::int32_t> rows;
  for (int i = 0; i < forest.num_requests(); ++i) {
    total += batch.requests[i].seq_len;
    queries += batch.requests[i].qo_len;
    rows.push_back(forest.table_rows()[i]);
    result += compare("table", batch.requests[i].pages, used_entries(forest, i));
  }
  for (const Node& node : naive.nodes) {
    distinct += node.num_tokens;
  }
  std::sort(rows.begin(), rows.end());
  if (std::adjacent_find(rows.begin(), rows.end()) != rows.end()) {
    result += "two requests in one table row\n";
  }
  result += compare("page_size, total, distinct and query tokens",
                    std::vector<std::int64_t>{batch.page_size, total, distinct, queries},
                    std::vector<std::int64_t>{forest.page_size(), forest.total_tokens(), forest.distinct_tokens(),
                                              forest.num_query_tokens()});
  return result;
}

void Mirror::refresh(const Forest& forest) {
  const Forest::Table table = forest.table();
  rows_.resize(std::max<std::size_t>(rows_.size(), table.num_rows));
  const auto copy = [&](std::int32_t row, std::int32_t begin, std::int32_t end) {
    const std::int32_t* source = table.entries.data() + static_cast<std::ptrdiff_t>(row) * table.row_stride;
    rows_[row].resize(std::max<std::size_t>(rows_[row].size(), end), Tables::poison);
    std::copy(source + begin, source + end, rows_[row].begin() + begin);
  };
  if (forest.uid() == uid_ && forest.version() == version_ + 1) {
    for (const Forest::TableChange& change : forest.table_changes()) {
      copy(change.row, change.begin, change.end);
    }
  } else if (forest.uid() != uid_ || forest.version() != version_) {
    for (int i = 0; i < forest.num_requests(); ++i) {
      copy(forest.table_rows()[i], 0, static_cast<std::int32_t>(used_entries(forest, i).size()));
    }
  }
  uid_ = forest.uid();
  version_ = forest.version();
}

std::string Mirror::difference(const Forest& forest) const {
  std::string result;
  for (int i = 0; i < forest.num_requests(); ++i) {
    const auto used = used_entries(forest, i);
    const auto& row = rows_[forest.table_rows()[i]];
    if (row.size() < used.size()) {
      result += "mirror: row too short\n";
    } else {
      result += compare("mirror", used, std::vector<std::int32_t>(row.begin(), row.begin() + used.size()));
    }
  }
  return result;
}

}  // namespace trunkline::test
