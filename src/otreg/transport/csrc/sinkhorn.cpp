// Entropic transport, one problem after another in cache; see otreg/transport/sinkhorn.py for what it
// computes and otreg/transport/kernel_domain.py for the same iteration in torch.
// A plain C interface, for torch's headers take minutes to compile.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <thread>
#include <vector>

namespace {

constexpr int kSweepsPerCheck = 5;  // sweeps between two looks at the rate of convergence
constexpr double kFirstRate = 0.9;  // too much momentum at first costs less than too little
constexpr double kMaxDrift = 30.0;   // how far log u and log v may run before they are absorbed
const double kLargestFactor = std::exp(kMaxDrift);
constexpr double kMaxRate = 0.999, kMaxRateFar = 0.98, kFar = 0.1;

template <typename T>
constexpr T log_tiny() {
  return sizeof(T) == 4 ? T(-80) : T(-650);
}

// exp in a form that compilers turn into vector code; relative error below 2e-7 in [-87, 88].
inline float fast_exp(float x) {
  x = std::min(std::max(x, -87.0f), 88.0f);
  const float n = std::nearbyint(x * 1.44269504f);
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}
inline double fast_exp(double x) { return std::exp(x); }

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

template <typename T>
class Problem {
 public:
  Problem(const T* cost, const T* a, const T* b, const T* g, int64_t n, int64_t m, double epsilon,
          double tau_a, double tau_b)
      : tau_a_(T(tau_a)), tau_b_(T(tau_b)) {
    for (int64_t i = 0; i < n; ++i)
      if (a[i] > 0) rows_.push_back(i);
    for (int64_t j = 0; j < m; ++j)
      if (b[j] > 0) columns_.push_back(j);
    n_ = rows_.size();
    m_ = columns_.size();
    stride_ = (m_ + 15) / 16 * 16;  // whole vectors; what is past m_ stays zero
    const int64_t padded = (n_ + 3) / 4 * 4;  // four rows at a time
    cost_.assign(n_ * stride_, 0);
    kernel_.assign(padded * stride_, 0);
    for (auto* row : {&f_, &u_, &a_, &log_a_, &row_sum_}) row->assign(padded, 0);
    std::fill(u_.begin(), u_.end(), T(1));
    for (auto* column : {&g_, &log_v_, &v_, &b_, &log_b_, &column_sum_, &change_, &column_base_})
      column->assign(stride_, 0);
    mass_ = 0;
    const T scale = T(1 / epsilon);
    for (int64_t i = 0; i < n_; ++i) {
      a_[i] = a[rows_[i]];
      log_a_[i] = std::log(a_[i]);
      mass_ += a_[i];
      for (int64_t j = 0; j < m_; ++j)
        cost_[i * stride_ + j] = cost[rows_[i] * m + columns_[j]] * scale;
    }
    for (int64_t j = 0; j < m_; ++j) {
      b_[j] = b[columns_[j]];
      log_b_[j] = std::log(b_[j]);
      g_[j] = g[columns_[j]] * scale;
    }
    start_rows();
  }

  void solve(double tol, int64_t max_iter) {
    if (!n_ || !m_) return;
    double rate = kFirstRate, last_error = -1;
    while (true) {
      absorb();
      error_ = residual(row_sum_, a_, f_, tau_a_, n_) + residual(column_sum_, b_, g_, tau_b_, m_);
      error_ /= mass_;
      if (error_ <= tol || num_iters_ >= max_iter) return;
      // The error that a sweep sees is of the potentials before it; absorbing has the last word.
      for (double error = 2 * tol; error > tol && num_iters_ < max_iter;) {
        momentum_.next(rate);
        error = update_columns(T(momentum_.alpha), T(momentum_.beta)) / mass_;
        if (sweep_rows() > kMaxDrift / 2) absorb();
        if (++num_iters_ % kSweepsPerCheck == 0) {
          if (last_error > 0) rate = next_rate(rate, error, last_error);
          last_error = error;
        }
      }
    }
  }

  void write(T* f, T* g, T* plan, int64_t m, double epsilon, int64_t* num_iters, T* error) const {
    for (int64_t i = 0; i < n_; ++i) {
      f[rows_[i]] = T(f_[i] * epsilon);
      for (int64_t j = 0; j < m_; ++j)
        plan[rows_[i] * m + columns_[j]] = kernel_[i * stride_ + j];
    }
    for (int64_t j = 0; j < m_; ++j) g[columns_[j]] = T(g_[j] * epsilon);
    *num_iters = num_iters_;
    *error = T(error_);
  }

