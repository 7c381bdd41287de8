// Entropic transport, one problem after another in cache; otreg/transport/sinkhorn.py says what it
// computes. A plain C interface, for torch's headers take minutes to compile.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <thread>
#include <vector>

#ifdef __SSE__
#include <xmmintrin.h>
#endif

namespace {

// Numbers too small to be normal are 0 in this scope: they weigh nothing in a plan, and are slow.
class FlushToZero {
#ifdef __SSE__
 public:
  FlushToZero() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~FlushToZero() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#endif
};

constexpr int kSweepsPerLook = 5;   // sweeps between two looks at the rate of convergence
constexpr double kFirstRate = 0.9;  // too much momentum at first costs less than too little
constexpr double kMaxRate = 0.999, kMaxRateFar = 0.98, kFar = 0.1;
constexpr double kAbsorb = 20;  // how far log u and log v run before they are absorbed,
constexpr double kClamp = 35;   // and how far they can get in one sweep

template <typename T>
struct Float;
template <>
struct Float<float> {
  using Int = int32_t;
  static constexpr int mantissa = 23, bias = 127, exp_terms = 7, log_terms = 5;
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float lowest = -80, highest = 80;  // exp of less is slow (denormal) or 0
};
template <>
struct Float<double> {
  using Int = int64_t;
  static constexpr int mantissa = 52, bias = 1023, exp_terms = 13, log_terms = 12;
  static constexpr double ln2_high = 6.93147180369123816490e-01, ln2_low = 1.90821492927058770002e-10;
  static constexpr double lowest = -650, highest = 650;
};

template <typename To, typename From>
inline To bits(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}

// exp and log in forms that compilers turn into vector code; relative error of a few roundings.
template <typename T>
inline T fast_exp(T x) {
  using F = Float<T>;
  x = x < F::lowest ? F::lowest : x;
  x = x > F::highest ? F::highest : x;
  const T n = std::nearbyint(x * T(1.44269504088896340736));
  const T r = (x - n * F::ln2_high) - n * F::ln2_low;
  T p = 1;
  for (int k = F::exp_terms; k > 0; --k) p = T(1) + p * r * (T(1) / T(k));  // Taylor, Horner's way
  using Int = typename F::Int;
  return p * bits<T>((static_cast<Int>(n) + F::bias) << F::mantissa);
}

template <typename T>
inline T fast_log(T x) {  // of positive normal numbers: 2 atanh((x - 1)/(x + 1)) + k log 2
  using F = Float<T>;
  using Int = typename F::Int;
  const Int root_half = bits<Int>(T(0.70710678118654752440));
  const Int k = (bits<Int>(x) - root_half) >> F::mantissa;
  const T y = bits<T>(bits<Int>(x) - (k << F::mantissa));
  const T z = (y - 1) / (y + 1), z2 = z * z;
  T p = 0;
  for (int i = F::log_terms; i >= 0; --i) p = p * z2 + T(2) / T(2 * i + 1);
  return T(k) * F::ln2_high + (T(k) * F::ln2_low + z * p);
}

// Some numbers side by side (GCC's and Clang's vectors); elements past a row's end are 0.
template <typename T>
struct Lanes {
  static constexpr int size = 64 / sizeof(T);
  typedef T type __attribute__((vector_size(64)));

  static type load(const T* from) {
    type x;
    std::memcpy(&x, from, sizeof x);
    return x;
  }
  static void store(T* to, type x) { std::memcpy(to, &x, sizeof x); }
  static type fill(T x) { return x - type{}; }
  static T sum(type x) {
    T total = 0;
    for (int k = 0; k < size; ++k) total += x[k];
    return total;
  }
  static T max(type x) {
    T most = x[0];
    for (int k = 1; k < size; ++k) most = most > x[k] ? most : x[k];
    return most;
  }
};
constexpr int kRows = 16;  // rows that a sweep takes at a time: their part of the kernel stays in L1

// Chebyshev's semi-iteration for a map with eigenvalues in [0, rate]: x += alpha step + beta change.
class Chebyshev {
 public:
  double alpha = 1, beta = 0;

