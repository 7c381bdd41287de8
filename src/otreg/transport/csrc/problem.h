// One entropic transport problem, solved in cache; otreg/transport/sinkhorn.py says what it computes.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "momentum.h"
#include "tiles.h"
#include "vectors.h"

namespace {

constexpr double kAbsorb = 20;  // how far log u and log v run before they are absorbed,
constexpr double kClamp = 35;   // and how far they can get in one sweep
constexpr int64_t kL1 = 32768;        // bytes
constexpr int64_t kLarge = 1 << 20;   // bytes: a kernel that may not stay in the second-level cache is
constexpr double kFar = 2e-3;         // also kept rounded, for the sweeps at errors above this

struct Settings {
  double epsilon, tau_a, tau_b, tol;
  int64_t max_iter;
};

// One problem without its padding; buffers are kept from problem to problem.
template <typename T>
class Problem {
 public:
  // In units of epsilon from here on; the cost is read where it lies.
  void load(const T* cost, const T* a, const T* b, const T* g, int64_t n, int64_t m,
            const Settings& settings) {
    settings_ = settings;
    scale_ = T(1 / settings.epsilon);
    tau_a_ = T(settings.tau_a);
    tau_b_ = T(settings.tau_b);
    momentum_ = Momentum();
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
    mass_ = 0;
    for (int64_t i : rows_) mass_ += a[i];
    if (!n_ || !m_) n_ = m_ = 0;  // nothing can move; potentials and plan stay 0
    stride_ = (m_ + 15) / 16 * 16;  // whole vectors; v is 0 past m_, whatever the kernel is there
    const int64_t padded = (n_ + kRows - 1) / kRows * kRows;
    kernel_.resize(padded * stride_);
    rounds_ = padded * stride_ * int64_t(sizeof(T)) > kLarge;
    rounded_.resize(rounds_ ? kernel_.size() / 2 : 0);
    f_.assign(padded, 0);
    u_.assign(padded, 1);
    a_.assign(padded, kTiny);  // past n_ the kernel is 0, and u = 1
    log_a_.resize(padded);
    for (auto* column : {&g_, &log_v_, &v_, &b_, &log_b_, &real_, &column_sum_, &change_, &base_})
      column->assign(stride_, 0);
    if (padded > n_) std::fill(kernel_.end() - kRows * stride_, kernel_.end(), T(0));
    for (int64_t j = 0; j < m_; ++j) {
      b_[j] = b[columns_[j]];
      real_[j] = 1;
      g_[j] = g[columns_[j]] * scale_;
    }
    for (int64_t i = 0; i < n_; ++i) a_[i] = a[rows_[i]];
    for (int64_t i = 0; i < padded; i += L::size) L::store(&log_a_[i], L::log(L::load(&a_[i])));
    for (int64_t j = 0; j < stride_; j += L::size)
      L::store(&log_b_[j], L::log(L::greater(L::load(&b_[j]), L::fill(kTiny))));
    source_ = cost;
    source_stride_ = m;
    holes_ = m_ && columns_.back() != m_ - 1;
    if (!holes_) return;
    cost_.resize(n_ * m_);  // padding between real columns: they are gathered once
    for (int64_t i = 0; i < n_; ++i)
      for (int64_t j = 0; j < m_; ++j) cost_[i * m_ + j] = cost[rows_[i] * m + columns_[j]];
  }

  void solve() {
    if (!n_ || !m_) return;
    v_ = real_;
    build(true);
    const double far = std::max(settings_.tol, kFar);
    while (true) {
      error_ = column_residual() / mass_;
      T drift = 0;
      const bool is_last = num_iters_ >= settings_.max_iter;
      if (rounds_ && (error_ <= far || is_last)) {
        rounds_ = false;  // for good: what solves the rounded kernel need not solve the exact one
      } else {
        if (error_ <= settings_.tol || is_last) return;
        if (momentum_.next(error_)) std::fill(change_.begin(), change_.end(), T(0));
        drift = update_columns(T(momentum_.alpha), T(momentum_.beta));
        ++num_iters_;
      }
      if (drift > T(kAbsorb) || rows_drifted())
        absorb();
      else if (rounds_)
        sweep_rows(Rounded<T>{rounded_.data()});
      else
        sweep_rows(Exact<T>{kernel_.data()});
    }
  }

