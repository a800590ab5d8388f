// PrefixTree::check_integrity: counts everything anew, from nodes and requests alone, and compares.
#include <algorithm>
#include <string>
#include <unordered_set>
#include <vector>

#include "base/check.hpp"
#include "tree/impl.hpp"

namespace trunkline {
namespace tree {
namespace {

void expect(bool holds, const std::string& what, long long expected, long long got) {
  if (!holds) {
    throw Error(ErrorCode::corrupt, what, std::to_string(expected), std::to_string(got));
  }
}

void expect_equal(const std::string& what, long long expected, long long got) {
  expect(expected == got, what, expected, got);
}

std::string name(std::int32_t node) { return "node " + std::to_string(node); }

bool is_free(const Node& node) { return node.start < 0; }

}  // namespace

void RadixTree::check_integrity(std::span<const std::int32_t> direct_holds) const {
  const auto count = static_cast<std::size_t>(num_node_indices());
  std::vector<std::int32_t> num_children(count), num_holds(direct_holds.begin(), direct_holds.end());
  std::int64_t live = 0;
  std::int64_t evictable = 0;
  for (std::int32_t i = 1; i < num_node_indices(); ++i) {
    const Node& n = node(i);
    if (is_free(n)) {
      continue;
    }
    ++live;
    expect(!n.tokens.empty(), name(i) + " tokens", 1, 0);
    expect_equal(name(i) + " start", node(n.parent).end(), n.start);
    expect_equal(name(i) + " pages", ceil_div(n.end(), page_size_) - n.start / page_size_, n.pages.size());
    expect_equal(name(i) + " edge", i, children_.find(n.parent, n.tokens.front()));
    ++num_children[static_cast<std::size_t>(n.parent)];
    num_holds[static_cast<std::size_t>(n.parent)] += n.num_holds > 0;
    evictable += n.num_holds == 0 ? n.num_own_pages() : 0;

    std::unordered_set<std::int32_t> above;
    for (std::int32_t a = n.parent; a != root; a = node(a).parent) {
      above.insert(node(a).pages.view().begin(), node(a).pages.view().end());
    }
    for (std::int32_t p = 0; p < n.pages.size(); ++p) {
      const bool shared = p == 0 && n.shares_first_page;
      expect_equal(name(i) + " page " + std::to_string(p) + " in an ancestor", shared, above.contains(n.pages[p]));
    }
    expect(!n.shares_first_page || n.start % page_size_ != 0, name(i) + " first slot of a shared page", 1, 0);
  }
  expect_equal("number of nodes", live, num_nodes());
  expect_equal("number of edges", live, static_cast<long long>(children_.size()));
  expect_equal("evictable pages", evictable, num_evictable_);

  std::vector<std::int32_t> use_order(count, -1);
  std::int32_t linked = 0;
  for (std::int32_t i = node(root).newer, previous = root; i != root; previous = i, i = node(i).newer) {
    expect_equal(name(i) + " predecessor in the order of use", previous, node(i).older);
    expect_equal(name(i) + " times in the order of use", -1, use_order[static_cast<std::size_t>(i)]);
    use_order[static_cast<std::size_t>(i)] = linked++;
  }
  for (std::int32_t i = 1; i < num_node_indices(); ++i) {
    const Node& n = node(i);
    if (is_free(n)) {
      continue;
    }
    const auto index = static_cast<std::size_t>(i);
    expect_equal(name(i) + " children", num_children[index], n.num_children);
    expect_equal(name(i) + " holds", num_holds[index], n.num_holds);
    expect_equal(name(i) + " is in the order of use", n.num_holds == 0, use_order[index] >= 0);
    if (n.num_holds == 0 && n.parent != root && node(n.parent).num_holds == 0) {
      const std::int32_t parent_order = use_order[static_cast<std::size_t>(n.parent)];
      expect(parent_order > use_order[index], name(i) + " parent later in the order of use", 1, 0);
    }
  }
}

}  // namespace tree

using tree::expect;
using tree::expect_equal;

void PrefixTree::Impl::check_requests() const {
  const std::int32_t page_size = ledger.page_size();
  for (const auto& [id, request] : requests) {
    const std::string name = "request " + std::to_string(id);
    const std::int32_t committed = request.committed;
    expect_equal(name + " node end", nodes.node(request.node).end(), committed);
    expect_equal(name + " block table", ceil_div(request.seq_len(), page_size), request.table.size());

    std::vector<std::int32_t> path(static_cast<std::size_t>(ceil_div(committed, page_size)));
    nodes.block_table({request.node, committed}, path);
    const std::int32_t num_shared = request.tail.empty() ? request.table.size() : committed / page_size;
    for (std::int32_t i = 0; i < num_shared; ++i) {
      expect_equal(name + " page " + std::to_string(i), path[static_cast<std::size_t>(i)], request.table[i]);
    }
    for (std::int32_t i = num_shared; i < request.table.size(); ++i) {
      // The request is its writer: nobody else fills it further, and if the tree has it, then on the request's path.
      const tree::PageState& state = ledger.state(request.table[i]);
      const std::string page = name + " own page " + std::to_string(i);
      expect_equal(page + " filled", std::min(request.seq_len() - i * page_size, page_size), state.filled);
      expect(state.committed <= std::max(0, committed - i * page_size), page + " committed", committed - i * page_size,
             state.committed);
      bool on_path = false;
      for (std::int32_t n = request.node; n != tree::RadixTree::root; n = nodes.node(n).parent) {
        on_path = on_path || nodes.node(n).pages.back() == request.table[i];
      }
      expect_equal(page + " in the tree", on_path, state.num_nodes > 0);
    }
  }
}

void PrefixTree::check_integrity() const {
  const Impl& impl = *impl_;
  const std::int32_t page_size = impl.ledger.page_size();

  std::vector<std::int32_t> direct_holds(static_cast<std::size_t>(impl.nodes.num_node_indices()));
  const auto add_hold = [&](const std::string& holder, std::int32_t node) {
    const bool live = node == tree::RadixTree::root || !tree::is_free(impl.nodes.node(node));
    expect(live, holder + " node in use", 1, 0);
    direct_holds[static_cast<std::size_t>(node)] += node != tree::RadixTree::root;
  };
  for (const auto& [id, request] : impl.requests) {
    add_hold("request " + std::to_string(id), request.node);
  }
  for (const auto& [id, node] : impl.locks) {
    add_hold("lock " + std::to_string(id), node);
  }
  impl.nodes.check_integrity(direct_holds);
  impl.check_requests();

  struct Count {
    std::int32_t nodes = 0, requests = 0, committed = 0, filled = 0;
  };
  std::vector<Count> counts(static_cast<std::size_t>(impl.pool->num_pages()));
  for (std::int32_t i = 1; i < impl.nodes.num_node_indices(); ++i) {
    const tree::Node& node = impl.nodes.node(i);
    for (std::int32_t p = 0; p < node.pages.size(); ++p) {
      Count& count = counts[static_cast<std::size_t>(node.pages[p])];
      const std::int32_t end = std::min(node.end() - (node.start / page_size + p) * page_size, page_size);
      ++count.nodes;
      count.committed = std::max(count.committed, end);
      count.filled = count.committed;
    }
  }
  for (const auto& [id, request] : impl.requests) {
    for (std::int32_t p = 0; p < request.table.size(); ++p) {
      Count& count = counts[static_cast<std::size_t>(request.table[p])];
      ++count.requests;
      count.filled = std::max(count.filled, std::min(request.seq_len() - p * page_size, page_size));
    }
  }
  std::int64_t num_pages = 0;
  std::int64_t filled_slots = 0;
  for (std::int32_t page = 0; page < impl.pool->num_pages(); ++page) {
    const Count& count = counts[static_cast<std::size_t>(page)];
    const tree::PageState& state = impl.ledger.state(page);
    const std::string name = "page " + std::to_string(page);
    expect_equal(name + " nodes", count.nodes, state.num_nodes);
    expect_equal(name + " committed", count.committed, state.committed);
    expect_equal(name + " filled", count.filled, state.filled);
    const std::int32_t references = (count.nodes > 0) + count.requests;
    if (references > 0) {  // else it is free or somebody else's
      expect_equal(name + " references", references, impl.pool->ref_count(page));
    }
    num_pages += references > 0;
    filled_slots += count.filled;
  }
  expect_equal("pages held", num_pages, impl.ledger.num_pages());
  expect_equal("filled slots", filled_slots, impl.ledger.filled_slots());
}

}  // namespace trunkline
