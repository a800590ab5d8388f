// A decode loop over a shared system prompt: four chats in a prefix tree, three steps of one attention layer.
// Random numbers stand in for the model. Prints what was shared.
#include <cstdint>
#include <cstdio>
#include <optional>
#include <random>
#include <span>
#include <vector>

#include <trunkline/trunkline.hpp>

using namespace trunkline;

namespace {

constexpr int heads = 8, kv_heads = 2, head_dim = 64, page_size = 16, num_pages = 64;
constexpr int num_chats = 4, num_steps = 3;

std::mt19937 generator(7);

std::vector<float> random_floats(std::size_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

// What a model's projection of `count` tokens would write: K and V of tokens [first, first + count) of a request.
void write_kv(const KvView& kv, std::span<const std::int32_t> table, int first, int count) {
  std::vector<std::int64_t> slots;
  for (int t = first; t < first + count; ++t) {
    slots.push_back(std::int64_t{table[t / page_size]} * page_size + t % page_size);
  }
  std::vector<float> k = random_floats(static_cast<std::size_t>(count) * kv_heads * head_dim);
  std::vector<float> v = random_floats(k.size());
  append_kv(kv, contiguous(k.data(), DType::float32, {count, kv_heads, head_dim}, 3),
            contiguous(v.data(), DType::float32, {count, kv_heads, head_dim}, 3), slots);
}

void carry_out(const KvView& kv, const std::optional<PageCopy>& copy) {
  if (copy) copy_kv(kv, {&*copy, 1});
}

}  // namespace

int main() {
  // The KV cache: pages in our memory, numbers from the pool, the index in the tree.
  std::vector<float> memory(std::size_t{num_pages} * 2 * page_size * kv_heads * head_dim);
  const KvView kv =
      KvView::interleaved(memory.data(), DType::float32, KvLayout::nhd, num_pages, page_size, kv_heads, head_dim);
  PagePool pool(num_pages, page_size);
  PrefixTree tree(pool);

  // Four prompts: 100 tokens of system prompt, 9 of their own. Only what is not cached is computed.
  std::vector<RequestId> chats;
  for (int chat = 0; chat < num_chats; ++chat) {
    std::vector<std::int32_t> prompt(109, 1);
    for (int i = 100; i < 109; ++i) prompt[i] = 1000 * (chat + 1) + i;
    const Insertion inserted = tree.insert(prompt);
    carry_out(kv, inserted.copy);
    write_kv(kv, tree.block_table(inserted.request), inserted.num_cached_tokens, 109 - inserted.num_cached_tokens);
    tree.commit(inserted.request, 109);
    std::printf("chat %d: %d of 109 prompt tokens were cached\n", chat, inserted.num_cached_tokens);
    chats.push_back(inserted.request);
  }

  AttentionConfig config;
  config.num_qo_heads = heads;
  config.num_kv_heads = kv_heads;
  config.head_dim = head_dim;
  config.page_size = page_size;
  config.q_dtype = config.kv_dtype = DType::float32;
  const Attention attention(config, {.max_requests = num_chats, .max_query_tokens = num_chats, .max_table_width = 32});
  Workspace workspace(attention);

  std::vector<float> out(std::size_t{num_chats} * heads * head_dim);
  for (int step = 0; step < num_steps; ++step) {
    for (RequestId chat : chats) {  // the token sampled last, and its KV
      const std::int32_t token[] = {static_cast<std::int32_t>(generator() % 50000)};
      carry_out(kv, tree.append(chat, token).copy);
      const int length = tree.seq_len(chat);
      write_kv(kv, tree.block_table(chat), length - 1, 1);
      tree.commit(chat, length);
    }
    const Forest forest = Forest::from_tree(tree, chats);
    attention.plan(forest, workspace);  // once per step
    std::vector<float> q = random_floats(out.size());
    attention.run(workspace, contiguous(q.data(), DType::float32, {num_chats, heads, head_dim}, 3), kv,
                  contiguous(out.data(), DType::float32, {num_chats, heads, head_dim}, 3));  // once per layer
    std::printf("step %d: %lld tokens counted per chat, %lld distinct: share %.2f\n", step,
                static_cast<long long>(forest.total_tokens()), static_cast<long long>(forest.distinct_tokens()),
                forest.share());
  }
}