  void next(double rate) {
    const double rho = rate / (2 - rate);
    omega_ = sweeps_ == 0 ? 1 : 1 / (1 - rho * rho * omega_ / (sweeps_ == 1 ? 2 : 4));
    ++sweeps_;
    alpha = omega_ * 2 / (2 - rate);
    beta = omega_ - 1;
  }
  void restart() { sweeps_ = 0; }

 private:
  double omega_ = 1;
  int64_t sweeps_ = 0;
};

struct Settings {
  double epsilon, tau_a, tau_b, tol;
  int64_t max_iter;
};

// One problem without its padding; buffers are kept from problem to problem.
template <typename T>
class Problem {
 public:
  // In units of epsilon from here on.
  void load(const T* cost, const T* a, const T* b, const T* g, int64_t n, int64_t m,
            const Settings& settings) {
    settings_ = settings;
    tau_a_ = T(settings.tau_a);
    tau_b_ = T(settings.tau_b);
    momentum_ = Chebyshev();
    num_iters_ = 0;
    error_ = 0;
    rows_.clear();
    columns_.clear();
    for (int64_t i = 0; i < n; ++i)
      if (a[i] > 0) rows_.push_back(i);
    for (int64_t j = 0; j < m; ++j)
      if (b[j] > 0) columns_.push_back(j);
    n_ = rows_.size();
    m_ = columns_.size();
    if (!n_ || !m_) n_ = m_ = 0;  // nothing can move; potentials and plan stay 0
    stride_ = (m_ + 15) / 16 * 16;        // whole vectors; what is past m_ stays zero
    const int64_t padded = (n_ + kRows - 1) / kRows * kRows;
    cost_.resize(padded * stride_);
    kernel_.resize(padded * stride_);
    for (auto* row : {&f_, &u_, &a_, &log_a_}) row->assign(padded, 0);
    for (auto* column : {&g_, &log_v_, &v_, &b_, &log_b_, &column_sum_, &change_, &base_})
      column->assign(stride_, 0);
    std::fill(kernel_.begin() + n_ * stride_, kernel_.end(), T(0));
    mass_ = 0;
    const T scale = T(1 / settings.epsilon);
    for (int64_t j = 0; j < m_; ++j) {
      b_[j] = b[columns_[j]];
      log_b_[j] = std::log(b_[j]);
      g_[j] = g[columns_[j]] * scale;
      base_[j] = g_[j] + log_b_[j];
    }
    for (int64_t j = m_; j < stride_; ++j) base_[j] = base_[0];
    for (int64_t i = 0; i < n_; ++i) {
      a_[i] = a[rows_[i]];
      mass_ += a_[i];
      log_a_[i] = std::log(a_[i]);
      const T* __restrict from = cost + rows_[i] * m;
      T* __restrict to = &cost_[i * stride_];
      const T* __restrict base = base_.data();
      if (m_ == m)
        for (int64_t j = 0; j < m_; ++j) to[j] = from[j] * scale;
      else
        for (int64_t j = 0; j < m_; ++j) to[j] = from[columns_[j]] * scale;
      for (int64_t j = m_; j < stride_; ++j) to[j] = to[0];
      auto best = L::load(base) - L::load(to);
      for (int64_t j = L::size; j < stride_; j += L::size) {
        const auto other = L::load(base + j) - L::load(to + j);
        best = best > other ? best : other;
      }
      f_[i] = -tau_a_ * L::max(best);  // the first row update makes it the soft minimum
    }
  }

