#include "trunkline/forest.hpp"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "binding/binding.hpp"
#include "trunkline/error.hpp"
#include "trunkline/prefix_tree.hpp"

namespace trunkline::python {

nb::tuple read_tuple(nb::handle object, std::size_t size, const char* name, const char* members) {
  nb::object items;
  if (PyList_Check(object.ptr()) || PyTuple_Check(object.ptr())) items = nb::steal(PySequence_Tuple(object.ptr()));
  if (!items.is_valid() || nb::len(items) != size) {
    throw Error(ErrorCode::invalid_argument, name, std::string("a tuple ") + members,
                nb::cast<std::string>(nb::str(nb::repr(object))));
  }
  return nb::borrow<nb::tuple>(items);
}

TablesArgument::TablesArgument(nb::handle object, const char* name) {
  if (nb::isinstance<nb::tuple>(object)) {
    const nb::tuple pair = read_tuple(object, 2, name, "(indptr, indices), or an array [num_requests, max_pages]");
    indptr_.emplace(pair[0], "tables.indptr");
    indices_.emplace(pair[1], "tables.indices");
    tables_ = BlockTables::csr(indptr_->span(), indices_->span());
    return;
  }
  dense_ = read_array(object, name, Access::read);
  check_integers<std::int32_t>(dense_, Device{}, name);
  const auto refuse = [&](const char* member, const char* expected, std::int64_t got) {
    throw Error(ErrorCode::invalid_argument, std::string(name) + member, expected, std::to_string(got));
  };
  if (dense_.rank != 2) refuse(".shape", "two dimensions, [num_requests, max_pages]", dense_.rank);
  const std::int64_t rows = dense_.shape[0], width = dense_.shape[1];
  constexpr std::int64_t most = 0x7fffffff;
  if (rows > most || width > most) refuse(".shape", "fewer than 2^31 rows and columns", std::max(rows, width));
  if (width > 1 && dense_.strides[1] != 1) refuse(".strides[1]", "1 (contiguous rows)", dense_.strides[1]);
  const std::int64_t stride = rows > 1 ? dense_.strides[0] : width;
  if (stride < width || stride > most) refuse(".strides[0]", "rows that ascend and lie apart", stride);
  const std::size_t extent = rows == 0 ? 0 : static_cast<std::size_t>((rows - 1) * stride + width);
  tables_ = BlockTables::dense({static_cast<const std::int32_t*>(dense_.data), extent}, static_cast<int>(rows),
                               static_cast<int>(width), static_cast<int>(stride));
}

namespace {

using Int32s = Integers<std::int32_t>;

nb::object from_block_tables(nb::handle tables, nb::handle seq_lens, int page_size, nb::handle qo_lens,
                             nb::handle request_ids, std::int64_t num_pages) {
  const TablesArgument table(tables, "tables");
  const Int32s lengths(seq_lens, "seq_lens");
  const Int32s queries = read_optional<std::int32_t>(qo_lens, "qo_lens");
  const Integers<RequestId> ids = read_optional<RequestId>(request_ids, "request_ids");
  Forest made;
  {
    nb::gil_scoped_release released;
    made = Forest::from_block_tables(table.tables(), lengths, page_size, {queries.span(), ids.span(), num_pages});
  }
  return nb::cast(new PyForest(std::move(made)), nb::rv_policy::take_ownership);
}

nb::object from_tree(const PrefixTree& tree, nb::handle requests, nb::handle qo_lens) {
  const Int32s queries = read_optional<std::int32_t>(qo_lens, "qo_lens");
  Forest made = requests.is_none() ? Forest::from_tree(tree, tree.requests(), queries)
                                   : Forest::from_tree(tree, Integers<RequestId>(requests, "requests"), queries);
  return nb::cast(new PyForest(std::move(made)), nb::rv_policy::take_ownership);
}

nb::object from_levels(nb::iterable levels, int page_size, nb::handle qo_lens, nb::handle request_ids,
                       std::int64_t num_pages) {
  struct Arrays {
    Int32s request_indptr, page_indptr, page_indices, num_tokens;
  };
  std::vector<std::unique_ptr<Arrays>> arrays;
  std::vector<Level> views;
  for (nb::handle level : levels) {
    const nb::tuple parts =
        read_tuple(level, 4, "levels", "(request_indptr, page_indptr, page_indices, num_tokens) per level");
    arrays.push_back(std::unique_ptr<Arrays>(
        new Arrays{Int32s(parts[0], "levels.request_indptr"), Int32s(parts[1], "levels.page_indptr"),
                   Int32s(parts[2], "levels.page_indices"), Int32s(parts[3], "levels.num_tokens")}));
    const Arrays& held = *arrays.back();
    views.push_back({held.request_indptr, held.page_indptr, held.page_indices, held.num_tokens});
  }
  const Int32s queries = read_optional<std::int32_t>(qo_lens, "qo_lens");
  const Integers<RequestId> ids = read_optional<RequestId>(request_ids, "request_ids");
  Forest made = Forest::from_levels(views, page_size, {queries.span(), ids.span(), num_pages});
  return nb::cast(new PyForest(std::move(made)), nb::rv_policy::take_ownership);
}

// (requests, num_tokens, page_indptr, pages)
void read_growth(nb::handle arrays, std::vector<Deltas::Growth>& grow) {
  const nb::tuple t = read_tuple(arrays, 4, "grow_each", "(requests, num_tokens, page_indptr, pages)");
  const Integers<RequestId> requests(t[0], "grow_each.requests");
  const Int32s num_tokens(t[1], "grow_each.num_tokens"), indptr(t[2], "grow_each.page_indptr");
  const Int32s pages(t[3], "grow_each.pages");
  const std::size_t count = requests.span().size();
  const auto check = [](const char* member, std::size_t expected, std::size_t got) {
    if (expected == got) return;
    throw Error(ErrorCode::invalid_argument, std::string("grow_each.") + member, std::to_string(expected),
                std::to_string(got));
  };
  check("num_tokens.size", count, num_tokens.span().size());
  check("page_indptr.size", count + 1, indptr.span().size());
  const bool ascends = std::is_sorted(indptr.span().begin(), indptr.span().end());
  if (!ascends || indptr.span().front() != 0 ||
      indptr.span().back() != static_cast<std::int64_t>(pages.span().size())) {
    throw Error(ErrorCode::invalid_argument, "grow_each.page_indptr",
                "ascending numbers from 0 to " + std::to_string(pages.span().size()) + ", the number of pages",
                ascends ? std::to_string(indptr.span().front()) + " to " + std::to_string(indptr.span().back())
                        : "some that descend");
  }
  grow.reserve(grow.size() + count);
  for (std::size_t i = 0; i < count; ++i) {
    const auto begin = pages.span().begin() + indptr.span()[i], end = pages.span().begin() + indptr.span()[i + 1];
    grow.push_back({requests.span()[i], num_tokens.span()[i], {begin, end}});
  }
}

void advance(PyForest& self, nb::handle leave, nb::iterable replace, nb::iterable grow, nb::iterable qo_lens,
             nb::iterable join, nb::handle grow_each) {
  Deltas deltas;
  deltas.leave = Integers<RequestId>(leave, "leave").vector();
  for (nb::handle entry : replace) {
    const nb::tuple t = read_tuple(entry, 3, "replace", "(request, first_page, pages)");
    deltas.replace.push_back({read_integer<RequestId>(t[0], "replace.request"),
                              read_integer<std::int32_t>(t[1], "replace.first_page"),
                              Int32s(t[2], "replace.pages").vector()});
  }
  for (nb::handle entry : grow) {
    const nb::tuple t = read_tuple(entry, 3, "grow", "(request, num_tokens, pages)");
    deltas.grow.push_back({read_integer<RequestId>(t[0], "grow.request"),
                           read_integer<std::int32_t>(t[1], "grow.num_tokens"), Int32s(t[2], "grow.pages").vector()});
  }
  if (!grow_each.is_none()) read_growth(grow_each, deltas.grow);
  for (nb::handle entry : qo_lens) {
    const nb::tuple t = read_tuple(entry, 2, "qo_lens", "(request, qo_len)");
    deltas.qo_lens.push_back(
        {read_integer<RequestId>(t[0], "qo_lens.request"), read_integer<std::int32_t>(t[1], "qo_lens.qo_len")});
  }
  for (nb::handle entry : join) {
    const nb::tuple t = read_tuple(entry, 4, "join", "(request, seq_len, qo_len, pages)");
    deltas.join.push_back({read_integer<RequestId>(t[0], "join.request"),
                           read_integer<std::int32_t>(t[1], "join.seq_len"),
                           read_integer<std::int32_t>(t[2], "join.qo_len"), Int32s(t[3], "join.pages").vector()});
  }
  std::unique_lock lock(self.mutex, std::defer_lock);
  {
    nb::gil_scoped_release released;  // a plan that reads the forest does not need it to finish
    lock.lock();
  }
  self.forest.advance(deltas);
}

constexpr const char* forest_doc =
    R"(The nodes of a batch: which runs of tokens its requests share. The one input of planning.

Made by `from_block_tables`, `from_tree` or `from_levels`; owns copies, so the arrays it came from may change after the
call. Requests and their query tokens keep the caller's order.

Examples
--------
Two requests that share their first page of 16 tokens:

>>> import numpy as np
>>> import trunkline as tl
>>> tables = np.array([[7, 1], [7, 2]], np.int32)
>>> forest = tl.Forest.from_block_tables(tables, [20, 30], page_size=16)
>>> [(node.first_token, node.num_tokens, node.request_begin, node.request_end) for node in forest.nodes]
[(0, 16, 0, 2), (16, 4, 0, 1), (16, 14, 1, 2)]
>>> forest.total_tokens, forest.distinct_tokens
(50, 34)

The next decode step, without looking at the tables again:

>>> forest.advance(grow=[(0, 1, []), (1, 1, [])])
>>> forest.seq_lens
array([21, 31], dtype=int32)
)";

}  // namespace

