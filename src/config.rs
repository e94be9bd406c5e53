//! The configuration: raw shapes in, checked settings out.
