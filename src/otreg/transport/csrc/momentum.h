// Chebyshev's semi-iteration at a rate of convergence that is read off the errors.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

namespace {

// For a map with eigenvalues in [0, rate]: x += alpha step + beta change.
class Momentum {
 public:
  double alpha = 1, beta = 0;

  // Sets alpha and beta of the next sweep, given the error so far; true where the last change is to
  // be forgotten.
  bool next(double error) {
    bool afresh = false;
    if (all_sweeps_ > 0 && all_sweeps_ % kSweepsPerLook == 0) {
      if (last_error_ > 0) afresh = look(error);
      last_error_ = error;
    }
    ++all_sweeps_;
    const double rho = rate_ / (2 - rate_);
    omega_ = sweeps_ == 0 ? 1 : 1 / (1 - rho * rho * omega_ / (sweeps_ == 1 ? 2 : 4));
    ++sweeps_;
    alpha = omega_ * 2 / (2 - rate_);
    beta = omega_ - 1;
    return afresh;
  }

 private:
  static constexpr int kSweepsPerLook = 5;   // sweeps between two looks at the rate of convergence
  static constexpr double kFirstRate = 0.9;  // too much momentum at first costs less than too little
  static constexpr double kMaxRate = 0.999, kMaxRateFar = 0.98, kFar = 0.1;

  // Once omega has settled, a mode with eigenvalue l obeys z^2 - (1 + beta - alpha (1 - l)) z + beta
  // = 0, so a decay z = q slower than sqrt(beta) reveals l. Otherwise the momentum is enough or too
  // much, and is eased; where the error grew, it starts afresh.
  bool look(double error) {
    const double ratio = std::clamp(error / std::max(last_error_, 1e-300), 1e-6, 1e6);
    const double q = std::pow(ratio, 1.0 / kSweepsPerLook);
    const bool grew = q >= 1;
    if (grew) {
      rate_ = 1 - 2 * (1 - rate_);
      sweeps_ = 0;
    } else if (q > std::sqrt(beta)) {
      rate_ = std::max(rate_, 1 - (1 + beta - q - beta / q) / alpha);
    } else {
      rate_ = 1 - 1.5 * (1 - rate_);
    }
    rate_ = std::clamp(rate_, 0.0, error > kFar ? kMaxRateFar : kMaxRate);
    return grew;
  }

  double rate_ = kFirstRate, omega_ = 1, last_error_ = -1;
  int64_t sweeps_ = 0, all_sweeps_ = 0;  // since it started afresh; in all
};

}  // namespace
