//! The simulated GitHub and the guided run.
