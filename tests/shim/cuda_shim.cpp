#include "cuda_shim.h"

#include <ucontext.h>

#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define SIGE_SHIM_ASAN 1
#else
#define SIGE_SHIM_ASAN 0
#endif

namespace sige_shim {
namespace {

constexpr size_t kStackBytes = SIGE_SHIM_ASAN ? 256 * 1024 : 64 * 1024;
constexpr unsigned kWarp = 32;
constexpr size_t kMostShown = 32;  // bytes that a lane shows at a time

enum class State { kReady, kAtBlockBarrier, kAtWarpBarrier, kDone };

// A stack that runs threads. It starts the next thread of the block when one ends, so a kernel without barriers needs a
// single fiber, and one with barriers a fiber for each thread.
struct Fiber {
  ucontext_t context = {};
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
};

struct Copy {
  void* to;
  const void* from;  // null: zeros
  size_t bytes;

  void run() const { from ? std::memcpy(to, from, bytes) : std::memset(to, 0, bytes); }
};

struct Thread {
  State state = State::kReady;
  Fiber* fiber = nullptr;  // null before the start
  const char* function = nullptr;
  const char* file = nullptr;
  int line = 0;  // of the barrier it waits at
  char shown[2][kMostShown] =
      {};  // its values for its warp; two, so that a fast thread does not overwrite the last one
  unsigned exchanges = 0;
  std::vector<Copy> copies;               // not in a group yet
  std::deque<std::vector<Copy>> pending;  // groups, the oldest first
};

// Puts threads, or blocks, into the order of SIGE_SHIM_ORDER; returns its name.
template <typename Item>
std::string put_in_order(std::vector<Item>& items) {
  const char* order = std::getenv("SIGE_SHIM_ORDER");
  const std::string name = order ? order : "forward";
  if (name == "reverse") {
    std::reverse(items.begin(), items.end());
  } else if (name != "forward") {
    std::shuffle(items.begin(), items.end(), std::mt19937(static_cast<unsigned>(std::stoul(name))));
  }
  return name;
}

// Runs the threads of one block, one after the other, until each has come to a barrier; opens the barriers and goes on.
class Block {
 public:
  Block(dim3 size, const std::function<void()>& body) : size_(size), body_(body) {
    threads_.resize(static_cast<size_t>(size.x) * size.y * size.z);
    order_.resize(threads_.size());
    std::iota(order_.begin(), order_.end(), size_t{0});
    copies_late_ = put_in_order(order_) == "forward";
  }

  void run() {
    std::fill(threads_.begin(), threads_.end(), Thread{});
    idle_.clear();
    for (auto& fiber : fibers_) idle_.push_back(fiber.get());
    while (run_round()) open_barriers();
  }

  void wait(State barrier, const char* function, const char* file, int line) {
    Thread& thread = threads_[current_];
    thread.state = barrier;
    thread.function = function;
    thread.file = file;
    thread.line = line;
    switch_to_scheduler(thread.fiber);
  }

  // Ends the launch: the fiber that runs is left where it is.
  [[noreturn]] void fail(const char* message) {
    failure_ = message;
    switch_to_scheduler(threads_[current_].fiber);
    std::abort();
  }

  Thread& current() { return threads_[current_]; }
  unsigned lane() const { return static_cast<unsigned>(current_ % kWarp); }
  const Thread& of_lane(unsigned lane) const { return threads_[current_ / kWarp * kWarp + lane]; }
  bool has_whole_warps() const { return threads_.size() % kWarp == 0; }
  bool copies_late() const { return copies_late_; }

 private:
  // Every thread that can run runs, in order. False when all are done.
  bool run_round() {
    next_ = 0;
    while (true) {
      while (next_ < order_.size() && threads_[order_[next_]].state != State::kReady) ++next_;
      if (next_ == order_.size()) break;
      Thread& thread = threads_[order_[next_]];
      if (!thread.fiber) thread.fiber = idle_fiber();
      Fiber* fiber = thread.fiber;
      select(order_[next_++]);
      switch_to(fiber);
      if (failure_) throw std::runtime_error(std::string("CUDA shim: ") + failure_);
    }
    return std::any_of(threads_.begin(), threads_.end(), [](const Thread& t) { return t.state != State::kDone; });
  }

  void open_barriers() {
    bool opened = false;
    for (size_t first = 0; first < threads_.size(); first += kWarp) {
      opened |= open(State::kAtWarpBarrier, first, std::min(first + kWarp, threads_.size()));
      if (opened && !copies_late_) break;  // one warp runs ahead, up to a barrier of the block
    }
    if (opened || open(State::kAtBlockBarrier, 0, threads_.size())) return;
    for (const Thread& thread : threads_) {
      if (thread.state == State::kDone) continue;
      throw std::runtime_error(std::string("CUDA shim: not every thread comes to the barrier in ") + thread.function +
                               " at " + thread.file + ":" + std::to_string(thread.line));
    }
  }

  // Opens one barrier if all threads of the range wait at the same line.
  bool open(State barrier, size_t first, size_t end) {
    for (size_t i = first; i < end; ++i) {
      if (threads_[i].state != barrier || threads_[i].line != threads_[first].line) return false;
    }
    for (size_t i = first; i < end; ++i) threads_[i].state = State::kReady;
    return true;
  }

  void select(size_t thread) {
    current_ = thread;
    threadIdx = dim3(static_cast<unsigned>(thread % size_.x), static_cast<unsigned>(thread / size_.x % size_.y),
                     static_cast<unsigned>(thread / size_.x / size_.y));
  }

