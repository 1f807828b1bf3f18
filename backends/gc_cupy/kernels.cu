// The three updates, each as one kernel over one array. This file is ASCII and includes nothing.
//
// A kernel sees its arrays as (outer, fan_in, inner), C-contiguous: element j of the weight vector v = (o, i) lies at
// (o * fan_in + j) * inner + i. The threads of a block form a rectangle, lanes by vectors: the lanes of one vector
// share its elements and add up its mean. Along x, where neighbours in a warp read neighbours in memory, run the lanes
// when inner is 1 (rows), and the vectors otherwise (columns).
//
// An output may be an input: each element is read and written by one thread, and all sums are over when it is written.

struct float16 {
  unsigned short bits;
};

struct bfloat16 {
  unsigned short bits;
};

// Half precision is computed in float; the others in themselves.
template <class T>
struct Compute {
  typedef float type;
};
template <>
struct Compute<double> {
  typedef double type;
};

__device__ float widen(float x) { return x; }
__device__ double widen(double x) { return x; }
__device__ float widen(bfloat16 x) { return __uint_as_float((unsigned int)x.bits << 16); }
__device__ float widen(float16 x) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
  return wide;
}

__device__ void round_to(float x, float* out) { *out = x; }
__device__ void round_to(double x, double* out) { *out = x; }
__device__ void round_to(float x, bfloat16* out) {
  const unsigned int bits = __float_as_uint(x);
  // To nearest, ties to even. The sum would carry some NaNs over to infinity.
  out->bits = x != x ? (bits >> 16) | 0x40 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}
__device__ void round_to(float x, float16* out) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out->bits) : "f"(x)); }

// What the rules below do to one element. load() reads it: `x` is then the quantity that GC takes the mean of, the
// gradient or the step. store() is given that mean (0 without GC) and writes the results.

template <class T>
struct Centralize {
  typedef typename Compute<T>::type A;
  struct Element {
    A x;
  };

  const T* grad;
  T* out;

  __device__ Element load(long long at) const { return Element{widen(grad[at])}; }

  __device__ void store(long long at, Element e, A mean) const { round_to(e.x - mean, out + at); }
};

template <class T>
struct Sgdm {
  typedef typename Compute<T>::type A;
  struct Element {
    A x, w, m;
  };

  const T *w, *grad, *m;
  T *new_w, *new_m;
  A lr, momentum, one_minus_dampening, l2, decay;  // the weight decay stands in l2 or in decay, the other one is 0
  bool nesterov, gc_on_update;

  // From the gradient, in x, to the step, in x.
  __device__ void advance(Element& e) const {
    e.m = momentum * e.m + one_minus_dampening * e.x;
    e.x = nesterov ? e.x + momentum * e.m : e.m;
    if (decay != 0) e.x += decay * e.w;
  }

  __device__ Element load(long long at) const {
    Element e{widen(grad[at]), widen(w[at]), widen(m[at])};
    if (l2 != 0) e.x += l2 * e.w;
    if (gc_on_update) advance(e);
    return e;
  }

  __device__ void store(long long at, Element e, A mean) const {
    e.x -= mean;
    if (!gc_on_update) advance(e);
    round_to(e.w - lr * e.x, new_w + at);
    round_to(e.m, new_m + at);
  }
};

template <class T>
struct Adam {
  typedef typename Compute<T>::type A;
  struct Element {
    A x, w, m, v, v_max;
  };

  const T *w, *grad, *m, *v, *v_max;  // v_max is read and written with amsgrad only
  T *new_w, *new_m, *new_v, *new_v_max;
  // The weight decay stands in l2 or in decay, the other one is 0. The corrections are 1 / (1 - beta1^t) and
  // 1 / sqrt(1 - beta2^t).
  A lr, beta1, one_minus_beta1, beta2, one_minus_beta2, correction1, correction2, eps, l2, decay;
  bool amsgrad, gc_on_update;

  // From the gradient, in x, to the step, in x.
  __device__ void advance(Element& e) const {
    e.m = beta1 * e.m + one_minus_beta1 * e.x;
    e.v = beta2 * e.v + one_minus_beta2 * e.x * e.x;
    if (e.v > e.v_max || e.v != e.v) e.v_max = e.v;  // a maximum that keeps NaN
    e.x = e.m * correction1 / (sqrt(amsgrad ? e.v_max : e.v) * correction2 + eps);
    if (decay != 0) e.x += decay * e.w;
  }

  __device__ Element load(long long at) const {
    Element e{widen(grad[at]), widen(w[at]), widen(m[at]), widen(v[at]), A(0)};
    if (amsgrad) e.v_max = widen(v_max[at]);
    if (l2 != 0) e.x += l2 * e.w;
    if (gc_on_update) advance(e);
    return e;
  }

  __device__ void store(long long at, Element e, A mean) const {
    e.x -= mean;
    if (!gc_on_update) advance(e);
    round_to(e.w - lr * e.x, new_w + at);
    round_to(e.m, new_m + at);
    round_to(e.v, new_v + at);
    if (amsgrad) round_to(e.v_max, new_v_max + at);
  }
};