void bind_forest(nb::module_& m) {
  nb::class_<Node>(m, "Node", "A run of tokens shared by the same requests, a range of the forest's order.")
      .def_ro("parent", &Node::parent, "Index of the parent node; -1 for a root.")
      .def_ro("first_token", &Node::first_token)
      .def_ro("num_tokens", &Node::num_tokens)
      .def_ro("request_begin", &Node::request_begin)
      .def_ro("request_end", &Node::request_end)
      .def("__repr__", [](const Node& node) {
        return "Node(parent=" + std::to_string(node.parent) + ", first_token=" + std::to_string(node.first_token) +
               ", num_tokens=" + std::to_string(node.num_tokens) + ", requests=[" + std::to_string(node.request_begin) +
               ", " + std::to_string(node.request_end) + "))";
      });

  nb::class_<PyForest> forest(m, "Forest", forest_doc);
  forest
      .def_static("from_block_tables", &from_block_tables, nb::arg("tables"), nb::arg("seq_lens"), nb::arg("page_size"),
                  nb::arg("qo_lens") = nb::none(), nb::arg("request_ids") = nb::none(), nb::arg("num_pages") = 0,
                  nb::sig("def from_block_tables(tables: trunkline.typing.Tables, seq_lens: trunkline.typing.Ints, "
                          "page_size: int, qo_lens: trunkline.typing.Ints | None = None, request_ids: "
                          "trunkline.typing.Ints | None = None, num_pages: int = 0) -> Forest"),
                  R"(Finds sharing by equal page indices at equal positions, at any depth.

Parameters
----------
tables : array, int32 [num_requests, max_pages], or the pair (indptr, indices)
    NumPy or a CPU tensor, read without a copy; rows may be strided. Entry j of a request is the page of its tokens
    ``[j * page_size, (j + 1) * page_size)``; entries beyond its length are not read.
seq_lens : int32 [num_requests]
    Tokens in the KV cache, the newest included.
page_size : int
    1 to 1024.
qo_lens : int32 [num_requests], optional
    New query tokens, the last ones of each request; 1 each when not given.
request_ids : int64 [num_requests], optional
    Stable names for `advance`; 0, 1, 2, ... when not given.
num_pages : int
    When positive, pages are checked to be below it.

Raises
------
ValueError
    Naming the argument.)")
      .def_static("from_tree", &from_tree, nb::arg("tree"), nb::arg("requests") = nb::none(),
                  nb::arg("qo_lens") = nb::none(),
                  nb::sig("def from_tree(tree: PrefixTree, requests: trunkline.typing.Ints | None = None, qo_lens: "
                          "trunkline.typing.Ints | None = None) -> Forest"),
                  "From the block tables of a `PrefixTree`; of all its requests when none are named.")
      .def_static("from_levels", &from_levels, nb::arg("levels"), nb::arg("page_size"), nb::arg("qo_lens") = nb::none(),
                  nb::arg("request_ids") = nb::none(), nb::arg("num_pages") = 0,
                  nb::sig("def from_levels(levels: typing.Iterable[tuple[trunkline.typing.Ints, trunkline.typing.Ints, "
                          "trunkline.typing.Ints, trunkline.typing.Ints]], page_size: int, qo_lens: "
                          "trunkline.typing.Ints | None = None, request_ids: trunkline.typing.Ints | None = None, "
                          "num_pages: int = 0) -> Forest"),
                  "From nested groups, level by level from the root: (request_indptr, page_indptr, page_indices, "
                  "num_tokens),\nint32. Group g of a level holds requests ``request_indptr[g]`` to "
                  "``request_indptr[g + 1]`` and its pages likewise.")
      .def("advance", &advance, nb::arg("leave") = nb::make_tuple(), nb::arg("replace") = nb::make_tuple(),
           nb::arg("grow") = nb::make_tuple(), nb::arg("qo_lens") = nb::make_tuple(),
           nb::arg("join") = nb::make_tuple(), nb::arg("grow_each") = nb::none(),
           nb::sig("def advance(self, leave: trunkline.typing.Ints = (), replace: typing.Iterable[tuple[int, int, "
                   "trunkline.typing.Ints]] = (), grow: typing.Iterable[tuple[int, int, trunkline.typing.Ints]] = (), "
                   "qo_lens: typing.Iterable[tuple[int, int]] = (), join: typing.Iterable[tuple[int, int, int, "
                   "trunkline.typing.Ints]] = (), grow_each: tuple[trunkline.typing.Ints, trunkline.typing.Ints, "
                   "trunkline.typing.Ints, trunkline.typing.Ints] | None = None) -> None"),
           R"(Makes the next step's forest of this one, at a cost that follows the changes.

Parameters
----------
leave : requests
replace : (request, first_page, pages)
    Table entries from first_page on now name these pages.
grow : (request, num_tokens, pages)
    Tokens appended, and exactly the pages they newly need.
qo_lens : (request, qo_len)
join : (request, seq_len, qo_len, pages)
grow_each : (requests, num_tokens, page_indptr, pages), optional
    More of `grow`, as arrays: request i got the pages ``pages[page_indptr[i] : page_indptr[i + 1]]``.

Raises
------
ValueError
    Nothing has changed then.)")
      .def(
          "copy", [](const PyForest& self) { return new PyForest(self.forest); }, nb::rv_policy::take_ownership,
          "A copy that advances on its own.")
      .def(
          "__eq__",
          [](const PyForest& self, nb::handle other) {
            const PyForest* forest_of_other = nullptr;
            return nb::try_cast(other, forest_of_other) && forest_of_other != nullptr &&
                   self.forest == forest_of_other->forest;
          },
          nb::arg("other"), nb::sig("def __eq__(self, other: object, /) -> bool"), "Same batch and same sharing.")
      .def("__repr__",
           [](const PyForest& self) {
             const Forest& f = self.forest;
             return "Forest(" + std::to_string(f.num_requests()) + " requests, " + std::to_string(f.nodes().size()) +
                    " nodes, " + std::to_string(f.distinct_tokens()) + " of " + std::to_string(f.total_tokens()) +
                    " tokens distinct)";
           })
      .def_prop_ro(
          "nodes",
          [](const PyForest& self) {
            nb::list nodes;
            for (const Node& node : self.forest.nodes()) nodes.append(nb::cast(node));
            return nodes;
          },
          nb::sig("def nodes(self) -> list[Node]"), "Depth first.");
  const auto scalar = [&](const char* name, auto member, const char* doc) {
    forest.def_prop_ro(name, [member](const PyForest& self) { return (self.forest.*member)(); }, doc);
  };
  scalar("page_size", &Forest::page_size, "In tokens.");
  scalar("num_requests", &Forest::num_requests, "Requests of the batch.");
  scalar("num_query_tokens", &Forest::num_query_tokens, "Sum of `qo_lens`.");
  scalar("total_tokens", &Forest::total_tokens, "Sum of `seq_lens`.");
  scalar("distinct_tokens", &Forest::distinct_tokens, "Sum of the nodes' tokens.");
  scalar("share", &Forest::share, "``total_tokens / distinct_tokens``: the ideal reduction of KV reads.");
  scalar("uid", &Forest::uid, "Identity of this forest.");
  scalar("version", &Forest::version, "Number of times it advanced.");
  const auto array = [&](const char* name, auto member, const char* sig, const char* doc) {
    forest.def_prop_ro(
        name, [member](const PyForest& self) { return to_numpy((self.forest.*member)()); }, nb::sig(sig), doc);
  };
  array("request_order", &Forest::request_order, "def request_order(self) -> trunkline.typing.Int32Array",
        "Forest position -> caller's index.");
  array("seq_lens", &Forest::seq_lens, "def seq_lens(self) -> trunkline.typing.Int32Array", "In the caller's order.");
  array("qo_lens", &Forest::qo_lens, "def qo_lens(self) -> trunkline.typing.Int32Array", "In the caller's order.");
  array("request_ids", &Forest::request_ids, "def request_ids(self) -> trunkline.typing.Int64Array",
        "In the caller's order.");
}

}  // namespace trunkline::python