  void solve() {
    if (!n_ || !m_) return;
    double rate = kFirstRate, last_error = -1;
    std::fill(v_.begin(), v_.begin() + m_, T(1));
    std::fill(u_.begin(), u_.begin() + n_, T(1));
    build();
    while (true) {
      error_ = column_residual() / mass_;
      if (error_ <= settings_.tol || num_iters_ >= settings_.max_iter) return;
      if (num_iters_ > 0 && num_iters_ % kSweepsPerLook == 0) {
        if (last_error > 0) rate = next_rate(rate, error_, last_error);
        last_error = error_;
      }
      momentum_.next(rate);
      const T drift = update_columns(T(momentum_.alpha), T(momentum_.beta));
      if (std::max(drift, row_drift()) > T(kAbsorb))
        absorb();
      else
        sweep_rows();
      ++num_iters_;
    }
  }

  void write(T* f, T* g, T* plan, int64_t m, int64_t* num_iters, T* error) {
    const T epsilon = T(settings_.epsilon), least = T(kLeast * mass_);
    T* row = base_.data();
    for (int64_t i = 0; i < n_; ++i) {
      for (int64_t j = 0; j < stride_; j += L::size) {  // the same to the bit however it is padded
        const auto value = u_[i] * L::load(&kernel_[i * stride_ + j]) * L::load(&v_[j]);
        L::store(row + j, value > least ? value : L::fill(0));
      }
      T* to = plan + rows_[i] * m;
      if (m_ == m)
        std::copy(row, row + m_, to);
      else
        for (int64_t j = 0; j < m_; ++j) to[columns_[j]] = row[j];
      f[rows_[i]] = (f_[i] + fast_log(u_[i])) * epsilon;
    }
    for (int64_t j = 0; j < m_; ++j) g[columns_[j]] = (g_[j] + log_v_[j]) * epsilon;
    *num_iters = num_iters_;
    *error = T(error_);
  }

 private:
  using L = Lanes<T>;
  static constexpr T kTiny = sizeof(T) == 4 ? T(1e-34) : T(1e-280);
  static constexpr double kLeast = sizeof(T) == 4 ? 1e-30 : 1e-250;  // see LEAST in sinkhorn.py
  static constexpr T kMostFactor = T(1.586e15);  // exp(kClamp)

  // f <- tau_a T'(g) for kRows rows, whose kernel sums to `sums` against v.
  void update_rows(int64_t i, const T* sums) {
    T *u = &u_[i], *a = &a_[i], *log_a = &log_a_[i], *f = &f_[i];
    if (tau_a_ == 1)
      for (int r = 0; r < kRows; ++r) u[r] = a[r] / (sums[r] > kTiny ? sums[r] : kTiny);
    else
      for (int r = 0; r < kRows; ++r) {
        const T sum = sums[r] > kTiny ? sums[r] : kTiny;
        u[r] = fast_exp(tau_a_ * (f[r] + log_a[r] - fast_log(sum)) - f[r]);
      }
    for (int r = 0; r < kRows; ++r) {
      u[r] = u[r] > 1 / kMostFactor ? u[r] : 1 / kMostFactor;
      u[r] = u[r] < kMostFactor ? u[r] : kMostFactor;
    }
  }

  // The kernel of the potentials so far (u = v = 1), the row update, and column_sum = K'u.
  void build() {
    std::fill(column_sum_.begin(), column_sum_.end(), T(0));
    for (int64_t j = 0; j < m_; ++j) base_[j] = log_b_[j] + g_[j];
    const T* __restrict base = base_.data();
    T* __restrict total = column_sum_.data();
    for (int64_t i = 0; i < n_; i += kRows) {
      T sums[kRows] = {};
      for (int64_t r = 0; r < kRows && i + r < n_; ++r) {
        const T* __restrict cost = &cost_[(i + r) * stride_];
        T* __restrict kernel = &kernel_[(i + r) * stride_];
        const T row_base = log_a_[i + r] + f_[i + r];
        T sum = 0;
        for (int64_t j = 0; j < m_; ++j) {
          const T value = fast_exp(row_base + base[j] - cost[j]);
          kernel[j] = value;
          sum += value;
        }
        for (int64_t j = m_; j < stride_; ++j) kernel[j] = 0;
        sums[r] = sum;
      }
      update_rows(i, sums);
      for (int64_t r = 0; r < kRows && i + r < n_; ++r) {
        const T u = u_[i + r];
        const T* __restrict kernel = &kernel_[(i + r) * stride_];
        for (int64_t j = 0; j < stride_; ++j) total[j] += u * kernel[j];
      }
    }
  }