// A rule over a whole array: a block for each `vectors of a block` vectors. The order of every sum follows from the
// shape of the block, which follows from the shape of the array.
template <class Rule>
__device__ void run(const Rule& rule, long long vectors, long long fan_in, long long inner, bool centered,
                    long long block) {
  typedef typename Rule::A A;
  const int kept = 16 / sizeof(A);  // elements of its vector that a thread holds in registers; it reads others twice
  __shared__ A partial[1024];

  const bool rows = inner == 1;
  const int lane = rows ? threadIdx.x : threadIdx.y, lanes = rows ? blockDim.x : blockDim.y;
  const int place = rows ? threadIdx.y : threadIdx.x, places = rows ? blockDim.y : blockDim.x;
  const long long vector = block * places + place;
  const long long first = vector / inner * inner * fan_in + vector % inner;
  const long long end = vector < vectors ? fan_in : 0;  // threads without a vector must still reach the barriers

  typename Rule::Element held[kept];
  A sum = 0;
#pragma unroll
  for (int k = 0; k < kept; ++k) {
    const long long j = lane + (long long)k * lanes;
    if (j < end) {
      held[k] = rule.load(first + j * inner);
      sum += held[k].x;
    }
  }
  for (long long j = lane + (long long)kept * lanes; j < end; j += lanes) sum += rule.load(first + j * inner).x;

  A mean = 0;
  if (centered) {
    A* mine = partial + threadIdx.y * blockDim.x + threadIdx.x;
    const int step = rows ? 1 : blockDim.x;  // from one lane of a vector to the next
    *mine = sum;
    for (int half = lanes / 2; half > 0; half /= 2) {
      __syncthreads();
      if (lane < half) *mine += mine[half * step];
    }
    __syncthreads();
    mean = mine[-lane * step] / fan_in;
  }

#pragma unroll
  for (int k = 0; k < kept; ++k) {
    const long long j = lane + (long long)k * lanes;
    if (j < end) rule.store(first + j * inner, held[k], mean);
  }
  for (long long j = lane + (long long)kept * lanes; j < end; j += lanes) {
    const long long at = first + j * inner;
    rule.store(at, rule.load(at), mean);
  }
}

template <class T, class A = typename Compute<T>::type>
__global__ void __launch_bounds__(1024)
    centralize(const T* grad, T* out, long long vectors, long long fan_in, long long inner, bool centered) {
  run(Centralize<T>{grad, out}, vectors, fan_in, inner, centered, blockIdx.x);
}

template <class T, class A = typename Compute<T>::type>
__global__ void __launch_bounds__(1024)
    sgdm(const T* w, const T* grad, const T* m, T* new_w, T* new_m, A lr, A momentum, A one_minus_dampening, A l2,
         A decay, bool nesterov, bool gc_on_update, long long vectors, long long fan_in, long long inner,
         bool centered) {
  run(Sgdm<T>{w, grad, m, new_w, new_m, lr, momentum, one_minus_dampening, l2, decay, nesterov, gc_on_update}, vectors,
      fan_in, inner, centered, blockIdx.x);
}

template <class T, class A = typename Compute<T>::type>
__global__ void __launch_bounds__(1024)
    adam(const T* w, const T* grad, const T* m, const T* v, const T* v_max, T* new_w, T* new_m, T* new_v, T* new_v_max,
         A lr, A beta1, A one_minus_beta1, A beta2, A one_minus_beta2, A correction1, A correction2, A eps, A l2,
         A decay, bool amsgrad, bool gc_on_update, long long vectors, long long fan_in, long long inner,
         bool centered) {
  run(Adam<T>{w, grad, m, v, v_max, new_w, new_m, new_v, new_v_max, lr, beta1, one_minus_beta1, beta2, one_minus_beta2,
              correction1, correction2, eps, l2, decay, amsgrad, gc_on_update},
      vectors, fan_in, inner, centered, blockIdx.x);
}

// The same in place over many arrays: a row of the table for each. It holds five pointers, in the order of the kernels'
// inputs above, then vectors, fan_in, inner, centered, and its first block. With more threads than 512 registers would be
// spilled.
const int width = 10;

// The row that a block belongs to: the last one whose first block is not behind it.
__device__ const long long* row_of(const long long* table, int rows, long long block) {
  int from = 0, to = rows;
  while (to - from > 1) {
    const int middle = (from + to) / 2;
    if (table[middle * width + width - 1] <= block)
      from = middle;
    else
      to = middle;
  }
  return table + from * width;
}

template <class T, class A = typename Compute<T>::type>
__global__ void __launch_bounds__(512, 1)
    sgdm_table(const long long* table, int rows, A lr, A momentum, A one_minus_dampening, A l2, A decay, bool nesterov,
               bool gc_on_update) {
  const long long* r = row_of(table, rows, blockIdx.x);
  T *w = (T*)r[0], *m = (T*)r[2];
  run(Sgdm<T>{w, (const T*)r[1], m, w, m, lr, momentum, one_minus_dampening, l2, decay, nesterov, gc_on_update}, r[5],
      r[6], r[7], r[8] != 0, blockIdx.x - r[9]);
}

template <class T, class A = typename Compute<T>::type>
__global__ void __launch_bounds__(512, 1)
    adam_table(const long long* table, int rows, A lr, A beta1, A one_minus_beta1, A beta2, A one_minus_beta2,
               A correction1, A correction2, A eps, A l2, A decay, bool amsgrad, bool gc_on_update) {
  const long long* r = row_of(table, rows, blockIdx.x);
  T *w = (T*)r[0], *m = (T*)r[2], *v = (T*)r[3], *v_max = (T*)r[4];
  run(Adam<T>{w, (const T*)r[1], m, v, v_max, w, m, v, v_max, lr, beta1, one_minus_beta1, beta2, one_minus_beta2,
              correction1, correction2, eps, l2, decay, amsgrad, gc_on_update},
      r[5], r[6], r[7], r[8] != 0, blockIdx.x - r[9]);
}
