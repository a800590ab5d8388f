// A PrefixTree's operations on every request of a batch in one call.
#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "binding/binding.hpp"
#include "trunkline/error.hpp"
#include "trunkline/prefix_tree.hpp"

namespace trunkline::python {
namespace {

using Int32s = Integers<std::int32_t>;
using Requests = Integers<RequestId>;

struct AppendedEach {
  int num_requests = 0;
  std::vector<std::int64_t> slots;
  std::vector<std::pair<int, PageCopy>> copies;  // by index into the requests
};

void check_size(const char* name, std::size_t expected, std::size_t got) {
  if (expected == got) return;
  throw Error(ErrorCode::invalid_argument, std::string(name) + ".shape", "[" + std::to_string(expected) + "]",
              "[" + std::to_string(got) + "]");
}

void check_distinct(std::span<const RequestId> requests) {
  if (std::adjacent_find(requests.begin(), requests.end(), std::greater_equal<>()) == requests.end()) return;  // usual
  std::vector<RequestId> sorted(requests.begin(), requests.end());
  std::sort(sorted.begin(), sorted.end());
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
  if (twice == sorted.end()) return;
  throw Error(ErrorCode::invalid_argument, "requests", "distinct ones", std::to_string(*twice) + " twice");
}

std::string element(const char* name, std::size_t index) { return name + ("[" + std::to_string(index) + "]"); }

void check_tokens(std::span<const std::int32_t> tokens) {
  const auto bad = std::find_if(tokens.begin(), tokens.end(), [](std::int32_t token) { return token < 0; });
  if (bad == tokens.end()) return;
  throw Error(ErrorCode::invalid_argument, element("tokens", static_cast<std::size_t>(bad - tokens.begin())),
              "at least 0", std::to_string(*bad));
}

AppendedEach append_each(PrefixTree& tree, nb::handle requests, nb::handle num_tokens, nb::handle tokens) {
  const Requests ids(requests, "requests");
  const Int32s counts(num_tokens, "num_tokens"), values(tokens, "tokens");
  check_size("num_tokens", ids.span().size(), counts.span().size());
  std::size_t total = 0;
  for (std::size_t i = 0; i < ids.span().size(); ++i) {
    static_cast<void>(tree.seq_len(ids.span()[i]));  // throws for one that the tree does not have
    if (counts.span()[i] < 0) {
      throw Error(ErrorCode::invalid_argument, element("num_tokens", i), "at least 0",
                  std::to_string(counts.span()[i]));
    }
    total += static_cast<std::size_t>(counts.span()[i]);
  }
  check_size("tokens", total, values.span().size());
  check_tokens(values);

  AppendedEach made;
  made.slots.reserve(total);
  for (const RequestId request : ids.span()) {
    const auto count = static_cast<std::size_t>(counts.span()[static_cast<std::size_t>(made.num_requests)]);
    try {
      const Appended appended = tree.append(request, values.span().subspan(made.slots.size(), count));
      if (appended.copy) made.copies.emplace_back(made.num_requests, *appended.copy);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::out_of_pages || made.num_requests == 0) throw;
      break;
    }
    const std::int32_t end = tree.seq_len(request);
    add_slots(tree, request, end - static_cast<std::int32_t>(count), end, made.slots);
    ++made.num_requests;
  }
  return made;
}

nb::list commit_each(PrefixTree& tree, nb::handle requests, nb::handle num_tokens, nb::handle tokens) {
  const Requests ids(requests, "requests");
  const Int32s lengths(num_tokens, "num_tokens"), values(tokens, "tokens");
  check_size("num_tokens", ids.span().size(), lengths.span().size());
  check_size("tokens", ids.span().size(), values.span().size());
  check_distinct(ids);
  check_tokens(values);
  for (std::size_t i = 0; i < ids.span().size(); ++i) {
    const RequestId request = ids.span()[i];
    const std::int32_t committed = tree.num_committed(request), seq_len = tree.seq_len(request);
    if (lengths.span()[i] > committed && lengths.span()[i] <= seq_len) continue;
    throw Error(
        ErrorCode::invalid_argument, element("num_tokens", i),
        "above " + std::to_string(committed) + " (committed) and at most " + std::to_string(seq_len) + " (seq_len)",
        std::to_string(lengths.span()[i]));
  }
  nb::list replaced;
  for (std::size_t i = 0; i < ids.span().size(); ++i) {
    const Committed made = tree.commit(ids.span()[i], lengths.span()[i], values.span().subspan(i, 1));
    if (!made.pages.empty()) replaced.append(nb::make_tuple(ids.span()[i], made.first_page, to_numpy(made.pages)));
  }
  return replaced;
}

}  // namespace