  // Move u and v into the potentials, and build anew.
  void absorb() {
    for (int64_t i = 0; i < n_; ++i) f_[i] += fast_log(u_[i]);
    for (int64_t j = 0; j < m_; ++j) g_[j] += log_v_[j];
    std::fill(log_v_.begin(), log_v_.end(), T(0));
    std::fill(v_.begin(), v_.begin() + m_, T(1));
    build();
  }

  // L1 distance of the columns from b, or from their next update where they are relaxed; rows have
  // just been updated, so theirs is 0.
  double column_residual() const {
    T error = 0;
    if (tau_b_ == 1) {
      for (int64_t j = 0; j < m_; ++j) error += std::abs(v_[j] * column_sum_[j] - b_[j]);
      return error;
    }
    for (int64_t j = 0; j < m_; ++j) {
      const T step = std::min(column_step(j), T(kClamp));
      error += std::abs(v_[j] * column_sum_[j] * std::expm1(step));
    }
    return error;
  }

  // tau_b T(f) - g
  T column_step(int64_t j) const {
    const T sum = column_sum_[j] > kTiny ? column_sum_[j] : kTiny;
    return tau_b_ * (g_[j] + log_b_[j] - fast_log(sum)) - (g_[j] + log_v_[j]);
  }

  // g <- g + alpha (tau_b T(f) - g) + beta change; returns how far v has drifted.
  T update_columns(T alpha, T beta) {
    T drift = 0;
    T *__restrict change = change_.data(), *__restrict log_v = log_v_.data(),
      *__restrict v = v_.data();
    for (int64_t j = 0; j < m_; ++j) change[j] = alpha * column_step(j) + beta * change[j];
    for (int64_t j = 0; j < m_; ++j) {
      T next = log_v[j] + change[j];
      next = next < T(-kClamp) ? T(-kClamp) : next;
      next = next > T(kClamp) ? T(kClamp) : next;
      log_v[j] = next;
      v[j] = fast_exp(next);
      const T size = next < 0 ? -next : next;
      drift = drift > size ? drift : size;
    }
    return drift;
  }

  T row_drift() const {
    auto largest = L::fill(1), smallest = L::fill(1);
    int64_t i = 0;
    for (; i + L::size <= n_; i += L::size) {
      const auto u = L::load(&u_[i]);
      largest = largest > u ? largest : u;
      smallest = smallest < u ? smallest : u;
    }
    T most = L::max(largest), least = 1 / L::max(1 / smallest);
    for (; i < n_; ++i) {
      most = std::max(most, u_[i]);
      least = std::min(least, u_[i]);
    }
    return std::max(std::log(most), -std::log(least));
  }

  // f <- tau_a T'(g), and column_sum = K'u in the same pass.
  void sweep_rows() {
    T* t = column_sum_.data();
    std::fill(t, t + stride_, T(0));
    const T* v = v_.data();
    for (int64_t i = 0; i < n_; i += kRows) {
      const T* kernel = &kernel_[i * stride_];
      T sums[kRows];
      for (int r = 0; r < kRows; r += 4) {
        const T *k0 = kernel + r * stride_, *k1 = k0 + stride_, *k2 = k1 + stride_,
                *k3 = k2 + stride_;
        auto s0 = L::fill(0), s1 = s0, s2 = s0, s3 = s0;
        for (int64_t j = 0; j < stride_; j += L::size) {
          const auto factor = L::load(v + j);
          s0 += L::load(k0 + j) * factor;
          s1 += L::load(k1 + j) * factor;
          s2 += L::load(k2 + j) * factor;
          s3 += L::load(k3 + j) * factor;
        }
        sums[r] = L::sum(s0);
        sums[r + 1] = L::sum(s1);
        sums[r + 2] = L::sum(s2);
        sums[r + 3] = L::sum(s3);
      }
      update_rows(i, sums);
      const T* u = &u_[i];
      for (int64_t j = 0; j < stride_; j += L::size) {
        auto total = L::load(t + j), more = L::fill(0);
        for (int r = 0; r < kRows; r += 2) {
          total += u[r] * L::load(kernel + r * stride_ + j);
          more += u[r + 1] * L::load(kernel + (r + 1) * stride_ + j);
        }
        L::store(t + j, total + more);
      }
    }
  }

