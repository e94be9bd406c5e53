//! Observations become Prometheus metrics.
