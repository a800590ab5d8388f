// A step of a forest, in time of its changes, nodes and requests.
//
// A request that is alone in its last node and changed after that node's first token (in decode nearly all are) only
// changes the node's length; the arrays are patched in place. For the others the nodes are loaded into a SharingTree,
// the requests are cut at their first change and let down again from there.
#include "base/check.hpp"
#include "forest/delta_check.hpp"
#include "forest/state.hpp"
#include "trunkline/forest.hpp"

namespace trunkline {
namespace forest {

void State::write_tables(const Deltas& deltas) {
  changes.clear();
  for (std::size_t i = 0; i < deltas.replace.size(); ++i) {
    const Deltas::Replacement& replace = deltas.replace[i];
    const std::int32_t row = scratch.replace_rows[i];
    if (!replace.pages.empty()) {
      table.replace(row, replace.first_page, replace.pages);
      changes.push_back(
          {row, replace.first_page, replace.first_page + static_cast<std::int32_t>(replace.pages.size())});
    }
  }
  for (std::size_t i = 0; i < deltas.grow.size(); ++i) {
    const Deltas::Growth& grow = deltas.grow[i];
    const std::int32_t row = scratch.grow_rows[i];
    if (!grow.pages.empty()) {
      const auto begin = static_cast<std::int32_t>(table.pages(row).size());
      table.append(row, grow.pages);
      changes.push_back({row, begin, begin + static_cast<std::int32_t>(grow.pages.size())});
    }
  }
}

void State::update_requests() {
  scratch.moved.clear();
  for (const Scratch::Touched& touched : scratch.touched) {
    if (touched.leaves) {
      continue;
    }
    const std::int32_t request = requests[touched.row];
    const std::int32_t growth = touched.seq_len - seq_lens[request];
    total_tokens += growth;
    num_query_tokens += touched.qo_len - qo_lens[request];
    seq_lens[request] = touched.seq_len;
    qo_lens[request] = touched.qo_len;
    if (touched.changed_from == Scratch::Touched::unchanged) {
      continue;
    }
    const std::int32_t end_node = end_nodes[touched.row];
    if (end_node != none) {
      Node& node = nodes[end_node];
      if (node.request_end - node.request_begin == 1 && touched.changed_from > node.first_token) {
        node.num_tokens += growth;
        distinct_tokens += growth;
        continue;
      }
    }
    scratch.moved.push_back({touched.row, touched.changed_from});
  }
}

void State::remove_requests() {
  for (const std::int32_t row : scratch.leave_rows) {
    requests[row] = none;
  }
  std::size_t kept = 0;
  for (std::size_t request = 0; request < seq_lens.size(); ++request) {
    const std::int32_t row = table_rows[request];
    if (requests[row] == none) {
      total_tokens -= seq_lens[request];
      num_query_tokens -= qo_lens[request];
      continue;
    }
    seq_lens[kept] = seq_lens[request];
    qo_lens[kept] = qo_lens[request];
    request_ids[kept] = request_ids[request];
    table_rows[kept] = row;
    requests[row] = static_cast<std::int32_t>(kept);
    ++kept;
  }
  for (auto* by_request : {&seq_lens, &qo_lens, &table_rows}) {
    by_request->resize(kept);
  }
  request_ids.resize(kept);
  index.erase_rows(requests);
  table.release(scratch.leave_rows);
}

void State::join_requests(const Deltas& deltas) {
  std::vector<RequestIndex::Entry> joined;
  joined.reserve(deltas.join.size());
  for (const Deltas::Join& join : deltas.join) {
    const std::int32_t row = add_request(join.request, join.seq_len, join.qo_len, join.pages);
    joined.push_back({join.request, row});
    scratch.moved.push_back({row, 0});
    if (!join.pages.empty()) {
      changes.push_back({row, 0, static_cast<std::int32_t>(join.pages.size())});
    }
  }
  index.insert(joined);
}

void State::restructure() {
  SharingTree& tree = scratch.tree;
  tree.load(table, page_size, nodes);
  for (const std::int32_t row : table_rows) {
    end_nodes[row] = SharingTree::loaded(end_nodes[row]);
  }
  for (const Scratch::Moved& moved : scratch.moved) {
    end_nodes[moved.row] = tree.cut(end_nodes[moved.row], moved.changed_from);
  }
  for (const std::int32_t row : table_rows) {
    tree.support(end_nodes[row], row);
  }
  if (!scratch.moved.empty()) {
    tree.prepare_inserts(scratch.moved.size());
    for (const Scratch::Moved& moved : scratch.moved) {
      end_nodes[moved.row] = tree.insert(moved.row, seq_lens[requests[moved.row]], end_nodes[moved.row]);
    }
  }
  emit();
}

void State::advance(const Deltas& deltas) {
  check_deltas(deltas, *this, scratch);
  ++version;
  write_tables(deltas);
  update_requests();
  if (!deltas.leave.empty()) {
    remove_requests();
  }
  if (!deltas.join.empty()) {
    join_requests(deltas);
  }
  if (!deltas.leave.empty() || !scratch.moved.empty()) {
    restructure();
  }
}

}  // namespace forest

void Deltas::clear() {
  leave.clear();
  replace.clear();
  grow.clear();
  qo_lens.clear();
  join.clear();
}

void Forest::advance(const Deltas& deltas) {
  require(impl_ != nullptr, "forest", "one made by a builder", "one without page size");
  impl_->advance(deltas);
}

}  // namespace trunkline