 private:
  // f = tau_a T'(g), in the log domain.
  void start_rows() {
    for (int64_t i = 0; i < n_; ++i) {
      const T* cost = &cost_[i * stride_];
      T highest = -std::numeric_limits<T>::max(), sum = 0;
      for (int64_t j = 0; j < m_; ++j) highest = std::max(highest, log_b_[j] + g_[j] - cost[j]);
      for (int64_t j = 0; j < m_; ++j) sum += fast_exp(log_b_[j] + g_[j] - cost[j] - highest);
      f_[i] = -tau_a_ * (highest + std::log(sum));
    }
  }

  // Move u and v into the potentials: the kernel is then their plan, and u = v = 1.
  void absorb() {
    for (int64_t i = 0; i < n_; ++i) f_[i] += std::log(u_[i]);
    for (int64_t j = 0; j < m_; ++j) g_[j] += log_v_[j];
    std::fill(u_.begin(), u_.end(), T(1));
    std::fill(log_v_.begin(), log_v_.end(), T(0));
    std::fill(column_sum_.begin(), column_sum_.end(), T(0));
    for (int64_t j = 0; j < m_; ++j) column_base_[j] = log_b_[j] + g_[j];
    const T* __restrict base = column_base_.data();
    T* __restrict total = column_sum_.data();
    for (int64_t i = 0; i < n_; ++i) {
      const T* __restrict cost = &cost_[i * stride_];
      T* __restrict kernel = &kernel_[i * stride_];
      const T row_base = log_a_[i] + f_[i];
      T sum = 0;
      for (int64_t j = 0; j < m_; ++j) {
        const T value = fast_exp(std::max(row_base + base[j] - cost[j], log_tiny<T>()));
        kernel[j] = value;
        sum += value;
        total[j] += value;
      }
      row_sum_[i] = sum;
    }
  }

  // g <- g + alpha (tau_b T(f) - g) + beta change; returns the marginal error before it.
  double update_columns(T alpha, T beta) {
    double error = 0;
    const T tiny = std::exp(log_tiny<T>());
    for (int64_t j = 0; j < m_; ++j) {
      const T potential = g_[j] + log_v_[j];
      const T marginal = std::max(column_sum_[j], tiny);  // without v, which the loop below knows
      const T step = tau_b_ * (g_[j] + log_b_[j] - std::log(marginal)) - potential;
      const T here = marginal * std::exp(log_v_[j]);
      error += tau_b_ == 1 ? std::abs(here - b_[j])
                           : std::abs(here * std::expm1(std::min(step, T(kMaxDrift))));
      change_[j] = alpha * step + beta * change_[j];
      log_v_[j] = std::clamp(log_v_[j] + change_[j], T(-kMaxDrift), T(kMaxDrift));
      v_[j] = std::exp(log_v_[j]);
    }
    return error;
  }

  T row_factor(int64_t i, T sum) {
    sum = std::max(sum, std::exp(log_tiny<T>()));
    const T u = tau_a_ == 1 ? a_[i] / sum
                            : std::exp(tau_a_ * (f_[i] + log_a_[i] - std::log(sum)) - f_[i]);
    return u_[i] = std::clamp(u, T(1 / kLargestFactor), T(kLargestFactor));
  }