  // Everything of this problem, padding included.
  void write(T* f, T* g, T* plan, T* rows, T* columns, int64_t n, int64_t m, int64_t* num_iters,
             T* error) {
    const T epsilon = T(settings_.epsilon), least = T(kLeast * mass_);
    absorb_rows();
    std::fill(f, f + n, T(0));
    std::fill(g, g + m, T(0));
    std::fill(rows, rows + n, T(0));
    std::fill(columns, columns + m, T(0));
    T* row = base_.data();
    int64_t done = 0;  // rows of the plan
    double apart = m_ ? 0 : mass_;  // of the rows from a
    for (int64_t i = 0; i < n_; ++i) {
      auto total = L::fill(0);
      for (int64_t j = 0; j < stride_; j += L::size) {  // the same to the bit however it is padded
        auto value = u_[i] * Exact<T>{kernel_.data()}.row(place(i / kRows * kRows, j), i % kRows);
        value *= L::load(&v_[j]);
        value = value > L::fill(least) ? value : L::fill(0);
        total += value;
        L::store(row + j, value);
      }
      T* to = plan + rows_[i] * m;
      std::fill(plan + done * m, to, T(0));
      done = rows_[i] + 1;
      if (holes_) {
        std::fill(to, to + m, T(0));
        for (int64_t j = 0; j < m_; ++j) to[columns_[j]] = row[j];
      } else {
        std::copy(row, row + m_, to);
        std::fill(to + m_, to + m, T(0));
      }
      rows[rows_[i]] = L::sum(total);
      apart += std::abs(rows[rows_[i]] - a_[i]);
      f[rows_[i]] = f_[i] * epsilon;
    }
    std::fill(plan + done * m, plan + n * m, T(0));
    for (int64_t j = 0; j < m_; ++j) {
      g[columns_[j]] = (g_[j] + log_v_[j]) * epsilon;
      columns[columns_[j]] = v_[j] * column_sum_[j];
    }
    *num_iters = num_iters_;
    // Rows are exact, but for one whose mass can go nowhere: that is an error too. NaN stays.
    const bool counts = tau_a_ == 1 && error_ == error_ && !(apart <= error_ * mass_);
    *error = T(counts ? apart / mass_ : error_);
    if (rows_.empty() && !columns_.empty() && tau_b_ == 1)  // the same of columns, as a share of 0
      *error = std::numeric_limits<T>::infinity();
  }

 private:
  using L = Lanes<T>;
  static constexpr T kTiny = sizeof(T) == 4 ? T(1e-34) : T(1e-280);
  static constexpr double kLeast = sizeof(T) == 4 ? 1e-30 : 1e-250;  // see LEAST in problem.py
  static constexpr T kMostFactor = T(1.586e15);   // exp(kClamp)
  static constexpr T kAbsorbFactor = T(4.852e8);  // exp(kAbsorb)

  // f <- tau_a T'(g) for kRows rows, whose kernel sums to `sums` against v.
  void update_rows(int64_t i, const T* sums) {
    for (int r = 0; r < kRows; r += L::size) {
      const auto sum = L::greater(L::load(sums + r), L::fill(kTiny));
      typename L::type u;
      if (tau_a_ == 1) {
        u = L::load(&a_[i + r]) / sum;
      } else {
        const auto f = L::load(&f_[i + r]);
        u = L::exp(tau_a_ * (f + L::load(&log_a_[i + r]) - L::log(sum)) - f);
      }
      L::store(&u_[i + r], L::within(u, 1 / kMostFactor, kMostFactor));
    }
  }

