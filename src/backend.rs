//! The backends: one file each, one line here.