  double next_rate(double rate, double error, double last_error) {
    // Once omega has settled, a mode with eigenvalue l obeys z^2 - (1 + beta - alpha (1 - l)) z +
    // beta = 0, so a decay z = q slower than sqrt(beta) reveals l. Otherwise the momentum is enough
    // or too much, and is eased; where the error grew, it starts afresh.
    const double alpha = momentum_.alpha, beta = momentum_.beta;
    const double ratio = std::clamp(error / std::max(last_error, 1e-300), 1e-6, 1e6);
    const double q = std::pow(ratio, 1.0 / kSweepsPerLook);
    if (q >= 1) {
      rate = 1 - 2 * (1 - rate);
      std::fill(change_.begin(), change_.end(), T(0));
      momentum_.restart();
    } else if (q > std::sqrt(beta)) {
      rate = std::max(rate, 1 - (1 + beta - q - beta / q) / alpha);
    } else {
      rate = 1 - 1.5 * (1 - rate);
    }
    return std::clamp(rate, 0.0, error > kFar ? kMaxRateFar : kMaxRate);
  }

  Settings settings_{};
  Chebyshev momentum_;
  std::vector<int64_t> rows_, columns_;
  int64_t n_ = 0, m_ = 0, stride_ = 0, num_iters_ = 0;
  T tau_a_ = 1, tau_b_ = 1;
  double mass_ = 0, error_ = 0;
  std::vector<T> cost_, kernel_, f_, u_, a_, log_a_;
  std::vector<T> g_, log_v_, v_, b_, log_b_, column_sum_, change_, base_;
};

template <typename T>
void solve(const T* cost, const T* a, const T* b, const T* g0, int64_t batch, int64_t n, int64_t m,
           const Settings& settings, int64_t num_threads, T* f, T* g, T* plan, int64_t* num_iters,
           T* error) {
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    const FlushToZero flush;
    Problem<T> problem;
    for (int64_t k; (k = next++) < batch;) {
      problem.load(cost + k * n * m, a + k * n, b + k * m, g0 + k * m, n, m, settings);
      problem.solve();
      problem.write(f + k * n, g + k * m, plan + k * n * m, m, num_iters + k, error + k);
    }
  };
  std::vector<std::thread> helpers;
  for (int64_t t = 1; t < std::min(num_threads, batch); ++t) helpers.emplace_back(work);
  work();
  for (auto& helper : helpers) helper.join();
}

}  // namespace

#define OTREG_SOLVE(name, T)                                                                     \
  extern "C" void name(const T* cost, const T* a, const T* b, const T* g0, int64_t batch,        \
                       int64_t n, int64_t m, double epsilon, double tau_a, double tau_b,         \
                       double tol, int64_t max_iter, int64_t num_threads, T* f, T* g, T* plan,   \
                       int64_t* num_iters, T* error) {                                           \
    solve<T>(cost, a, b, g0, batch, n, m, Settings{epsilon, tau_a, tau_b, tol, max_iter},        \
             num_threads, f, g, plan, num_iters, error);                                         \
  }
OTREG_SOLVE(otreg_sinkhorn_float32, float)
OTREG_SOLVE(otreg_sinkhorn_float64, double)