  // The kernel of the potentials so far (u = v = 1), the row update, and column_sum = K'u. At first
  // f is the hard minimum, of which the row update makes the soft one.
  void build(bool first) {
    std::fill(column_sum_.begin(), column_sum_.end(), T(0));
    for (int64_t j = 0; j < m_; ++j) base_[j] = log_b_[j] + g_[j];
    std::fill(base_.begin() + m_, base_.end(), -std::numeric_limits<T>::infinity());
    T last[kRows] = {};  // the end of a row, in whole vectors
    const int64_t whole = m_ / kRows * kRows;
    for (int64_t i = 0; i < n_; i += kRows) {
      typename L::type s[kRows] = {};
      T sums[kRows];
      for (int64_t r = 0; r < kRows && i + r < n_; ++r) {
        const T* cost = holes_ ? &cost_[(i + r) * m_] : source_ + rows_[i + r] * source_stride_;
        if (whole < m_) std::copy(cost + whole, cost + m_, last);
        if (first) f_[i + r] = -tau_a_ * highest(cost, whole, last);
        const T row_base = log_a_[i + r] + f_[i + r];
        auto sum = L::fill(0);
        for (int64_t j = 0; j < stride_; j += L::size) {
          const auto from = L::load(j < whole ? cost + j : last + (j - whole));
          const auto value = L::exp(row_base + L::load(&base_[j]) - from * scale_);
          L::store(&kernel_[place(i, j) + r * L::size], value);
          sum += value * L::load(&v_[j]);
        }
        s[r] = sum;
      }
      for (int part = 0; part < kRows; part += L::size)
        L::store(sums + part, L::sums(s + part));
      update_rows(i, sums);
      add_columns(i, Exact<T>{kernel_.data()});
      if (rounds_) round_tiles(&kernel_[place(i, 0)], &rounded_[place(i, 0) / 2], kRows * stride_);
    }
  }

  // The largest of a row's base - cost, its end in `last`; -infinity, and so f NaN, where all cost is
  // infinite.
  T highest(const T* cost, int64_t whole, const T* last) const {
    auto best = L::fill(0) - std::numeric_limits<T>::infinity();
    for (int64_t j = 0; j < whole; j += L::size) {
      const auto value = L::load(&base_[j]) - L::load(cost + j) * scale_;
      best = best > value ? best : value;
    }
    T most = L::max(best);
    for (int64_t j = whole; j < m_; ++j) most = std::max(most, base_[j] - last[j - whole] * scale_);
    return most;
  }

  // Move u and v into the potentials, and build anew.
  void absorb() {
    absorb_rows();
    for (int64_t j = 0; j < m_; ++j) g_[j] += log_v_[j];
    std::fill(log_v_.begin(), log_v_.end(), T(0));
    v_ = real_;
    build(false);
  }

  void absorb_rows() {
    for (std::size_t i = 0; i < f_.size(); i += L::size)
      L::store(&f_[i], L::load(&f_[i]) + L::log(L::load(&u_[i])));
  }

  // L1 distance of the columns from b, or from their next update where they are relaxed; rows have
  // just been updated, so theirs is 0.
  double column_residual() const {
    auto error = L::fill(0);
    for (int64_t j = 0; j < stride_; j += L::size) {
      const auto columns = L::load(&v_[j]) * L::load(&column_sum_[j]);
      if (tau_b_ == 1) {
        error += L::absolute(columns - L::load(&b_[j]));
      } else {
        const auto step = L::lesser(column_step(j), L::fill(kClamp));
        // expm1 by exp loses digits of steps that are below what counts
        error += L::absolute(columns * (L::exp(step) - 1));
      }
    }
    return L::sum(error);
  }

  // tau_b T(f) - g, from column j on
  typename L::type column_step(int64_t j) const {
    const auto sum = L::greater(L::load(&column_sum_[j]), L::fill(kTiny));
    const auto g = L::load(&g_[j]);
    return tau_b_ * (g + L::load(&log_b_[j]) - L::log(sum)) - (g + L::load(&log_v_[j]));
  }

