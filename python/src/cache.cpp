// PagePool and PrefixTree.
#include <nanobind/stl/optional.h>

#include <optional>
#include <vector>

#include "binding/binding.hpp"
#include "trunkline/error.hpp"
#include "trunkline/kv_ops.hpp"
#include "trunkline/page_pool.hpp"
#include "trunkline/prefix_tree.hpp"

namespace trunkline::python {
namespace {

using Pages = std::vector<std::int32_t>;

struct PyInsertion {
  RequestId request;
  std::int32_t num_cached_tokens;
  std::optional<PageCopy> copy;
};
struct PyAppended {
  std::optional<PageCopy> copy;
  Pages new_pages;
};
struct PyCommitted {
  std::int32_t first_page;
  Pages pages;
};
struct PyPrefixLock {
  PrefixLock lock;
  nb::object tree;
};

void bind_pool(nb::module_& m) {
  nb::class_<PagePool>(m, "PagePool", R"(Reference-counted page numbers 0 to ``num_pages - 1`` of a KV cache.

The memory behind them is never seen here. Deterministic: the page released last is handed out first.

Parameters
----------
num_pages : int
    At least 1.
page_size : int
    Tokens of a page, 1 to 1024.

Raises
------
ValueError
    For sizes outside these.

Examples
--------
>>> import trunkline as tl
>>> pool = tl.PagePool(num_pages=4, page_size=16)
>>> pool.allocate(3)
array([0, 1, 2], dtype=int32)
>>> pool.release([1]), pool.num_free
(1, 2)
)")
      .def(nb::init<std::int32_t, int>(), nb::arg("num_pages"), nb::arg("page_size"))
      .def_prop_ro("num_pages", &PagePool::num_pages)
      .def_prop_ro("page_size", &PagePool::page_size)
      .def_prop_ro("num_free", &PagePool::num_free)
      .def_prop_ro("num_used", &PagePool::num_used)
      .def_prop_ro("peak_used", &PagePool::peak_used, "The largest ``num_used`` so far.")
      .def_prop_ro("memory_bytes", &PagePool::memory_bytes, "Bytes of host memory held by the pool.")
      .def(
          "allocate",
          [](PagePool& pool, std::int32_t count) {
            if (count < 0) {
              throw Error(ErrorCode::invalid_argument, "count", "0 or more", std::to_string(count));
            }
            if (count > pool.num_free()) throw Error::out_of_pages("count", count, pool.num_free());
            Pages pages(static_cast<std::size_t>(count));
            pool.allocate(pages);
            return to_numpy(std::move(pages));
          },
          nb::arg("count") = 1, nb::sig("def allocate(self, count: int = 1) -> trunkline.typing.Int32Array"),
          "Takes free pages, each with one reference; all or nothing.\n\n"
          "Raises\n------\nMemoryError\n    Too few are free; its ``missing`` says how many more are needed.")
      .def(
          "retain", [](PagePool& pool, nb::handle pages) { pool.retain(Integers<std::int32_t>(pages, "pages")); },
          nb::arg("pages"), nb::sig("def retain(self, pages: trunkline.typing.Ints) -> None"),
          "One more reference to each page.")
      .def(
          "release",
          [](PagePool& pool, nb::handle pages) { return pool.release(Integers<std::int32_t>(pages, "pages")); },
          nb::arg("pages"), nb::sig("def release(self, pages: trunkline.typing.Ints) -> int"),
          "One reference less to each page. Returns how many became free.")
      .def("ref_count", &PagePool::ref_count, nb::arg("page"), "Of one page; 0 when it is free.");
}

void bind_results(nb::module_& m) {
  nb::class_<PageCopy>(m, "PageCopy", "Copy the first `num_tokens` token slots of page `src` into page `dst`.")
      .def(
          "__init__",
          [](PageCopy* self, std::int32_t src, std::int32_t dst, std::int32_t num_tokens) {
            new (self) PageCopy{src, dst, num_tokens};
          },
          nb::arg("src"), nb::arg("dst"), nb::arg("num_tokens"))
      .def_ro("src", &PageCopy::src)
      .def_ro("dst", &PageCopy::dst)
      .def_ro("num_tokens", &PageCopy::num_tokens)
      .def(
          "__eq__",
          [](const PageCopy& self, nb::handle other) {
            const PageCopy* copy = nullptr;
            return nb::try_cast(other, copy) && copy != nullptr && *copy == self;
          },
          nb::arg("other"), nb::sig("def __eq__(self, other: object, /) -> bool"))
      .def("__repr__", [](const PageCopy& self) {
        return "PageCopy(src=" + std::to_string(self.src) + ", dst=" + std::to_string(self.dst) +
               ", num_tokens=" + std::to_string(self.num_tokens) + ")";
      });
  nb::class_<PyInsertion>(m, "Insertion", "What `PrefixTree.insert` did.")
      .def_ro("request", &PyInsertion::request)
      .def_ro("num_cached_tokens", &PyInsertion::num_cached_tokens, "KV of the tokens from here on is to be written.")
      .def_ro("copy", &PyInsertion::copy, "For `copy_kv`, before anything is written to the request's pages.");
  nb::class_<PyAppended>(m, "Appended", "What `PrefixTree.append` did.")
      .def_ro("copy", &PyAppended::copy, "For `copy_kv`; its dst replaced the page of the token after the last.")
      .def_prop_ro(
          "new_pages", [](const PyAppended& self) { return to_numpy(self.new_pages); },
          nb::sig("def new_pages(self) -> trunkline.typing.Int32Array"), "Added at the block table's end.");
  nb::class_<PyCommitted>(m, "Committed",
                          "What `PrefixTree.commit` did: entries from `first_page` on now name `pages`, in which the "
                          "same tokens were cached already.")
      .def_ro("first_page", &PyCommitted::first_page)
      .def_prop_ro(
          "pages", [](const PyCommitted& self) { return to_numpy(self.pages); },
          nb::sig("def pages(self) -> trunkline.typing.Int32Array"));
  nb::class_<PrefixMatch>(m, "PrefixMatch", "What `PrefixTree.match_prefix` found.")
      .def_ro("num_tokens", &PrefixMatch::num_tokens)
      .def_prop_ro(
          "pages", [](const PrefixMatch& self) { return to_numpy(self.pages); },
          nb::sig("def pages(self) -> trunkline.typing.Int32Array"));
  nb::class_<PyPrefixLock>(m, "PrefixLock", "A prefix kept from eviction, in the tree that it keeps alive.")
      .def_prop_ro("id", [](const PyPrefixLock& self) { return self.lock.id; })
      .def_prop_ro(
          "num_tokens", [](const PyPrefixLock& self) { return self.lock.num_tokens; },
          "How much of the prefix was cached, and is now pinned.");
  nb::class_<PrefixTreeStats>(m, "PrefixTreeStats", "Counters of a `PrefixTree`.")
      .def_ro("requests_inserted", &PrefixTreeStats::requests_inserted)
      .def_ro("requests_forked", &PrefixTreeStats::requests_forked)
      .def_ro("prompt_tokens", &PrefixTreeStats::prompt_tokens)
      .def_ro("hit_tokens", &PrefixTreeStats::hit_tokens)
      .def_ro("page_copies", &PrefixTreeStats::page_copies)
      .def_ro("duplicate_pages", &PrefixTreeStats::duplicate_pages)
      .def_ro("evicted_pages", &PrefixTreeStats::evicted_pages)
      .def_ro("evicted_nodes", &PrefixTreeStats::evicted_nodes)
      .def_ro("num_requests", &PrefixTreeStats::num_requests)
      .def_ro("num_nodes", &PrefixTreeStats::num_nodes)
      .def_ro("pages_in_use", &PrefixTreeStats::pages_in_use)
      .def_ro("pages_cached", &PrefixTreeStats::pages_cached)
      .def_ro("pages_free", &PrefixTreeStats::pages_free)
      .def_ro("peak_pages", &PrefixTreeStats::peak_pages)
      .def_ro("filled_slots", &PrefixTreeStats::filled_slots)
      .def_ro("total_slots", &PrefixTreeStats::total_slots)
      .def_prop_ro("hit_rate", &PrefixTreeStats::hit_rate, "hit_tokens / prompt_tokens")
      .def_prop_ro("fragmentation", &PrefixTreeStats::fragmentation,
                   "Fraction of the held token slots that hold no token.");
}

nb::object slots_of(const PrefixTree& tree, RequestId request, std::int32_t begin, std::int32_t end) {
  const std::int32_t length = tree.seq_len(request);
  if (begin < 0 || begin > end || end > length) {
    throw Error(ErrorCode::invalid_argument, "begin, end", "0 <= begin <= end <= " + std::to_string(length),
                std::to_string(begin) + ", " + std::to_string(end));
  }
  std::vector<std::int64_t> slots;
  slots.reserve(static_cast<std::size_t>(end - begin));
  add_slots(tree, request, begin, end, slots);
  return to_numpy(std::move(slots));
}

void bind_tree(nb::module_& m) {
  nb::class_<PrefixTree> tree_class(m, "PrefixTree",
                                    R"(A radix tree over token ids whose values are pages, and the requests that use it.

Committed tokens, those whose KV is written, can be matched by other requests; the rest is the request's own. A page
that is partly filled with common tokens is shared until somebody takes its next slot: whoever then diverges gets a page
of its own and a `PageCopy` to carry out with `copy_kv` before KV is written for that or a later call.

Tokens are int32 arrays, taken without a copy, or lists of ints. One thread's at a time, together with its pool.

Parameters
----------
pool : PagePool
    Kept alive by the tree.

Raises
------
ValueError
    Unknown requests, negative tokens; nothing has changed then.
MemoryError
    `insert` and `append` evict what they need; when even that is not enough, ``missing`` says how many pages lack, and
    nothing has changed.

Examples
--------
>>> import trunkline as tl
>>> tree = tl.PrefixTree(tl.PagePool(num_pages=64, page_size=16))
>>> first = tree.insert(range(40))
>>> first.num_cached_tokens                   # nothing was cached: write the KV of all 40 tokens, then
0
>>> _ = tree.commit(first.request, 40)
>>> second = tree.insert([*range(32), 7, 8])  # shares two pages
>>> second.num_cached_tokens, tree.block_table(second.request)
(32, array([0, 1, 3], dtype=int32))
>>> tree.slots(second.request, 32, 34).tolist()  # where the KV of tokens 32 and 33 goes
[48, 49]
)");
  tree_class.def(nb::init<PagePool&>(), nb::arg("pool"), nb::keep_alive<1, 2>())
      .def_prop_ro("pool", &PrefixTree::pool, nb::rv_policy::reference_internal)
      .def_prop_ro("page_size", &PrefixTree::page_size)
      .def(
          "match_prefix",
          [](const PrefixTree& tree, nb::handle tokens) {
            return tree.match_prefix(Integers<std::int32_t>(tokens, "tokens"));
          },
          nb::arg("tokens"), nb::sig("def match_prefix(self, tokens: trunkline.typing.Ints) -> PrefixMatch"),
          "The longest cached prefix, to the token. A question only: it holds nothing.")
      .def(
          "match_length",
          [](const PrefixTree& tree, nb::handle tokens) {
            return tree.match_length(Integers<std::int32_t>(tokens, "tokens"));
          },
          nb::arg("tokens"), nb::sig("def match_length(self, tokens: trunkline.typing.Ints) -> int"),
          "The length alone of `match_prefix`.")
      .def(
          "insert",
          [](PrefixTree& tree, nb::handle tokens, std::optional<std::int32_t> max_cached_tokens) {
            const Insertion made =
                tree.insert(Integers<std::int32_t>(tokens, "tokens"), max_cached_tokens.value_or(PrefixTree::no_limit));
            return PyInsertion{made.request, made.num_cached_tokens, made.copy};
          },
          nb::arg("tokens"), nb::arg("max_cached_tokens") = nb::none(),
          nb::sig("def insert(self, tokens: trunkline.typing.Ints, max_cached_tokens: int | None = None) -> Insertion"),
          "A new request, from the longest cached prefix of at most `max_cached_tokens` tokens. A caller that needs "
          "logits\nof the last prompt token passes ``len(tokens) - 1``.")
      .def(
          "append",
          [](PrefixTree& tree, RequestId request, nb::handle tokens) {
            const Appended made = tree.append(request, Integers<std::int32_t>(tokens, "tokens"));
            return PyAppended{made.copy, Pages(made.new_pages.begin(), made.new_pages.end())};
          },
          nb::arg("request"), nb::arg("tokens"),
          nb::sig("def append(self, request: int, tokens: trunkline.typing.Ints) -> Appended"),
          "Tokens at the end of a request, uncommitted.")
      .def(
          "commit",
          [](PrefixTree& tree, RequestId request, std::int32_t num_tokens, nb::handle last_tokens) {
            const Committed made =
                tree.commit(request, num_tokens, read_optional<std::int32_t>(last_tokens, "last_tokens"));
            return PyCommitted{made.first_page, Pages(made.pages.begin(), made.pages.end())};
          },
          nb::arg("request"), nb::arg("num_tokens"), nb::arg("last_tokens") = nb::none(),
          nb::sig("def commit(self, request: int, num_tokens: int, last_tokens: trunkline.typing.Ints | None = None) "
                  "-> Committed"),
          "The KV of the request's first `num_tokens` tokens is written; others can match them from now on. "
          "`last_tokens`\nnames the last of them, for an engine that appended other numbers because they were still "
          "to be sampled.")
      .def("fork", &PrefixTree::fork, nb::arg("request"),
           "A new request that shares every page of this one, all of whose tokens are committed. Returns its id.")
      .def("remove", &PrefixTree::remove, nb::arg("request"), "Ends a request. Its committed tokens stay cached.")
      .def(
          "lock",
          [](PrefixTree& tree, nb::handle tokens) {
            return PyPrefixLock{tree.lock(Integers<std::int32_t>(tokens, "tokens")), nb::find(tree)};
          },
          nb::arg("tokens"), nb::sig("def lock(self, tokens: trunkline.typing.Ints) -> PrefixLock"),
          "Keeps the longest cached prefix from eviction until unlocked. Locks count.")
      .def(
          "unlock",
          [](PrefixTree& tree, const PyPrefixLock& lock) {
            if (!lock.tree.is(nb::find(tree))) {
              throw Error(ErrorCode::invalid_argument, "lock", "a lock of this tree", "one of another");
            }
            tree.unlock(lock.lock.id);
          },
          nb::arg("lock"),
          "Lets a locked prefix go.\n\n"
          "Raises\n------\nValueError\n    A lock of another tree, or one that was unlocked or cleared already.")
      .def("evict", &PrefixTree::evict, nb::arg("num_pages"),
           "Frees up to `num_pages` cached pages, least recently used first. Returns how many.")
      .def("clear", &PrefixTree::clear, "Forgets requests, locks and cache.")
      .def(
          "requests", [](const PrefixTree& tree) { return to_numpy(tree.requests()); },
          nb::sig("def requests(self) -> trunkline.typing.Int64Array"), "Ids, ascending.")
      .def("__contains__", &PrefixTree::contains, nb::arg("request"))
      .def("seq_len", &PrefixTree::seq_len, nb::arg("request"))
      .def("num_committed", &PrefixTree::num_committed, nb::arg("request"))
      .def(
          "block_table", [](const PrefixTree& tree, RequestId request) { return to_numpy(tree.block_table(request)); },
          nb::arg("request"), nb::sig("def block_table(self, request: int) -> trunkline.typing.Int32Array"),
          "The request's ``ceil(seq_len / page_size)`` pages.")
      .def("slots", &slots_of, nb::arg("request"), nb::arg("begin"), nb::arg("end"),
           nb::sig("def slots(self, request: int, begin: int, end: int) -> trunkline.typing.Int64Array"),
           "Slots ``page * page_size + token`` of the request's tokens ``[begin, end)``, for `append_kv`.")
      .def_prop_ro("num_available_pages", &PrefixTree::num_available_pages,
                   "Pages an insert or append could get: free ones and those eviction would free.")
      .def("stats", &PrefixTree::stats)
      .def_prop_ro("memory_bytes", &PrefixTree::memory_bytes)
      .def("check_integrity", &PrefixTree::check_integrity, "Proves the invariants from scratch. RuntimeError.");
  bind_tree_batch(m, tree_class);
}

}  // namespace

void bind_cache(nb::module_& m) {
  bind_pool(m);
  bind_results(m);
  bind_tree(m);
}

}  // namespace trunkline::python