  // The next thread of this round that has not started, for a fiber that has just ended one.
  bool select_next_unstarted(Fiber* fiber) {
    if (next_ == order_.size() || threads_[order_[next_]].fiber || threads_[order_[next_]].state != State::kReady) {
      return false;
    }
    threads_[order_[next_]].fiber = fiber;
    select(order_[next_++]);
    return true;
  }

  void run_threads(Fiber* fiber) {
    do {
      body_();
      threads_[current_].state = State::kDone;
    } while (select_next_unstarted(fiber));
  }

  Fiber* idle_fiber() {
    if (idle_.empty()) {
      fibers_.push_back(std::make_unique<Fiber>());
      idle_.push_back(fibers_.back().get());
    }
    Fiber* fiber = idle_.back();
    idle_.pop_back();
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack.get();
    fiber->context.uc_stack.ss_size = kStackBytes;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, &Block::fiber_main, 0);
    return fiber;
  }

  static void fiber_main();

  void switch_to(Fiber* fiber) {
    running_ = fiber;
#if SIGE_SHIM_ASAN
    void* saved = nullptr;
    __sanitizer_start_switch_fiber(&saved, fiber->stack.get(), kStackBytes);
#endif
    swapcontext(&scheduler_, &fiber->context);
#if SIGE_SHIM_ASAN
    __sanitizer_finish_switch_fiber(saved, nullptr, nullptr);
#endif
  }

  void switch_to_scheduler(Fiber* fiber) {
#if SIGE_SHIM_ASAN
    void* saved = nullptr;
    __sanitizer_start_switch_fiber(&saved, scheduler_stack_, scheduler_stack_bytes_);
#endif
    swapcontext(&fiber->context, &scheduler_);
#if SIGE_SHIM_ASAN
    __sanitizer_finish_switch_fiber(saved, &scheduler_stack_, &scheduler_stack_bytes_);
#endif
  }

  dim3 size_;
  const std::function<void()>& body_;
  std::vector<Thread> threads_;
  std::vector<size_t> order_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_;
  ucontext_t scheduler_ = {};
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_stack_bytes_ = 0;
  Fiber* running_ = nullptr;
  const char* failure_ = nullptr;
  bool copies_late_ = true;
  size_t current_ = 0;
  size_t next_ = 0;  // in order_: the first thread that this round has not come to
};

std::mutex launch_mutex;  // the globals below, and `static` shared memory, belong to one launch at a time
Block* running_block = nullptr;
std::unique_ptr<char[]> shared_memory;

void Block::fiber_main() {
  Block* block = running_block;
#if SIGE_SHIM_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &block->scheduler_stack_, &block->scheduler_stack_bytes_);
#endif
  Fiber* fiber = block->running_;
  block->run_threads(fiber);
  block->idle_.push_back(fiber);
#if SIGE_SHIM_ASAN
  __sanitizer_start_switch_fiber(nullptr, block->scheduler_stack_, block->scheduler_stack_bytes_);
#endif
  setcontext(&block->scheduler_);
}

}  // namespace

void run_grid(dim3 grid, dim3 block_dim, size_t shared_bytes, const std::function<void()>& body) {
  const std::lock_guard<std::mutex> lock(launch_mutex);
  Block block(block_dim, body);
  running_block = &block;
  gridDim = grid;
  blockDim = block_dim;
  std::vector<dim3> blocks;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) blocks.emplace_back(x, y, z);
    }
  }
  put_in_order(blocks);
  for (const dim3& each : blocks) {
    blockIdx = each;
    shared_memory.reset(new char[shared_bytes]);
    std::memset(shared_memory.get(), 0xff, shared_bytes);  // NaN: a read before the write shows
    block.run();
  }
}

void* dynamic_shared() { return shared_memory.get(); }

void wait_for_block(const char* function, const char* file, int line) {
  running_block->wait(State::kAtBlockBarrier, function, file, line);
}

void fail(const char* message) { running_block->fail(message); }

unsigned lane() { return running_block->lane(); }

void exchange_in_warp(const void* mine, size_t bytes, void* of_all, const char* function, int line) {
  if (bytes > kMostShown) fail("a lane shows more than 32 bytes to its warp");
  if (!running_block->has_whole_warps()) fail("a warp function runs in a block that has not a multiple of 32 threads");
  const unsigned turn = running_block->current().exchanges++ % 2;
  std::memcpy(running_block->current().shown[turn], mine, bytes);
  running_block->wait(State::kAtWarpBarrier, function, __FILE__, line);
  for (unsigned i = 0; i < kWarp; ++i) {
    std::memcpy(static_cast<char*>(of_all) + i * bytes, running_block->of_lane(i).shown[turn], bytes);
  }
}

void start_copy(void* to, const void* from, size_t bytes) {
  const Copy copy = {to, from, bytes};
  running_block->copies_late() ? running_block->current().copies.push_back(copy) : copy.run();
}

void commit_copies() {
  Thread& thread = running_block->current();
  thread.pending.push_back(std::move(thread.copies));
  thread.copies.clear();
}

void wait_copies(size_t pending) {
  for (auto& groups = running_block->current().pending; groups.size() > pending; groups.pop_front()) {
    for (const Copy& copy : groups.front()) copy.run();
  }
}

}  // namespace sige_shim

extern "C" __attribute__((visibility("default"))) int sige_shim_allocations() { return sige_shim::allocations; }
extern "C" __attribute__((visibility("default"))) int sige_shim_launches() { return sige_shim::launches; }