  // f <- tau_a T'(g), and column_sum = K'u in the same pass; returns the largest drift.
  double sweep_rows() {
    std::fill(column_sum_.begin(), column_sum_.end(), T(0));
    T* __restrict t = column_sum_.data();
    const T* __restrict v = v_.data();
    for (int64_t i = 0; i < n_; i += 4) {  // rows past n_ are zero, and so is their mass
      const T* __restrict k0 = &kernel_[i * stride_];
      const T *__restrict k1 = k0 + stride_, *__restrict k2 = k1 + stride_,
              *__restrict k3 = k2 + stride_;
      T s0 = 0, s1 = 0, s2 = 0, s3 = 0;
      for (int64_t j = 0; j < stride_; ++j) {
        s0 += k0[j] * v[j];
        s1 += k1[j] * v[j];
        s2 += k2[j] * v[j];
        s3 += k3[j] * v[j];
      }
      const T u0 = row_factor(i, s0), u1 = row_factor(i + 1, s1), u2 = row_factor(i + 2, s2),
              u3 = row_factor(i + 3, s3);
      for (int64_t j = 0; j < stride_; ++j)
        t[j] += (u0 * k0[j] + u1 * k1[j]) + (u2 * k2[j] + u3 * k3[j]);
    }
    T largest = 1, smallest = 1;
    for (int64_t i = 0; i < n_; ++i) {
      largest = std::max(largest, u_[i]);
      smallest = std::min(smallest, u_[i]);
    }
    T drift = std::max(std::log(largest), -std::log(smallest));
    for (int64_t j = 0; j < m_; ++j) drift = std::max(drift, std::abs(log_v_[j]));
    return drift;
  }

  double residual(const std::vector<T>& marginal, const std::vector<T>& mass,
                  const std::vector<T>& potential, T tau, int64_t size) const {
    double total = 0;
    const T tiny = std::exp(log_tiny<T>());
    for (int64_t k = 0; k < size; ++k) {
      if (tau == 1) {
        total += std::abs(marginal[k] - mass[k]);
      } else {
        const T ratio = std::log(std::max(mass[k], tiny) / std::max(marginal[k], tiny));
        const T step = tau * (potential[k] + ratio) - potential[k];
        total += std::abs(marginal[k] * std::expm1(std::min(step, T(kMaxDrift))));
      }
    }
    return total;
  }

  double next_rate(double rate, double error, double last_error) {
    // Once omega has settled, a mode with eigenvalue l obeys z^2 - (1 + beta - alpha (1 - l)) z +
    // beta = 0, so a decay z = q slower than sqrt(beta) reveals l. Otherwise the momentum is enough
    // or too much, and is eased; where the error grew, it starts afresh.
    const double alpha = momentum_.alpha, beta = momentum_.beta;
    const double ratio = std::clamp(error / std::max(last_error, 1e-300), 1e-6, 1e6);
    const double q = std::pow(ratio, 1.0 / kSweepsPerCheck);
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

  Chebyshev momentum_;
  std::vector<int64_t> rows_, columns_;
  int64_t n_ = 0, m_ = 0, stride_ = 0, num_iters_ = 0;
  T tau_a_, tau_b_;
  double mass_ = 0, error_ = 0;
  std::vector<T> cost_, kernel_, f_, u_, a_, log_a_, row_sum_;
  std::vector<T> g_, log_v_, v_, b_, log_b_, column_sum_, change_, column_base_;
};

template <typename T>
void solve(const T* cost, const T* a, const T* b, const T* g0, int64_t batch, int64_t n, int64_t m,
           double epsilon, double tau_a, double tau_b, double tol, int64_t max_iter,
           int64_t num_threads, T* f, T* g, T* plan, int64_t* num_iters, T* error) {
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t k; (k = next++) < batch;) {
      Problem<T> problem(cost + k * n * m, a + k * n, b + k * m, g0 + k * m, n, m, epsilon, tau_a,
                         tau_b);
      problem.solve(tol, max_iter);
      problem.write(f + k * n, g + k * m, plan + k * n * m, m, epsilon, num_iters + k, error + k);
    }
  };
  std::vector<std::thread> helpers;
  for (int64_t t = 1; t < std::min(num_threads, batch); ++t) helpers.emplace_back(work);
  work();
  for (auto& helper : helpers) helper.join();
}

}  // namespace

#define OTREG_SOLVE(name, T)                                                                      \
  extern "C" void name(const T* cost, const T* a, const T* b, const T* g0, int64_t batch,         \
                       int64_t n, int64_t m, double epsilon, double tau_a, double tau_b,          \
                       double tol, int64_t max_iter, int64_t num_threads, T* f, T* g, T* plan,    \
                       int64_t* num_iters, T* error) {                                            \
    solve<T>(cost, a, b, g0, batch, n, m, epsilon, tau_a, tau_b, tol, max_iter, num_threads, f,   \
             g, plan, num_iters, error);                                                          \
  }
OTREG_SOLVE(otreg_sinkhorn_float32, float)
OTREG_SOLVE(otreg_sinkhorn_float64, double)
