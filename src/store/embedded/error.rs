//! Why a store does not open, in words for whoever starts it.

use std::path::PathBuf;

use thiserror::Error;

/// Why a store could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The path is something else.
    #[error("data_dir {} is not a directory: name another path", .0.display())]
    NotADirectory(PathBuf),
    /// The directory is missing and cannot be made.
    #[error("cannot create data_dir {}: {source}: create it for this user or name another path", path.display())]
    Create {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The directory, or a file in it, cannot be read and written.
    #[error("cannot use {}: {source}: data_dir must be readable and writable for this user", path.display())]
    Access {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process holds the directory.
    #[error("data_dir {} is in use by {holder}: stop it, or give each its own data_dir", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// `process <id>`, as far as known.
        holder: String,
    },
    /// A newer release wrote the database.
    #[error(
        "{} was written by a newer release (schema {found}, this one knows up to {known}): run that release, or move the file away to start empty",
        path.display()
    )]
    Newer {
        /// The database file.
        path: PathBuf,
        /// Its schema version.
        found: u32,
        /// The newest version that this release knows.
        known: usize,
    },
    /// The file system cannot hold a write-ahead log.
    #[error("{} cannot have a write-ahead log (journal mode stayed {mode}): use a local file system for data_dir", path.display())]
    NoLog {
        /// The database file.
        path: PathBuf,
        /// The mode that the file system allowed.
        mode: String,
    },
    /// The database does not open, though it is not damaged.
    #[error("cannot open {}: {source}", path.display())]
    Database {
        /// The database file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The system allows no more threads.
    #[error("cannot start a thread for the store: {0}")]
    Thread(std::io::Error),
}
