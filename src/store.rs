//! Durable stores.
