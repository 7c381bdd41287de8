// Entropic transport, one problem after another (problem.h), several at a time where there are threads.
// A plain C interface, for torch's headers take minutes to compile.
#include <algorithm>
#include <atomic>
#include <cstdint>
#ifndef _OPENMP
#include <thread>
#endif
#include <vector>

#include "problem.h"
#include "vectors.h"

namespace {

template <typename T>
void solve(const T* cost, const T* a, const T* b, const T* g0, int64_t batch, int64_t n, int64_t m,
           const Settings& settings, int64_t num_threads, T* f, T* g, T* plan, T* rows, T* columns,
           int64_t* num_iters, T* error) {
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    const FlushToZero flush;
    Problem<T> problem;
    for (int64_t k; (k = next++) < batch;) {
      problem.load(cost + k * n * m, a + k * n, b + k * m, g0 + k * m, n, m, settings);
      problem.solve();
      problem.write(f + k * n, g + k * m, plan + k * n * m, rows + k * n, columns + k * m, n, m,
                    num_iters + k, error + k);
    }
  };
  const int64_t threads = std::min(num_threads, batch);
#ifdef _OPENMP  // torch's own threads, which would else spin beside ours
#pragma omp parallel num_threads(int(threads)) if (threads > 1)
  work();
#else
  std::vector<std::thread> helpers;
  for (int64_t t = 1; t < threads; ++t) helpers.emplace_back(work);
  work();
  for (auto& helper : helpers) helper.join();
#endif
}

}  // namespace

#define OTREG_SOLVE(name, T)                                                                     \
  extern "C" void name(const T* cost, const T* a, const T* b, const T* g0, int64_t batch,        \
                       int64_t n, int64_t m, double epsilon, double tau_a, double tau_b,         \
                       double tol, int64_t max_iter, int64_t num_threads, T* f, T* g, T* plan,   \
                       T* rows, T* columns, int64_t* num_iters, T* error) {                      \
    solve<T>(cost, a, b, g0, batch, n, m, Settings{epsilon, tau_a, tau_b, tol, max_iter},        \
             num_threads, f, g, plan, rows, columns, num_iters, error);                          \
  }
OTREG_SOLVE(otreg_sinkhorn_float32, float)
OTREG_SOLVE(otreg_sinkhorn_float64, double)