void add_slots(const PrefixTree& tree, RequestId request, std::int32_t begin, std::int32_t end,
               std::vector<std::int64_t>& slots) {
  const std::span<const std::int32_t> table = tree.block_table(request);
  const int page_size = tree.page_size();
  for (std::int32_t token = begin; token < end; ++token) {
    slots.push_back(std::int64_t{table[static_cast<std::size_t>(token / page_size)]} * page_size + token % page_size);
  }
}

void bind_tree_batch(nb::module_& m, nb::class_<PrefixTree>& tree) {
  nb::class_<AppendedEach>(m, "AppendedEach", "What `PrefixTree.append_each` did.")
      .def_ro("num_requests", &AppendedEach::num_requests,
              "How many of the requests, from the first, have their tokens.")
      .def_prop_ro(
          "slots", [](const AppendedEach& self) { return to_numpy(self.slots); },
          nb::sig("def slots(self) -> trunkline.typing.Int64Array"), "Of these tokens, as `PrefixTree.slots` counts.")
      .def_prop_ro(
          "copies",
          [](const AppendedEach& self) {
            nb::list copies;
            for (const auto& [index, copy] : self.copies) copies.append(nb::make_tuple(index, nb::cast(copy)));
            return copies;
          },
          nb::sig("def copies(self) -> list[tuple[int, PageCopy]]"),
          "Index of a request and its copy, in the order in which to carry them out.");
  tree.def("append_each", &append_each, nb::arg("requests"), nb::arg("num_tokens"), nb::arg("tokens"),
           nb::sig("def append_each(self, requests: trunkline.typing.Ints, num_tokens: trunkline.typing.Ints, tokens: "
                   "trunkline.typing.Ints) -> AppendedEach"),
           R"(`append` for many requests: a step of a batch in one call.

Parameters
----------
requests : int64 [num_requests]
num_tokens : int32 [num_requests]
tokens : int32 [sum(num_tokens)]
    One request's after the other's.

Returns
-------
AppendedEach
    When pages run out on the way, what was done until then.

Raises
------
ValueError
    Nothing has changed then.
MemoryError
    Not even the first request gets the pages it needs; nothing has changed.)");
  tree.def("commit_each", &commit_each, nb::arg("requests"), nb::arg("num_tokens"), nb::arg("tokens"),
           nb::sig("def commit_each(self, requests: trunkline.typing.Ints, num_tokens: trunkline.typing.Ints, tokens: "
                   "trunkline.typing.Ints) -> list[tuple[int, int, trunkline.typing.Int32Array]]"),
           R"(`commit` for many distinct requests, naming the last token of each.

An engine that runs ahead of its device appends any number in place of a token that is still to be sampled.

Parameters
----------
requests : int64 [num_requests]
num_tokens : int32 [num_requests]
    Above what is committed, at most the request's length.
tokens : int32 [num_requests]
    What each request's token ``num_tokens - 1`` is.

Returns
-------
list of (request, first_page, pages)
    Where pages were exchanged: what `Forest.advance` takes as `replace`.

Raises
------
ValueError
    Nothing has changed then.)");
}

}  // namespace trunkline::python
