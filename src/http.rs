//! The HTTP front: webhook, admin API, health and metrics.