  // g <- g + alpha (tau_b T(f) - g) + beta change; returns how far v has drifted.
  T update_columns(T alpha, T beta) {
    auto drift = L::fill(0);
    for (int64_t j = 0; j < stride_; j += L::size) {
      const auto real = L::load(&real_[j]);
      const auto change = real * (alpha * column_step(j) + beta * L::load(&change_[j]));
      const auto log_v = L::within(L::load(&log_v_[j]) + change, T(-kClamp), T(kClamp));
      L::store(&change_[j], change);
      L::store(&log_v_[j], log_v);
      L::store(&v_[j], real * L::exp(log_v));
      drift = L::greater(drift, L::absolute(log_v));
    }
    return L::max(drift);
  }

  bool rows_drifted() const {
    auto most = L::fill(1), least = L::fill(1);
    for (std::size_t i = 0; i < u_.size(); i += L::size) {
      most = L::greater(most, L::load(&u_[i]));
      least = L::lesser(least, L::load(&u_[i]));
    }
    return L::max(most) > kAbsorbFactor || L::min(least) < 1 / kAbsorbFactor;
  }

  // f <- tau_a T'(g), and column_sum = K'u in the same pass.
  template <typename Kernel>
  void sweep_rows(const Kernel kernel) {
    std::fill(column_sum_.begin(), column_sum_.end(), T(0));
    const T* v = v_.data();
    // Column sums that come one step behind need not wait for these rows; both must stay in L1.
    const int64_t behind = 2 * kRows * stride_ * Kernel::bytes <= kL1 ? kRows : 0;
    for (int64_t i = 0; i < n_; i += kRows) {
      T sums[kRows];
      for (int part = 0; part < kRows; part += L::size) {
        typename L::type s[L::size] = {};
        for (int64_t j = 0; j < stride_; j += L::size) {
          const auto factor = L::load(v + j);
#pragma GCC unroll 16
          for (int r = 0; r < L::size; ++r) s[r] += kernel.row(place(i, j), part + r) * factor;
        }
        L::store(sums + part, L::sums(s));
      }
      update_rows(i, sums);
      if (i >= behind) add_columns(i - behind, kernel);
    }
    if (behind) add_columns((n_ - 1) / kRows * kRows, kernel);
  }

  // column_sum += K'u, of kRows rows.
  template <typename Kernel>
  void add_columns(int64_t i, const Kernel kernel) {
    T* t = column_sum_.data();
    typename L::type u[kRows];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) u[r] = L::fill(u_[i + r]);
    for (int64_t j = 0; j < stride_; j += L::size) {
      auto total = L::load(t + j), more = L::fill(0);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; r += 2) {
        total += u[r] * kernel.row(place(i, j), r);
        more += u[r + 1] * kernel.row(place(i, j), r + 1);
      }
      L::store(t + j, total + more);
    }
  }

  int64_t place(int64_t i, int64_t j) const { return i * stride_ + j * kRows; }  // see tiles.h

  Settings settings_{};
  const T* source_ = nullptr;  // the cost, in rows of source_stride_
  int64_t source_stride_ = 0;
  bool rounds_ = false;  // sweeps read the rounded kernel
  bool holes_ = false;  // some padding stands between real columns
  T scale_ = 1;
  Momentum momentum_;
  std::vector<int64_t> rows_, columns_;
  int64_t n_ = 0, m_ = 0, stride_ = 0, num_iters_ = 0;
  T tau_a_ = 1, tau_b_ = 1;
  double mass_ = 0, error_ = 0;
  std::vector<T, Aligned<T>> cost_, kernel_, rounded_, f_, u_, a_, log_a_;
  std::vector<T, Aligned<T>> g_, log_v_, v_, b_, log_b_, real_, column_sum_, change_, base_;
};

}  // namespace
