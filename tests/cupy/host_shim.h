// CUDA for g++, as far as kernels.cu needs it: one block after another, its threads as coroutines.
//
// A thread runs until it reaches a barrier or its end, then the next one runs; so nothing is simultaneous, and what a
// missing barrier does depends on whose turn it is. The caller chooses the order of turns and tries several.

#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <sys/mman.h>
#include <ucontext.h>

#define __global__
#define __device__ inline
#define __shared__ static
#define __launch_bounds__(...)

struct Dim3 {
  unsigned int x, y, z;
};
static Dim3 threadIdx, blockIdx, blockDim;

using std::sqrt;

inline unsigned int __float_as_uint(float x) {
  unsigned int bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float __uint_as_float(unsigned int bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// In place of the instruction cvt.f32.f16: exact.
inline float widen_half(unsigned short half) {
  const int exponent = half >> 10 & 31, fraction = half & 1023;
  const float magnitude = exponent == 31 ? (fraction ? NAN : INFINITY)
                          : exponent     ? std::ldexp(1024.0f + fraction, exponent - 25)
                                         : std::ldexp((float)fraction, -24);
  return half >> 15 ? -magnitude : magnitude;
}

// In place of the instruction cvt.rn.f16.f32: to nearest, ties to even.
inline unsigned short round_half(float x) {
  const unsigned short sign = std::signbit(x) ? 0x8000 : 0;
  const float magnitude = std::fabs(x);
  if (x != x) return 0x7fff;
  if (magnitude >= 65520.0f) return sign | 0x7c00;
  int exponent = -13;  // that of 2^-14, the smallest normal number: below it the spacing stays
  if (magnitude > 0x1p-14f) std::frexp(magnitude, &exponent);
  const int units = (int)std::nearbyint(std::ldexp(magnitude, 11 - exponent));
  // A number that rounds up to the next power of two carries into the exponent by itself.
  return sign | (unsigned short)((exponent + 13) * 1024 + units);
}

namespace host {

enum State { waiting, done };

constexpr int most = 1024, stack_size = 1 << 16;
ucontext_t scheduler_context, start_context[most];
jmp_buf scheduler, thread_at[most];
State state[most];
bool started[most];
int running;
void (*body)(void**);
void** arguments;

inline void give_turn_back() {
  if (!_setjmp(thread_at[running])) _longjmp(scheduler, 1);
}

// A coroutine lives as long as the process: it runs the thread of one block, gives its turn back, and runs the next.
inline void thread_main() {
  for (;;) {
    body(arguments);
    state[running] = done;
    give_turn_back();
  }
}

inline void give_turn_to(int thread) {
  running = thread;
  threadIdx = {thread % blockDim.x, thread / blockDim.x, 0};
  state[thread] = waiting;
  if (_setjmp(scheduler)) return;
  if (started[thread]) _longjmp(thread_at[thread], 1);
  started[thread] = true;
  getcontext(&start_context[thread]);
  start_context[thread].uc_stack.ss_sp =
      mmap(nullptr, stack_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  start_context[thread].uc_stack.ss_size = stack_size;
  makecontext(&start_context[thread], thread_main, 0);
  setcontext(&start_context[thread]);
}

// false: some threads of the block ended while others waited at a barrier.
inline bool run_block(int threads, int order) {
  static int turn[most];
  for (int i = 0; i < threads; ++i) turn[i] = order == 1 ? threads - 1 - i : i;
  static unsigned int random = 1;
  for (;;) {
    if (order == 2)
      for (int i = threads - 1; i > 0; --i)
        std::swap(turn[i], turn[(random = random * 1664525 + 1013904223) % (i + 1)]);
    int ended = 0;
    for (volatile int i = 0; i < threads; i = i + 1) {
      give_turn_to(turn[i]);
      ended = ended + (state[turn[i]] == done);
    }
    if (ended == threads) return true;
    if (ended) return false;
  }
}

// A kernel with its arguments as cuLaunchKernel takes them: an array of pointers to values of just these types.
template <auto kernel>
struct Kernel;

template <class... P, void (*kernel)(P...)>
struct Kernel<kernel> {
  template <std::size_t... i>
  static void call(void** arguments, std::index_sequence<i...>) {
    kernel(*(P*)arguments[i]...);
  }
  static void call(void** arguments) { call(arguments, std::index_sequence_for<P...>{}); }

  template <class Q>
  static std::string type() {
    if (std::is_pointer<Q>::value) return "u8 ";
    return std::string(std::is_floating_point<Q>::value ? "f" : std::is_same<Q, bool>::value ? "b" : "i") +
           std::to_string(sizeof(Q)) + " ";
  }
  static const char* types() {
    static const std::string joined = (type<P>() + ...);
    return joined.c_str();
  }
};

}  // namespace host

inline void __syncthreads() { host::give_turn_back(); }

// What a launch is for Python. The orders of turns: 0 ascending, 1 descending, 2 shuffled.
#define EXPORT(number, kernel)                                                                                        \
  extern "C" const char* types_##number() { return host::Kernel<&kernel>::types(); }                                  \
  extern "C" bool launch_##number(long long from, long long to, int x, int y, int order, void** arguments) {          \
    host::body = host::Kernel<&kernel>::call;                                                                         \
    host::arguments = arguments;                                                                                      \
    blockDim = {(unsigned)x, (unsigned)y, 1};                                                                         \
    for (long long block = from; block < to; ++block) {                                                               \
      blockIdx = {(unsigned)block, 0, 0};                                                                             \
      if (!host::run_block(x * y, order)) return false;                                                               \
    }                                                                                                                 \
    return true;                                                                                                      \
  }
