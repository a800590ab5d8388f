#include "forest/state.hpp"

#include <algorithm>
#include <atomic>
#include <string>

#include "base/check.hpp"
#include "forest/block_tables.hpp"

namespace trunkline::forest {
namespace {

std::uint64_t new_uid() noexcept {
  static std::atomic<std::uint64_t> last{0};
  return last.fetch_add(1, std::memory_order_relaxed) + 1;
}

}  // namespace

State::State() : uid(new_uid()) {}

State::State(const State& other)
    : page_size(other.page_size),
      max_page(other.max_page),
      uid(new_uid()),
      seq_lens(other.seq_lens),
      qo_lens(other.qo_lens),
      table_rows(other.table_rows),
      request_ids(other.request_ids),
      num_query_tokens(other.num_query_tokens),
      total_tokens(other.total_tokens),
      table(other.table),
      end_nodes(other.end_nodes),
      requests(other.requests),
      index(other.index),
      nodes(other.nodes),
      request_order(other.request_order),
      distinct_tokens(other.distinct_tokens) {}

void State::build(int tokens_per_page, std::span<const std::int32_t> lengths, const BatchOptions& options,
                  const std::function<std::span<const std::int32_t>(std::size_t)>& pages_of) {
  const std::size_t num_requests = lengths.size();
  std::vector<RequestIndex::Entry> ids(num_requests);
  for (std::size_t request = 0; request < num_requests; ++request) {
    const RequestId id = options.request_ids.empty() ? static_cast<RequestId>(request) : options.request_ids[request];
    ids[request] = {id, static_cast<std::int32_t>(request)};  // rows of a new table count up
  }
  if (const auto twice = index.build(ids)) {
    refuse("request_ids", "unique ids", std::to_string(*twice) + " twice");
  }
  page_size = tokens_per_page;
  max_page = max_page_of(options.num_pages);
  for (auto* by_request : {&seq_lens, &qo_lens, &table_rows, &end_nodes, &requests}) {
    by_request->reserve(num_requests);
  }
  request_ids.reserve(num_requests);
  const std::int32_t longest = num_requests == 0 ? 0 : *std::max_element(lengths.begin(), lengths.end());
  table = PageTable(static_cast<int>(num_requests), ceil_div(longest, page_size));
  scratch.tree.load(table, page_size, {});
  scratch.tree.prepare_inserts(num_requests);
  // One request at a time, so that its row is read from memory once: checked, copied and compared while in cache.
  for (std::size_t request = 0; request < num_requests; ++request) {
    const std::int32_t seq_len = lengths[request];
    const auto pages = pages_of(request);
    check_pages(pages, max_page, [request](std::size_t entry) { return element(element("tables", request), entry); });
    const std::int32_t qo_len = options.qo_lens.empty() ? 1 : options.qo_lens[request];
    const std::int32_t row = add_request(ids[request].id, seq_len, qo_len, pages);
    end_nodes[row] = scratch.tree.insert(row, seq_len, SharingTree::root);
  }
  emit();
}

std::int32_t State::add_request(RequestId id, std::int32_t seq_len, std::int32_t qo_len,
                                std::span<const std::int32_t> pages) {
  const std::int32_t row = table.acquire();
  table.append(row, pages);
  end_nodes.resize(table.num_rows(), none);
  requests.resize(table.num_rows(), none);
  end_nodes[row] = none;
  requests[row] = static_cast<std::int32_t>(seq_lens.size());
  seq_lens.push_back(seq_len);
  qo_lens.push_back(qo_len);
  request_ids.push_back(id);
  table_rows.push_back(row);
  total_tokens += seq_len;
  num_query_tokens += qo_len;
  return row;
}

void State::emit() {
  scratch.tree.emit(table_rows, end_nodes, nodes, request_order);
  distinct_tokens = 0;
  for (const Node& node : nodes) {
    distinct_tokens += node.num_tokens;
  }
}

}  // namespace trunkline::forest
